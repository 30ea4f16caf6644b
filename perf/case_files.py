"""Drawn images, and images of the user's, written as files.

Knows NIfTI, PNG and the challenge's NPZ; knows no case and no timing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perf.synthetic import CT_SPACING
from runtime import Volume
from runtime.intensity import choose_window

__all__ = ["challenge_levels", "write_nifti", "write_npz", "write_png"]

_SOFT_TISSUE = (-160, 240)  # as the challenge prepared CT


def write_nifti(path: Path, array: NDArray[Any]) -> None:
    """Write voxels (I, J, K) with the spacing of a CT."""
    import nibabel

    affine = np.diag([-CT_SPACING[0], -CT_SPACING[1], CT_SPACING[2], 1.0])
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def write_png(path: Path, plane: NDArray[np.uint8]) -> None:
    """Write a plane (I, J) or (I, J, 3)."""
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(plane.swapaxes(0, 1))).save(path)  # (i, j) -> (row, column)


def write_npz(
    path: Path,
    levels: NDArray[np.uint8],
    boxes: Sequence[Sequence[float]],
    spacing: tuple[float, float, float] = CT_SPACING,
) -> None:
    """Write the challenge's layout: slices first, boxes of 6 (volume) or 4 (one slice) numbers.

    Parameters
    ----------
    path : Path
        The file.
    levels : ndarray of uint8, shape (I, J, K) or (I, J, 1, 3)
        The image.
    boxes : sequence of 4 or 6 numbers
        As a bundle understands them.
    spacing : tuple of 3 float
        Millimetres between voxels along i, j and k, written for a volume.
    """
    if len(boxes[0]) == 4:
        plane = levels[:, :, 0]
        np.savez_compressed(path, imgs=np.ascontiguousarray(plane.swapaxes(0, 1)), boxes=np.array(boxes))
    else:
        imgs = np.ascontiguousarray(levels.transpose(2, 1, 0))
        np.savez_compressed(path, imgs=imgs, boxes=np.array(boxes), spacing=np.array(spacing))


def challenge_levels(image: Volume | NDArray[Any]) -> NDArray[np.uint8]:
    """8 bits of an image: a drawn CT as the challenge windows one, a volume as lite-infer does, uint8 as it is."""
    if isinstance(image, Volume):
        window = choose_window(image, None)
        return np.asarray(image.array if window is None else window.apply(image.array), dtype=np.uint8)
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    lower, upper = _SOFT_TISSUE
    grey = (np.clip(image, lower, upper).astype(np.float32) - lower) / (upper - lower) * 255
    return np.asarray(grey, dtype=np.uint8)
