"""Volumes of true masks and a decoder that finds what lies inside its box, to follow objects through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from published import manifest

from runtime.manifest import ChainSettings
from runtime.propagate import ObjectPlan, SlicePrompt, Step, propagate
from runtime.transforms import frame_of
from runtime.types import Prediction

SIZE = (60, 90)
FACTS = manifest({"prompts": {"box": {"rounding": "none"}, "mask": {"kind": "logits", "size": [256, 256]}}})
FRAME = frame_of(FACTS, SIZE)


def answer_of(mask: NDArray[np.bool_], score: float, logit: float = 0.0) -> Prediction:
    """What a decoder answers that found one mask; its logits are one number."""
    rows, columns = np.nonzero(mask)
    tight = [columns.min(), rows.min(), columns.max(), rows.max()] if rows.size else [-1] * 4
    scores = np.full(1, score, np.float32)
    return Prediction(
        low_res_logits=np.full((1, 2, 2), logit, np.float32),
        masks=mask[np.newaxis],
        scores=scores,
        candidates=mask[np.newaxis, np.newaxis],
        candidate_scores=scores[np.newaxis],
        boxes=np.array([tight]),
        areas=np.array([rows.size]),
    )


@dataclass
class Phantom:
    """A volume of true masks (slices, rows, columns) and the prompts that it was asked with."""

    truth: NDArray[np.bool_]
    scores: dict[int, float] = field(default_factory=dict)
    asked: list[tuple[int, SlicePrompt]] = field(default_factory=list)

    def decode(self, index: int, prompt: SlicePrompt) -> Prediction:
        self.asked.append((index, prompt))
        mask = self.truth[index].copy()
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box / np.float32(FRAME.scale_xy[0])
            rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
            mask &= (rows >= y0 - 0.01) & (rows <= y1 + 0.01) & (columns >= x0 - 0.01) & (columns <= x1 + 0.01)
        return answer_of(mask, self.scores.get(index, 0.9), float(index))

    @property
    def order(self) -> list[int]:
        return [index for index, _ in self.asked]

    def box(self, index: int) -> list[float]:
        """Box that a slice was asked with, in pixels of the image."""
        (prompt,) = (prompt for asked, prompt in self.asked if asked == index)
        assert prompt.box is not None
        return [round(float(value), 3) for value in prompt.box / np.float32(FRAME.scale_xy[0])]


def sphere(depth: int = 21, centre: tuple[float, float, float] = (10, 30, 45), radius: float = 8.3) -> Phantom:
    z, y, x = np.mgrid[0:depth, 0 : SIZE[0], 0 : SIZE[1]]
    return Phantom((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2)


def tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    return (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))


def run(phantom: Phantom, plan: ObjectPlan, **settings: Any) -> list[Step]:
    return list(propagate(phantom.decode, plan, FRAME, ChainSettings(**settings)))


def kept(steps: list[Step]) -> dict[int, NDArray[np.bool_]]:
    return {step.slice_index: step.prediction.masks[0] for step in steps if step.stop is None}


def stops(steps: list[Step]) -> dict[int, str]:
    return {step.slice_index: step.stop for step in steps if step.stop is not None}


def free(phantom: Phantom, *anchors: int, **changes: Any) -> ObjectPlan:
    """Flat boxes on some slices, the extent unknown."""
    boxes = {anchor: tight_box(phantom.truth[anchor]) for anchor in anchors}
    return ObjectPlan(1, boxes, extent=(0, len(phantom.truth) - 1), known_extent=False, **changes)


def disk(centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def stack(*areas: float, centre: tuple[float, float] = (30, 45)) -> Phantom:
    """Disks of given radii, one a slice; 0 is an empty slice."""
    empty = np.zeros(SIZE, np.bool_)
    return Phantom(np.stack([disk(centre, radius) if radius else empty for radius in areas]))


def solid(phantom: Phantom, box: tuple[float, float, float, float], extent: tuple[int, int]) -> ObjectPlan:
    return ObjectPlan(1, {sum(extent) // 2: box}, extent=extent, known_extent=True, limit=box)
