"""One scene in the world, stored in any of the 48 ways that a file may order its axes.

All sides differ, all voxel sizes differ, no axis starts at 0: a test that mixes two of them up fails.
"""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import Volume

SHAPE = (7, 11, 5)
SPACING = (0.75, 1.25, 4.0)
RAS_AFFINE = np.array([[0.75, 0, 0, -12.5], [0, 1.25, 0, 31.0], [0, 0, 4.0, 7.25], [0, 0, 0, 1.0]])

Storage = tuple[tuple[int, int, int], tuple[bool, bool, bool]]
STORAGES: list[Storage] = list(product(permutations(range(3)), product((False, True), repeat=3)))
PLAIN: Storage = STORAGES[0]
"""As the scene itself: R, A, S."""


def storage_id(storage: Storage) -> str:
    order, flips = storage
    letters = (("R", "L"), ("A", "P"), ("S", "I"))
    return "".join(letters[world][flip] for world, flip in zip(order, flips, strict=True))


def stored(array: NDArray[Any], storage: Storage) -> NDArray[Any]:
    """Reorder a scene: voxel axis a runs along world axis ``order[a]``, backwards where flipped."""
    order, flips = storage
    turned = array.transpose((*order, *range(3, array.ndim)))
    return turned[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def affine_of(storage: Storage, shape: tuple[int, ...] = SHAPE, affine: NDArray[Any] = RAS_AFFINE) -> NDArray[Any]:
    """Affine that keeps every voxel of the scene where it was, of an array that was reordered by `stored`."""
    order, flips = storage
    to_scene = np.zeros((4, 4))
    to_scene[3, 3] = 1
    for axis, (world, flip) in enumerate(zip(order, flips, strict=True)):
        to_scene[world, axis] = -1 if flip else 1
        to_scene[world, 3] = shape[world] - 1 if flip else 0
    return affine @ to_scene


def volume_of(array: NDArray[Any], storage: Storage, affine: NDArray[Any] = RAS_AFFINE) -> Volume:
    """Scene (R, A, S order) -> the volume that a file of that storage would give."""
    shape = array.shape[:3]
    zooms = np.linalg.norm(affine[:3, :3], axis=0)[list(storage[0])]
    spacing = (float(zooms[0]), float(zooms[1]), float(zooms[2]))
    return Volume(stored(array, storage), affine=affine_of(storage, shape, affine), spacing=spacing)


def box_in(storage: Storage, box_ras: tuple[float, ...], shape: tuple[int, ...] = SHAPE) -> tuple[float, ...]:
    """3-D box of the scene (x0, y0, z0, x1, y1, z1 along R, A, S) -> the same box in a file's voxels."""
    order, flips = storage
    low, high = [], []
    for world, flip in zip(order, flips, strict=True):
        a, b = box_ras[world], box_ras[world + 3]
        a, b = (shape[world] - 1 - b, shape[world] - 1 - a) if flip else (a, b)
        low.append(a)
        high.append(b)
    return (*low, *high)


def scene(seed: int = 0, dtype: Any = np.int16) -> NDArray[Any]:
    """Voxels that are all different, in a random order."""
    count = int(np.prod(SHAPE))
    return np.random.default_rng(seed).permutation(count).reshape(SHAPE).astype(dtype)
