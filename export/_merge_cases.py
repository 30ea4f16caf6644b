"""Labelled cases that a search of a merge is scored on, and the two parts they are divided into.

Knows slices, boxes and true masks, and how well a predictor answers them. Must not know models or settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.pretrain.cases import Case, SliceObject, read_cases
from export.pretrain.metrics import dice
from export.pretrain.predictors import Predictor
from runtime.errors import PromptError

__all__ = ["Parts", "Plane", "ScoredCase", "read_parts", "score_cases", "score_tasks"]


@dataclass(frozen=True)
class Plane:
    """One image with the tight boxes and the true masks of its objects."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    targets: NDArray[np.bool_]


@dataclass(frozen=True)
class ScoredCase:
    """What of a case counts: a few planes. `task` is what its score belongs to."""

    name: str
    task: str
    planes: tuple[Plane, ...]


@dataclass(frozen=True)
class Parts:
    """Cases that the search sees, and cases that it never does."""

    search: tuple[ScoredCase, ...]
    held_out: tuple[ScoredCase, ...]

    @property
    def tasks(self) -> list[str]:
        """Tasks of the search, sorted."""
        return sorted({case.task for case in self.search})

    def digest(self) -> str:
        """One number for which cases and objects are in which part."""
        told = [(case.name, [plane.boxes.tolist() for plane in case.planes]) for case in (*self.search, *self.held_out)]
        return hashlib.sha256(repr((len(self.search), told)).encode()).hexdigest()


def read_parts(folder: Path, *, held_out: float, objects: int, seed: int) -> Parts:
    """Read a labelled folder and hold out a share of its cases, of every modality alike; the modality is the task.

    Of each case up to `objects` objects count, on as few slices as that takes; which ones is drawn by the seed, small
    objects left out. PromptError if too few cases remain for two parts, ImageError if the folder is unreadable.
    """
    random = np.random.default_rng(seed)
    cases = [_scored(case, objects, random) for case in read_cases(folder)]
    by_task: dict[str, list[ScoredCase]] = {}
    for case in (case for case in cases if case.planes):
        by_task.setdefault(case.task, []).append(case)
    search, kept = [], []
    for task in sorted(by_task):
        order = [by_task[task][index] for index in random.permutation(len(by_task[task]))]
        count = min(len(order) - 1, max(1, round(held_out * len(order))))
        kept += order[:count]
        search += order[count:]
    if not search or not kept:
        msg = f"{folder}: {len(search) + len(kept)} usable cases; wanted a modality with two or more, to hold one out"
        raise PromptError(msg)
    return Parts(tuple(search), tuple(kept))


def _scored(case: Case, objects: int, random: np.random.Generator) -> ScoredCase:
    by_plane: dict[tuple[int, tuple[float, float] | None], list[SliceObject]] = {}
    for item in case.objects:
        if not item.small:
            by_plane.setdefault((item.slice_index, item.window), []).append(item)
    groups = list(by_plane.values())
    planes: list[Plane] = []
    left = objects
    for index in random.permutation(len(groups)):
        chosen = groups[index][:left]
        if chosen:
            targets = np.stack([case.slice_mask(item) for item in chosen])
            planes.append(Plane(case.slice_image(chosen[0]), np.stack([item.box for item in chosen]), targets))
        left -= len(chosen)
    return ScoredCase(case.name, case.modality, tuple(planes))


def score_cases(predictor: Predictor, cases: Sequence[ScoredCase]) -> dict[str, float]:
    """Mean Dice of each case, by its name."""
    scores = {}
    for case in cases:
        found = []
        for plane in case.planes:
            masks = predictor.decode(predictor.encode(plane.image), plane.boxes).masks
            found += [dice(mask, target) for mask, target in zip(masks, plane.targets, strict=True)]
        scores[case.name] = float(np.mean(found))
    return scores


def score_tasks(scores: Mapping[str, float], cases: Sequence[ScoredCase]) -> dict[str, float]:
    """Mean over the cases of each task, tasks sorted."""
    by_task: dict[str, list[float]] = {}
    for case in cases:
        by_task.setdefault(case.task, []).append(scores[case.name])
    return {task: float(np.mean(by_task[task])) for task in sorted(by_task)}
