"""Masks cut to rectangles of the image.

Knows predictions and kernels; knows no manifest and no propagation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from runtime import kernels
from runtime.types import Prediction

__all__ = ["cut_to_boxes"]


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
    candidates = np.zeros((count, *prediction.candidates.shape[1:]), np.bool_)
    tight = np.full((count, 4), -1, np.int64)
    areas = np.zeros(count, np.int64)
    for index, box in enumerate(boxes):
        x0, y0 = (max(0, math.floor(value + 0.5)) for value in box[:2])
        x1, y1 = (math.floor(value + 0.5) + 1 for value in box[2:])
        candidates[index, :, y0:y1, x0:x1] = prediction.candidates[0, :, y0:y1, x0:x1]
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
