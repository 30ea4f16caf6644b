"""Arithmetic on samples and on label maps.

Knows numbers; knows no clock, process or file.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perf.records import Stat

__all__ = ["dice_by_label", "label_digest", "summarise", "voxels_by_label"]

_DIGITS = 6


def summarise(samples: Sequence[float]) -> Stat:
    """Median and range of at least one sample; the spread of few samples is honest as a range only."""
    if not samples:
        msg = "no samples: wanted at least one"
        raise ValueError(msg)
    values = tuple(round(float(value), _DIGITS) for value in samples)
    return Stat(round(statistics.median(values), _DIGITS), min(values), max(values), len(values), values)


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
