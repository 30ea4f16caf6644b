"""From a header's axes to those of a `Volume`: which axes are space, which one counts volumes or colours.

Knows sizes, direction vectors and world conventions; knows no format and touches no file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io._reading import check_size, choose_volume, named
from runtime.io._source import FileSource
from runtime.io._voxels import Packing, Stored, read_voxels, scaled

__all__ = ["Bytes", "Grid", "data_beside", "read_grid", "world_affine"]

_ABSURD = 1e30
"""Numbers beyond this are damage; their squares would overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """Where the elements of the whole array lie; the fields are those of `Stored`."""

    data: Path
    packing: Packing
    dtype: np.dtype[Any]
    start: int = 0
    skip: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Axes of an array, fastest first.

    Attributes
    ----------
    sizes : tuple of int
    space : tuple of int
        The two or three axes that are space, ascending.
    colours : bool
        Whether the remaining axis may be one of colours (of 3 or 4 bytes).
    affine : ndarray of float64, shape (4, 4), or None
        Indices along ``space`` -> RAS mm.
    spacing : tuple of 3 float
        Millimetres along ``space``; 1.0 where unknown.
    notes : tuple of str
        What had to be guessed.
    """

    sizes: tuple[int, ...]
    space: tuple[int, ...]
    colours: bool
    affine: NDArray[np.float64] | None
    spacing: tuple[float, float, float]
    notes: tuple[str, ...] = ()


def read_grid(path: Path, grid: Grid, where: Bytes, *, volume: int | None, wanted: str) -> Volume:
    """Read one volume of an array whose header was understood.

    Parameters
    ----------
    path : Path
        What the user named.
    grid : Grid
        The axes.
    where : Bytes
        The elements.
    volume : int, optional
        Which one along the axis that is neither space nor colour.
    wanted : str
        What a complete file is, for messages.

    Raises
    ------
    ImageError
        If the axes make no image, a choice is needed, or the elements cannot be read.
    """
    sizes, dtype = grid.sizes, where.dtype
    check_size(path, sizes, 1)
    others = [axis for axis in range(len(sizes)) if axis not in grid.space and sizes[axis] > 1]
    if len(grid.space) not in (2, 3) or len(others) > 1:
        text = "x".join(map(str, sizes))
        msg = f"{path}: is {len(sizes)}-dimensional ({text}); wanted 2 or 3 axes of space and at most one other"
        raise ImageError(msg)
    shape = tuple(sizes[axis] for axis in (*grid.space, *others))
    if others and grid.colours and dtype == np.uint8 and sizes[others[0]] in (3, 4):
        if volume not in (None, 0):
            msg = f"{path}: holds one colour image, so there is no volume {volume}; leave volume out"
            raise ImageError(msg)
        stored = _stored(where, run=math.prod(sizes))
        array = read_voxels(path, stored, wanted).reshape(tuple(size for size in sizes if size > 1), order="F")
        kept = [axis for axis, size in enumerate(sizes) if size > 1]
        array = np.moveaxis(array, kept.index(others[0]), -1)[..., :3]
        array = array.reshape((*(sizes[axis] for axis in grid.space), *((1,) * (3 - len(grid.space))), 3))
    else:
        axis = others[0] if others else len(sizes)
        count = sizes[axis] if others else 1
        with named(path):
            index = choose_volume(count, volume, f"values at each voxel ({'x'.join(map(str, sizes))})")
        stored = _stored(
            where, run=math.prod(sizes[:axis]), blocks=math.prod(sizes[axis + 1 :]), count=count, index=index
        )
        flat = scaled(read_voxels(path, stored, wanted))
        array = flat.reshape((*shape[: len(grid.space)], *((1,) * (3 - len(grid.space)))), order="F")
    with named(path):
        return Volume(
            array,
            affine=grid.affine,
            spacing=grid.spacing,
            is_2d=len(grid.space) == 2,
            notes=grid.notes,
            source=FileSource(paths=tuple({path.resolve(), where.data.resolve()})),
        )


def _stored(where: Bytes, *, run: int, blocks: int = 1, count: int = 1, index: int = 0) -> Stored:
    return Stored(
        data=where.data,
        packing=where.packing,
        dtype=where.dtype,
        start=where.start,
        skip=where.skip,
        run=run,
        blocks=blocks,
        count=count,
        index=index,
    )


def world_affine(
    directions: NDArray[np.float64], origin: ArrayLike, flips: tuple[int, int] = (-1, -1)
) -> NDArray[np.float64]:
    """Affine of two or three axes.

    Parameters
    ----------
    directions : ndarray of float64, shape (2, 3) or (3, 3)
        One step for each axis, mm; a single slice is one millimetre thick along its normal.
    origin : array-like of 3 float
        Centre of the first voxel, mm.
    flips : tuple of 2 int
        Signs that turn the file's first two world axes towards right and anterior; (-1, -1) for LPS.

    Returns
    -------
    affine : ndarray of float64, shape (4, 4)
        Voxel index -> RAS mm.

    Raises
    ------
    ImageError
        If a number is not finite or absurd. The message does not name the file.
    """
    affine = np.eye(4)
    steps = np.array(directions, dtype=np.float64)
    affine[:3, : len(steps)] = steps.T
    affine[:3, 3] = origin
    if not (np.abs(affine) < _ABSURD).all():  # false for NaN as well
        msg = "its origin or its directions hold numbers that are not finite; repair the header"
        raise ImageError(msg)
    if len(steps) == 2:
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / (float(np.linalg.norm(normal)) or 1.0)
    affine[0] *= flips[0]
    affine[1] *= flips[1]
    return affine


def data_beside(path: Path, name: str) -> Path:
    """File of detached data, which must lie in the header's folder or below it.

    Raises
    ------
    ImageError
        If the name leads elsewhere, through ``..``, a drive or a link. The message does not repeat the name.
    """
    msg = f"{path}: its data file must lie in the folder of the header or below it; move it there and name it so"
    if not name or "\0" in name or "\\" in name or ":" in name:
        raise ImageError(msg)
    data = path.parent / name
    try:
        inside = data.resolve().is_relative_to(path.parent.resolve())
    except (OSError, RuntimeError, ValueError) as error:
        raise ImageError(msg) from error
    if Path(name).is_absolute() or ".." in Path(name).parts or not inside:
        raise ImageError(msg)
    return data
