"""lite-infer's own mode of propagation: each slice is prompted with what was found on the one before.

Knows one object's plan and the chain's settings. Must not know sessions, files or threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime._course import NO_CLICKS, Decode, Motion, ObjectPlan, SlicePrompt, Step, Xyxy
from runtime._cut import cut_to_boxes, shared_pixels
from runtime.errors import PromptError
from runtime.manifest import ChainSettings
from runtime.motion import moved_logits
from runtime.transforms import Frame
from runtime.types import Prediction

__all__ = ["Chain"]

_APART = 0.3
"""IoU of the boxes of two prompted slices under which the object is followed between them."""

_ARRIVED = 0.5
"""IoU of the box of what was followed with the one that was given there, from which it counts as the object."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The course of one object; each direction is a walk."""

    decode: Decode
    plan: ObjectPlan
    frame: Frame
    settings: ChainSettings
    motion: Motion | None = None

    def prompted(self) -> Iterator[Step]:
        anchors = self.plan.anchors
        if not anchors:
            msg = "an object without a prompt; give a box or a point"
            raise PromptError(msg)
        goal = None
        for low, high in zip(anchors, (*anchors[1:], *anchors[-1:]), strict=True):
            start = goal or self._anchored(low)
            yield start
            goal = self._anchored(high) if self._lie_apart(low, high) else None
            between = self._followed(start, goal) if goal else []
            yield from between or self._interpolated(low, high)

    def _anchored(self, index: int) -> Step:
        """A prompted slice."""
        prediction = self._decode(index, self.plan.boxes.get(index), None)
        is_outer = index in (self.plan.anchors[0], self.plan.anchors[-1])
        return Step(index, prediction, "empty" if is_outer and self._lost(prediction) else None)

    def _interpolated(self, low: int, high: int) -> Iterator[Step]:
        """The slices between two prompted ones, with a box between theirs on each."""
        for index in range(low + 1, high):
            yield Step(index, self._decode(index, self._box_between(index, low, high), None))

    def _lie_apart(self, low: int, high: int) -> bool:
        """Whether the object has gone so far between two prompted slices that it need not have gone straight."""
        return high - low > 1 and _overlap(self.plan.boxes[low], self.plan.boxes[high]) < _APART

    def _followed(self, one: Step, other: Step) -> list[Step]:
        """The slices between, as followed from the end from which it goes into the other one's box; none if neither."""
        ways: list[tuple[float, list[Step]]] = []
        for start, goal, direction in ((one, other, 1), (other, one, -1)):
            *steps, end = [start, *self._walk(start, direction, goal.slice_index)]
            if end.slice_index == goal.slice_index and end.stop is None and end.prediction.areas[0]:
                ways.append((_overlap(end.prediction.boxes[0], self.plan.boxes[goal.slice_index]), steps[1:]))
        arrived, found = max(ways, key=lambda way: way[0], default=(0.0, []))
        return sorted(found, key=lambda step: step.slice_index) if arrived >= _ARRIVED else []

    def walks(self, first: Step | None, last: Step | None) -> tuple[Iterator[Step], Iterator[Step]]:
        low, high = self.plan.extent
        return self._walk(last, 1, high), self._walk(first, -1, low)

    def _box_between(self, index: int, low: int, high: int) -> Xyxy:
        """Box of a slice between two prompted ones: linear in the slice index."""
        share = (index - low) / (high - low)
        ends = zip(self.plan.boxes[low], self.plan.boxes[high], strict=True)
        x0, y0, x1, y1 = (a + (b - a) * share for a, b in ends)
        return (x0, y0, x1, y1)

    def _walk(self, start: Step | None, direction: int, bound: int) -> Iterator[Step]:
        if start is None or self._lost(start.prediction):
            return
        previous = start.prediction
        box = self._next_box(previous, self.plan.boxes.get(start.slice_index))
        for index in range(start.slice_index + direction, bound + direction, direction):
            if box is None:
                return  # nothing was found on the prompted slice itself
            moved, logits = (0.0, 0.0), None
            if previous.areas[0]:
                moved = self.motion(index - direction, index, previous) if self.motion else moved
                box = self._inside(box, moved) or box
                logits = self._moved_logits(previous, moved) if self.settings.mask_prompt else None
            prediction = self._decode(index, box, logits, index - direction)
            stop = None if self.plan.known_extent else self._stop(previous, prediction, moved)
            yield Step(index, prediction, stop)
            if stop is not None:
                return
            box = self._next_box(prediction, box)
            previous = prediction

    def _lost(self, prediction: Prediction) -> bool:
        """Whether nothing is left to follow: an empty mask, where no extent says that the object goes on."""
        return not self.plan.known_extent and not prediction.areas[0]

    def _next_box(self, prediction: Prediction, fallback: Xyxy | None) -> Xyxy | None:
        """Tight box of the mask, grown; the box before it where the mask is empty."""
        if not prediction.areas[0]:
            return fallback
        margin = self.settings.margin_px
        x0, y0, x1, y1 = (float(value) for value in prediction.boxes[0])
        return self._inside((x0 - margin, y0 - margin, x1 + margin, y1 + margin)) or fallback

    def _inside(self, box: Xyxy, moved: tuple[float, float] = (0.0, 0.0)) -> Xyxy | None:
        """The part of a box, once it has moved, that is inside the limit or the slice; None where there is none."""
        height, width = self.frame.original_size
        lx0, ly0, lx1, ly1 = self.plan.limit or (0.0, 0.0, width - 1.0, height - 1.0)
        (x0, y0, x1, y1), (dx, dy) = box, moved
        cut = (max(x0 + dx, lx0), max(y0 + dy, ly0), min(x1 + dx, lx1), min(y1 + dy, ly1))
        return cut if cut[0] <= cut[2] and cut[1] <= cut[3] else None

    def _moved_logits(self, previous: Prediction, moved: tuple[float, float]) -> NDArray[np.float32]:
        """Low-res logits of the slice before, where the object is expected now."""
        logits = previous.low_res_logits[0]
        per_pixel = np.array(self.frame.scale_xy) * logits.shape[::-1] / self.frame.input_size[::-1]
        dx, dy = per_pixel * moved
        return moved_logits(logits, dx, dy)

    def _stop(self, previous: Prediction, current: Prediction, moved: tuple[float, float]) -> str | None:
        """Why the object ends before this slice, if it does."""
        area, before = int(current.areas[0]), int(previous.areas[0])
        if not area:
            return "empty"
        if current.scores[0] < self.settings.min_score:  # False for NaN: no score, no rule
            return "score"
        if max(area / before, before / area) > self.settings.max_area_ratio:
            return "area"
        shared = shared_pixels(previous, current, moved)
        if shared / (area + before - shared) < self.settings.min_overlap:
            return "overlap"
        return None

    def _decode(
        self, index: int, box: Xyxy | None, mask_logits: NDArray[np.float32] | None, neighbour: int | None = None
    ) -> Prediction:
        points, point_labels = self._clicks(index)
        prediction = self.decode(
            index,
            SlicePrompt(
                box=None if box is None else self.frame.boxes_to_input(np.array([box]))[0],
                points=points,
                point_labels=point_labels,
                mask_logits=mask_logits,
                neighbour=None if mask_logits is None else neighbour,
                image_box=None if box is None else np.array(box, np.float64),
                is_limit=mask_logits is None and box is not None and box == self.plan.limit,
            ),
        )
        return prediction if self.plan.limit is None else cut_to_boxes(prediction, [self.plan.limit])

    def _clicks(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Points of a slice in the input frame, and their labels."""
        if index not in self.plan.points:
            return NO_CLICKS
        clicks = np.array(self.plan.points[index], dtype=np.float64).reshape(-1, 3)
        return self.frame.points_to_input(clicks[:, :2]), clicks[:, 2].astype(np.float32)


def _overlap(one: Xyxy | NDArray[np.int64], other: Xyxy) -> float:
    """IoU of two boxes whose ends are both inclusive."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2]) + 1
    shared = float(np.prod(np.maximum(sides, 0)))
    areas = [float(np.prod(box[2:] - box[:2] + 1)) for box in (first, second)]
    return shared / (sum(areas) - shared)
