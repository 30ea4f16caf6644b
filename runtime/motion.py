"""How far an object has moved from one slice to the next, in pixels of the slice.

A thin thing that runs obliquely leaves its own mask within a few slices, and a decoder that is shown that mask stays
where it was. What the mask covers is therefore looked for on the next slice first. Knows two images and a mask; must
not know models, propagation or volumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runtime import kernels
from runtime._kernel_arguments import contiguous, native_kernels

__all__ = ["Pixels", "displacement", "moved_logits"]

Pixels = Callable[[slice, slice], NDArray[np.uint8]]
"""Rows and columns of a slice as uint8, (h, w) or (h, w, 3); nothing else of it need be read or windowed."""

_PATCH = 48  # pixels a side of what is compared, whatever the object's size
_REACH = 2.0  # the patch is so many times as large as the object's longer side
_LEAST = 8.0  # ... and at least an eighth of the slice's longer side


def displacement(before: Pixels, now: Pixels, mask: NDArray[np.bool_], box: NDArray[np.int64]) -> tuple[float, float]:
    """Find where what a mask covers has gone.

    Parameters
    ----------
    before, now : callable
        The slice with the mask and the next one.
    mask : ndarray of bool, shape (H, W)
        Not empty.
    box : ndarray of int64, shape (4,)
        Tight box of the mask, xyxy, both ends inclusive.

    Returns
    -------
    dx, dy : float
        Pixels of the slice; 0 where nothing tells.

    Notes
    -----
    Translation by least squares of the grey levels, coarse to fine, with Huber's weights: B. D. Lucas and T. Kanade,
    "An iterative image registration technique with an application to stereo vision", IJCAI 1981.
    """
    x0, y0, x1, y1 = (int(value) for value in box)
    half = max(_REACH * max(x1 - x0 + 1, y1 - y0 + 1), max(mask.shape) / _LEAST) / 2
    rows, columns = (
        slice(max(math.floor(middle - half), 0), min(math.ceil(middle + half) + 1, side))
        for middle, side in (((y0 + y1) / 2, mask.shape[0]), ((x0 + x1) / 2, mask.shape[1]))
    )
    patches = [_shrunk(_grey(pixels(rows, columns))) for pixels in (before, now)]
    covered = _shrunk(mask[rows, columns].astype(np.uint8) * np.uint8(255)) > 127
    dx, dy = native_kernels().displacement(*patches, contiguous(covered))
    return dx * (columns.stop - columns.start) / _PATCH, dy * (rows.stop - rows.start) / _PATCH


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels if pixels.ndim == 2 else pixels.mean(axis=2).astype(np.uint8)


def _shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return kernels.resize_uint8(pixels, (_PATCH, _PATCH), interpolation="area")


def moved_logits(logits: NDArray[np.float32], dx: float, dy: float) -> NDArray[np.float32]:
    """Move a map (h, w) by whole pixels of its own; what comes in repeats the border."""
    right, down = round(dx), round(dy)
    if not right and not down:
        return logits
    height, width = logits.shape
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return logits[rows].take(columns, axis=1)
