"""Prompts that a bundle wants beside those that the caller gives, made from them.

Follows ``docs/bundle-format.md``, section 6: the published systems draw some of these at random, here they are always
the same. Knows prompts in the input frame; knows no image and no manifest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["box_quarters", "box_stroke", "mask_boxes", "point_boxes", "stroke_points"]

_QUARTERS = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
_THICKNESS = 0.01
"""Half the thickness of a stroke over the height of its map: five rows of 256."""
_STROKE_POINTS = 6


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


def point_boxes(points: NDArray[np.float32], labels: NDArray[np.float32], side: float) -> NDArray[np.float32]:
    """Boxes (N, 4) of one side around the middle of the positive ones of points (N, P, 2), holding all of those."""
    positive = (labels > 0)[:, :, np.newaxis]
    low = np.where(positive, points, np.inf).min(axis=1)
    high = np.where(positive, points, -np.inf).max(axis=1)
    half = np.maximum((high - low) / 2, (side - 1) / 2)
    middle = (low + high) / 2
    return np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)


def mask_boxes(masks: NDArray[np.float32], margin: float = 2.0) -> NDArray[np.float32]:
    """Boxes (N, 4) around what logits (N, 1, h, w) over the input frame hold, grown; NaN around nothing."""
    boxes = np.full((len(masks), 4), np.nan, np.float32)
    for row, mask in enumerate(masks[:, 0] > 0):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            boxes[row] = columns[0] - margin, rows[0] - margin, columns[-1] + margin, rows[-1] + margin
    return boxes


def stroke_points(strokes: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Strokes (N, 1, h, w), 1 on the object and -1 beside it, as points (N, P, 2) in xy and labels (N, P).

    Each kind of stroke gives up to six points, each as far from those before it as the stroke allows.
    """
    points = np.zeros((len(strokes), 2 * _STROKE_POINTS, 2), np.float32)
    labels = np.full((len(strokes), 2 * _STROKE_POINTS), -1, np.float32)
    for row, stroke in enumerate(strokes[:, 0]):
        for kind, first in ((1, 0), (-1, _STROKE_POINTS)):
            chosen = _spread(np.argwhere(stroke == kind)[:, ::-1].astype(np.float64))
            points[row, first : first + len(chosen)] = chosen
            labels[row, first : first + len(chosen)] = max(kind, 0)
    return points, labels


def _spread(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Up to six of M pixels (M, 2): the one nearest to their mean, then always the farthest from those chosen."""
    if not len(pixels):
        return pixels
    distance = -((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1)
    chosen: list[int] = []
    while len(chosen) < _STROKE_POINTS and (not chosen or distance.max() > 0):
        chosen.append(int(distance.argmax()))
        near = ((pixels - pixels[chosen[-1]]) ** 2).sum(axis=1)
        distance = near if len(chosen) == 1 else np.minimum(distance, near)
    return pixels[chosen]
