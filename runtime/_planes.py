"""A 3-D box in doubt: followed through the slices of the other two planes as well, and the answers weighed.

A 3-D box says as much of one plane as of another, and what is ambiguous in one need not be in the others. Where there
are no others, the answers of several runs in one plane are weighed. Follows ``docs/bundle-format.md``, section 9. Knows
volumes, views, plans and answers; must not know sessions or graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import PlaneView, Volume, orientation, plane_view
from runtime.manifest import ChainSettings, LoopSettings
from runtime.prompts import PlannedObject
from runtime.segmentation import ObjectResult

__all__ = ["Answer", "in_doubt", "other_views", "weighed"]

_COARSER = 2.0
"""How many times as far apart voxels may lie along one side of an image as along the other."""

_LONGER = 4.0
"""How many times as long as wide an image may be: the encoder is shown it in a square."""


class Answer(NamedTuple):
    """What one run found of one object.

    Attributes
    ----------
    result : ObjectResult
        Masks and scores.
    slice_axis : int
        Voxel axis that the slices were stacked along.
    fill : float
        IoU of the rectangle that the masks span with that of the 3-D box; 1 where none was given.
    quality : float
        ``fill`` times the mean score of the slices.
    """

    result: ObjectResult
    slice_axis: int
    fill: float
    quality: float


def in_doubt(
    objects: Sequence[PlannedObject], answers: Sequence[Answer], settings: ChainSettings | LoopSettings
) -> list[int]:
    """Numbers of the objects that the other planes are to be asked about: 3-D boxes that no run has filled well."""
    if not isinstance(settings, ChainSettings) or not settings.other_planes:
        return []
    pairs = enumerate(zip(objects, answers, strict=True))
    return [number for number, (one, answer) in pairs if one.solid and answer.quality < settings.min_quality]


def other_views(volume: Volume, slice_axis: int) -> tuple[PlaneView, ...]:
    """Views of a volume's other two planes, or none where the images of either would be strips or much distorted."""
    axes = [axis for axis in range(3) if axis != slice_axis]
    for axis in axes:
        for values, most in ((volume.spacing, _COARSER), (volume.shape, _LONGER)):
            sides = [values[side] for side in range(3) if side != axis]
            if max(sides) > most * min(sides):
                return ()
    return tuple(plane_view(volume, axis) for axis in axes)


def weighed(answers: Sequence[Answer], volume: Volume) -> ObjectResult:
    """What most of the answers say, voxel by voxel.

    Parameters
    ----------
    answers : sequence of Answer
        Each counts with its fill times the score of the slice that the voxel is on.
    volume : Volume
        The image that all of them are of.

    Returns
    -------
    result : ObjectResult
        As the first answer's, with the voxels for which more than half of the weight speaks. Scores are those of the
        first answer's slices.
    """
    own = answers[0]
    corner, crop = _majority(_in_the_world(answers, volume))
    axis = own.slice_axis
    others = tuple(side for side in range(3) if side != axis)
    areas = dict(enumerate(np.count_nonzero(crop, axis=others).tolist(), corner[axis]))
    slices = tuple(replace(one, area=areas.get(one.slice_index, 0)) for one in own.result.slices)
    scores = [one.score for one in slices if one.area]
    score = float(np.mean(scores)) if scores else float("nan")
    return replace(own.result, score=score, slices=slices, corner=corner, crop=crop)


def _in_the_world(answers: Sequence[Answer], volume: Volume) -> list[Answer]:
    """The answers in an order that does not depend on how the file stores the volume."""
    worlds = [0, 1, 2] if volume.affine is None else [world for world, _ in orientation(volume.affine)]
    return sorted(answers, key=lambda one: worlds[one.slice_axis])


def _majority(answers: Sequence[Answer]) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
    """Corner and tight crop of the voxels for which more than half of the weight speaks."""
    found = [one.result for one in answers if one.result.crop.size]
    if not found:
        return (0, 0, 0), np.zeros((0, 0, 0), np.bool_)
    low = np.min([one.corner for one in found], axis=0)
    high = np.max([np.add(one.corner, one.crop.shape) for one in found], axis=0)
    voters = [(_placed(one.result, low, high), _weights(one, low, high)) for one in answers]
    chosen = np.zeros(high - low, np.bool_)
    for k in range(chosen.shape[2]):  # slice by slice, so that weights take the memory of one
        votes = [(mask[:, :, k], weights[:, :, k % weights.shape[2]]) for mask, weights in voters]
        chosen[:, :, k] = 2 * sum(weights * mask for mask, weights in votes) > sum(weights for _, weights in votes)
    return _tight(chosen, low)


def _placed(one: ObjectResult, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The mask of an object in the region between two corners."""
    mask = np.zeros(high - low, np.bool_)
    if one.crop.size:
        i, j, k = (slice(at, at + size) for at, size in zip(one.corner - low, one.crop.shape, strict=True))
        mask[i, j, k] = one.crop
    return mask


def _weights(one: Answer, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
    """What an answer counts on each of its slices, shape (n, 1, 1), (1, n, 1) or (1, 1, n)."""
    axis = one.slice_axis
    scores = {each.slice_index: each.score for each in one.result.slices}
    values = [one.fill * scores.get(index, 0.0) for index in range(int(low[axis]), int(high[axis]))]
    return np.array(values).reshape([-1 if side == axis else 1 for side in range(3)])


def _tight(mask: NDArray[np.bool_], low: NDArray[np.int64]) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
    """Corner and crop of what is set in a region that begins at ``low``."""
    if not mask.any():
        return (0, 0, 0), np.zeros((0, 0, 0), np.bool_)
    used = [np.flatnonzero(mask.any(axis=tuple(side for side in range(3) if side != axis))) for axis in range(3)]
    i, j, k = (int(first + at[0]) for first, at in zip(low, used, strict=True))
    u, v, w = (slice(int(at[0]), int(at[-1]) + 1) for at in used)
    return (i, j, k), mask[u, v, w].copy()
