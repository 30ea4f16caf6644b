"""Masks cut to rectangles of the image, and what two of them share.

Knows predictions and kernels; knows no manifest and no propagation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime import kernels
from runtime.types import Prediction

__all__ = ["cut_to_boxes", "shared_pixels"]


def cut_to_boxes(prediction: Prediction, boxes: Sequence[Sequence[float]]) -> Prediction:
    """Cut the masks of one prompt to each of N rectangles.

    Parameters
    ----------
    prediction : Prediction
        Of one prompt.
    boxes : sequence of N xyxy
        Pixels of the image, both ends inclusive; a pixel belongs to a box that holds its centre.

    Returns
    -------
    cut : Prediction
        Of N prompts: masks, tight boxes and areas within the rectangles, logits and scores as they are.
    """
    count = len(boxes)
    regions = [_region(box) for box in boxes]
    if count == 1 and prediction.candidates.shape[1] == 1 and _lies_within(prediction.boxes[0], regions[0]):
        return prediction
    candidates = np.zeros((count, *prediction.candidates.shape[1:]), np.bool_)
    tight = np.full((count, 4), -1, np.int64)
    areas = np.zeros(count, np.int64)
    for index, (rows, columns) in enumerate(regions):
        candidates[index, :, rows, columns] = prediction.candidates[0, :, rows, columns]
        found, areas[index] = kernels.mask_box(candidates[index, 0])
        tight[index] = found or tight[index]
    return replace(
        prediction,
        low_res_logits=prediction.low_res_logits.repeat(count, axis=0),
        masks=candidates[:, 0],
        scores=prediction.scores.repeat(count, axis=0),
        candidates=candidates,
        candidate_scores=prediction.candidate_scores.repeat(count, axis=0),
        boxes=tight,
        areas=areas,
    )


def shared_pixels(one: Prediction, other: Prediction, moved: tuple[float, float]) -> int:
    """Pixels that the masks of two predictions share, neither of which is empty, once the first has moved."""
    by = np.rint(moved).astype(np.int64)
    x0, y0 = np.maximum(one.boxes[0, :2] + by, other.boxes[0, :2])
    x1, y1 = np.minimum(one.boxes[0, 2:] + by, other.boxes[0, 2:]) + 1
    if x0 >= x1 or y0 >= y1:
        return 0
    moved_part = one.masks[0][y0 - by[1] : y1 - by[1], x0 - by[0] : x1 - by[0]]
    return int(np.count_nonzero(moved_part & other.masks[0][y0:y1, x0:x1]))


def _region(box: Sequence[float]) -> tuple[slice, slice]:
    """Rows and columns of the pixels whose centres a box holds."""
    x0, y0 = (max(0, math.floor(value + 0.5)) for value in box[:2])
    x1, y1 = (math.floor(value + 0.5) + 1 for value in box[2:])
    return slice(y0, y1), slice(x0, x1)


def _lies_within(tight: NDArray[np.int64], region: tuple[slice, slice]) -> bool:
    """Whether nothing of a mask with that tight box, -1 where it is empty, lies outside."""
    rows, columns = region
    x0, y0, x1, y1 = (int(value) for value in tight)
    return x0 < 0 or (columns.start <= x0 and x1 < columns.stop and rows.start <= y0 and y1 < rows.stop)
