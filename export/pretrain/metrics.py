"""Dice, trivial baselines, means over cases and their bootstrap intervals.

Knows boolean masks and numbers; must not know models or files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_interval", "box_mask", "dice", "ellipse_mask", "mean_over_cases"]

_BOOTSTRAP_SEED = 20260101
_BOOTSTRAP_ROUNDS = 2000


def dice(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 when both are empty."""
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(target))
    return 1.0 if total == 0 else 2 * int(np.count_nonzero(predicted & target)) / total


def box_mask(shape: tuple[int, int], box: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The filled box (xyxy, both ends inclusive)."""
    x0, y0, x1, y1 = (int(v) for v in box)
    mask = np.zeros(shape, bool)
    mask[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
    return mask


def ellipse_mask(shape: tuple[int, int], box: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The ellipse inscribed in the box."""
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_x, half_y = (box[2] - box[0] + 1) / 2, (box[3] - box[1] + 1) / 2
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(((columns - centre_x) / half_x) ** 2 + ((rows - centre_y) / half_y) ** 2 <= 1, bool)


def mean_over_cases(values: dict[str, list[float]]) -> float:
    """Mean over objects within each case, then over cases."""
    return float(np.mean([np.mean(v) for v in values.values()])) if values else float("nan")


def bootstrap_interval(values: dict[str, list[float]]) -> tuple[float, float]:
    """95 % percentile interval of the mean over cases, cases drawn with replacement (fixed seed)."""
    if not values:
        return (float("nan"), float("nan"))
    means = np.array([np.mean(v) for v in values.values()])
    rng = np.random.default_rng(_BOOTSTRAP_SEED)
    drawn = means[rng.integers(0, len(means), (_BOOTSTRAP_ROUNDS, len(means)))].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return (float(low), float(high))
