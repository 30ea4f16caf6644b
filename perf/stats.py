"""Arithmetic on samples and on label maps.

Knows numbers; knows no clock, process or file.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perf.records import Stat

__all__ = ["Ratio", "dice_by_label", "label_digest", "packed_dice", "ratio_of_medians", "summarise", "voxels_by_label"]

_DIGITS = 6
_RESAMPLES = 4000
_SEED = 5
_FEWEST = 3
_BITS = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


class Ratio(NamedTuple):
    """A ratio of medians with its 95 % bootstrap interval, None where there are too few samples for one."""

    value: float
    interval: tuple[float, float] | None


def summarise(samples: Sequence[float]) -> Stat:
    """Median and range of at least one sample; the spread of few samples is honest as a range only."""
    if not samples:
        msg = "no samples: wanted at least one"
        raise ValueError(msg)
    values = tuple(round(float(value), _DIGITS) for value in samples)
    return Stat(round(statistics.median(values), _DIGITS), min(values), max(values), len(values), values)


def ratio_of_medians(one: Sequence[float], other: Sequence[float]) -> Ratio | None:
    """Median of one over median of the other; None where the other's is 0 or either has no samples.

    Notes
    -----
    The interval is the percentile bootstrap over both sets of samples, drawn apart (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13), with a fixed seed.
    """
    if not one or not other or statistics.median(other) == 0:
        return None
    value = statistics.median(one) / statistics.median(other)
    if min(len(one), len(other)) < _FEWEST:
        return Ratio(value, None)
    rng = np.random.default_rng(_SEED)
    above, below = (
        np.median(rng.choice(np.asarray(samples, dtype=np.float64), (_RESAMPLES, len(samples))), axis=1)
        for samples in (one, other)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanpercentile(above / below, (2.5, 97.5))
    return Ratio(value, (float(low), float(high)))


def dice_by_label(one: NDArray[Any], other: NDArray[Any]) -> dict[int, float]:
    """Dice of every label above 0 that either map has; the maps have one shape."""
    if one.shape != other.shape:
        msg = f"label maps of shapes {one.shape} and {other.shape}: wanted equal shapes"
        raise ValueError(msg)
    labelled = (one != 0) | (other != 0)
    first, second = one[labelled].astype(np.int64), other[labelled].astype(np.int64)
    size = int(max(first.max(initial=0), second.max(initial=0))) + 1
    count_first = np.bincount(first, minlength=size)
    count_second = np.bincount(second, minlength=size)
    shared = np.bincount(first[first == second], minlength=size)
    return {
        label: float(2 * shared[label] / (count_first[label] + count_second[label]))
        for label in range(1, size)
        if count_first[label] + count_second[label]
    }


def packed_dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Dice of masks packed eight pixels to a byte, (N, bytes) each; 1 where both are empty."""

    def count(masks: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.asarray(_BITS[masks].sum(axis=1), dtype=np.int64)

    total = count(one) + count(other)
    return np.where(total == 0, 1.0, 2 * count(one & other) / np.maximum(total, 1))


def voxels_by_label(label_map: NDArray[Any]) -> dict[str, int]:
    """Voxels of every label above 0 that occurs; keys are strings, as in JSON."""
    labels, counts = np.unique(label_map[label_map != 0], return_counts=True)
    return {str(int(label)): int(count) for label, count in zip(labels, counts, strict=True)}


def label_digest(label_map: NDArray[Any]) -> str:
    """sha256 of shape and labels, whatever dtype and memory order they are kept in."""
    digest = hashlib.sha256(f"{label_map.shape} ".encode())
    smallest = np.min_scalar_type(int(label_map.max(initial=0))).newbyteorder("<")
    digest.update(np.asarray(label_map, dtype=smallest, order="C").data)
    return digest.hexdigest()
