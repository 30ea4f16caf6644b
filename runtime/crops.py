"""What lies inside a box of an image, as a bundle's decoder or third graph reads it.

Follows ``docs/bundle-format.md``, section 6. Pure functions of pixels and boxes; knows no session and no backend.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime._resize import resize_bilinear_antialias_float
from runtime.manifest import Crop, Input, Normalise
from runtime.transforms import Frame, encoder_input

__all__ = ["crop_arrays"]


def crop_arrays(crop: Crop, pixels: NDArray[np.uint8], boxes: NDArray[Any]) -> NDArray[np.float32]:
    """Cut, resize and normalise what each of N boxes holds.

    Parameters
    ----------
    crop : Crop
        One of the bundle's ``prompts.crops``.
    pixels : ndarray of uint8, shape (H, W) or (H, W, 3)
        The image at its own size.
    boxes : ndarray, shape (N, 4)
        xyxy in image pixels.

    Returns
    -------
    crops : ndarray of float32, shape (N, 3, h, w)
        (h, w) is ``crop.size``; grey is repeated.
    """
    return np.concatenate([_crop(crop, pixels[_region(box, pixels.shape, crop.far_edge)]) for box in boxes])


def _region(box: NDArray[Any], shape: tuple[int, ...], far_edge: str) -> tuple[slice, slice]:
    """Rows and columns of a box, at least one of each."""
    slices = []
    for axis in (1, 0):  # y selects rows, x columns
        size, beyond = shape[1 - axis], far_edge == "inclusive"
        low = min(max(math.floor(box[axis] + 0.5), 0), size - 1)
        slices.append(slice(low, min(max(math.floor(box[axis + 2] + 0.5) + beyond, low + 1), size)))
    return slices[0], slices[1]


def _crop(crop: Crop, part: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Resize and normalise one part of an image, (h, w[, 3]) -> (1, 3, *crop.size)."""
    if crop.interpolation == "bilinear_antialias_float":
        return _normalised(resize_bilinear_antialias_float(part, crop.size), crop.normalise)
    spec = Input(
        size=crop.size, resize="stretch", interpolation=crop.interpolation, normalise=crop.normalise, pad="none"
    )
    return encoder_input(part, spec, Frame((part.shape[0], part.shape[1]), crop.size, crop.size, (1.0, 1.0)))


def _normalised(resized: NDArray[np.float32], spec: Normalise) -> NDArray[np.float32]:
    """Planes of a resized part, (h, w[, 3]) -> (1, 3, h, w)."""
    colour = resized if resized.ndim == 3 else np.repeat(resized[:, :, np.newaxis], 3, axis=2)
    levels = colour.astype(np.float64)
    if spec.kind == "scale":
        levels /= 255
    elif spec.kind == "min_max":
        low = levels.min()
        levels = (levels - low) / max(levels.max() - low, 1e-8)
    else:
        levels = (levels - np.array(spec.mean)) / np.array(spec.std)
    planes = np.moveaxis(levels, 2, 0)[np.newaxis]  # (h, w, 3) -> (1, 3, h, w)
    return np.ascontiguousarray(planes, dtype=np.float32)
