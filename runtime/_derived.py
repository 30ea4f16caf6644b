"""Prompts that a bundle wants beside the box, made from the box where the caller gives none.

Follows ``docs/bundle-format.md``, section 6: the published systems draw these at random, here they are always the same.
Knows boxes in the input frame; knows no image and no manifest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["box_quarters", "box_stroke"]

_QUARTERS = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
_THICKNESS = 0.01
"""Half the thickness of a stroke over the height of its map: five rows of 256."""


def box_quarters(boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres of the four quarters of boxes (N, 4): points (N, 4, 2) in xy, row by row, and their labels 1 (N, 4)."""
    low, high = boxes[:, np.newaxis, :2].astype(np.float64), boxes[:, np.newaxis, 2:].astype(np.float64)
    points = (low + (high - low) * _QUARTERS).astype(np.float32)
    return points, np.ones(points.shape[:2], np.float32)


def box_stroke(boxes: NDArray[np.float32], size: tuple[int, int], input_size: tuple[int, int]) -> NDArray[np.float32]:
    """Horizontal strokes through the middle half of boxes (N, 4) of the input frame: 0/1 maps (N, 1, *size).

    A stroke has at least one pixel and leaves the box in neither direction.
    """
    factor = np.array([size[1] / input_size[1], size[0] / input_size[0]] * 2)
    x0, y0, x1, y1 = ((boxes.astype(np.float64) + 0.5) * factor - 0.5).T[:, :, np.newaxis]  # (N, 1) each
    across = np.maximum((x1 - x0) / 4, 0.5)
    along = np.maximum(np.minimum((y1 - y0) / 2, _THICKNESS * size[0]), 0.5)
    columns = np.abs(np.arange(size[1]) - (x0 + x1) / 2) <= across  # (N, w)
    rows = np.abs(np.arange(size[0]) - (y0 + y1) / 2) <= along
    strokes: NDArray[np.bool_] = rows[:, np.newaxis, :, np.newaxis] & columns[:, np.newaxis, np.newaxis, :]
    return strokes.astype(np.float32)
