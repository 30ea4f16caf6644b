"""Resizing of uint8 images as the published systems do it, where the compiled kernels do not.

Follows ``docs/bundle-format.md``, section 4. Bit-exact with the libraries named there; knows arrays only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "enlarge_lanczos",
    "resize_bicubic_antialias",
    "resize_bilinear",
    "resize_bilinear_antialias",
    "resize_bilinear_antialias_float",
]

_WEIGHT_LIMIT = 1 << 15
_MAX_WEIGHT_BITS = 22


def resize_bilinear(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Interpolate between the two nearest pixels a side, without anti-aliasing, in fixed point.

    What PyTorch computes for ``interpolate(uint8, mode="bilinear", align_corners=False)``: columns first, then
    rows, rounded to uint8 in between, with 16-bit weights.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W) or (H, W, C)
        The image.
    size : tuple of 2 int
        Rows and columns of the result.

    Returns
    -------
    resized : ndarray of uint8, shape (*size,) or (*size, C)
        A new array, or ``image`` itself where it has that size.
    """
    if image.shape[:2] == size:
        return image
    columns = _between_neighbours(image.swapaxes(0, 1), size[1]).swapaxes(0, 1)
    return _between_neighbours(columns, size[0])


def _between_neighbours(image: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """Resize the first axis."""
    old = image.shape[0]
    place = np.maximum((np.arange(rows) + 0.5) * (old / rows) - 0.5, 0.0)
    low = np.minimum(place.astype(np.int64), old - 1)
    share = place - low
    largest = max(float(share.max()), float((1 - share).max()))
    bits = 0  # as many as keep the largest weight below 2**15
    while bits < _MAX_WEIGHT_BITS and int(0.5 + largest * (1 << (bits + 1))) < _WEIGHT_LIMIT:
        bits += 1
    column = (-1,) + (1,) * (image.ndim - 1)
    below = np.floor((1 - share) * (1 << bits) + 0.5).astype(np.int64).reshape(column)
    above = np.floor(share * (1 << bits) + 0.5).astype(np.int64).reshape(column)
    wide = image.astype(np.int64)
    mixed = wide[low] * below + wide[np.minimum(low + 1, old - 1)] * above + (1 << bits >> 1)
    levels: NDArray[np.uint8] = np.clip(mixed >> bits, 0, 255).astype(np.uint8)
    return levels


def resize_bilinear_antialias(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Average with a triangle as wide as the reduction: Pillow's ``BILINEAR``; arguments as `resize_bilinear`."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_bilinear_antialias_float(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Average with a triangle as wide as the reduction, without rounding; arguments as `resize_bilinear`.

    What PyTorch computes for ``interpolate(float32, mode="bilinear", antialias=True)``, by way of Pillow's 32-bit mode.
    """
    from PIL import Image

    planes = image[:, :, np.newaxis] if image.ndim == 2 else image
    resized = np.empty((*size, planes.shape[2]), np.float32)
    for channel in range(planes.shape[2]):
        picture = Image.fromarray(np.ascontiguousarray(planes[:, :, channel], dtype=np.float32))
        resized[:, :, channel] = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return resized[:, :, 0] if image.ndim == 2 else resized


def enlarge_lanczos(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Enlarge by a windowed sinc over six pixels a side: Pillow's ``LANCZOS``; arguments as `resize_bilinear`.

    An image of which no side grows is returned as it is.
    """
    if image.shape[0] >= size[0] and image.shape[1] >= size[1]:
        return image
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def resize_bicubic_antialias(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Blur by the reduction, then a cubic spline through the pixels; clipped and truncated.

    What scikit-image computes for ``resize(order=3, preserve_range=True, anti_aliasing=True).astype(uint8)``. Both
    steps are linear along each axis, so each axis is one matrix. Arguments as `resize_bilinear`; always a new array.
    """
    vertical, horizontal = (_spline_matrix(old, new) for old, new in zip(image.shape[:2], size, strict=True))
    mixed = np.tensordot(vertical, image.astype(np.float64), axes=(1, 0))
    mixed = np.moveaxis(np.tensordot(horizontal, mixed, axes=(1, 1)), 0, 1)  # (W', H', ...) -> (H', W', ...)
    return np.clip(mixed, image.min(), image.max()).astype(np.uint8)


def _mirrored(index: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices beyond the ends, reflected about the first and the last pixel."""
    if size == 1:
        return np.zeros_like(index)
    wrapped = index % (2 * size - 2)
    return np.where(wrapped < size, wrapped, 2 * size - 2 - wrapped)


def _banded(columns: NDArray[np.int64], weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Matrix with ``weights`` (rows, taps) at the mirrored ``columns``."""
    matrix = np.zeros((len(weights), size))
    rows = np.broadcast_to(np.arange(len(weights))[:, np.newaxis], weights.shape)
    np.add.at(matrix, (rows, _mirrored(columns, size)), weights)
    return matrix


def _spline_matrix(old: int, new: int) -> NDArray[np.float64]:
    """Gaussian blur, cubic B-spline coefficients and their evaluation at the new pixel centres, as one matrix."""
    every = np.arange(old)[:, np.newaxis]
    taps = np.array([-1, 0, 1])
    coefficients = np.linalg.inv(_banded(every + taps, np.tile([1 / 6, 4 / 6, 1 / 6], (old, 1)), old))
    place = ((np.arange(new) + 0.5) * old / new - 0.5)[:, np.newaxis]
    nearest = np.floor(place).astype(np.int64) + np.array([-1, 0, 1, 2])
    distance = np.abs(place - nearest)
    near = 2 / 3 - distance**2 + distance**3 / 2
    values = np.where(distance < 1, near, np.maximum(2 - distance, 0) ** 3 / 6)
    matrix = _banded(nearest, values, old) @ coefficients
    sigma = max(0.0, (old / new - 1) / 2)
    if sigma == 0:
        return matrix
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    bell = np.exp(-0.5 * (offsets / sigma) ** 2)
    blur = _banded(every + offsets, np.tile(bell / math.fsum(bell), (old, 1)), old)
    return np.asarray(matrix @ blur)
