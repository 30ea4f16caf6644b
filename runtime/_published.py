"""The loops of systems' authors over the slices of a 3-D box.

Knows one object's plan and the loop's settings. Must not know sessions, files or threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from runtime._course import NO_CLICKS, Decode, ObjectPlan, SlicePrompt, Step
from runtime.errors import PromptError
from runtime.manifest import LoopSettings
from runtime.transforms import Frame, resized_label_box
from runtime.types import Prediction

__all__ = ["Published"]


class Published:
    """The loop of the system's authors; facts in the manifest, parity tested against their own runs."""

    def __init__(
        self, decode: Decode, plan: ObjectPlan, frame: Frame, settings: LoopSettings, orders: tuple[range, range]
    ) -> None:
        if plan.limit is None:
            msg = "the published propagation starts from a 3-D box; give six numbers x0,y0,z0,x1,y1,z1"
            raise PromptError(msg)
        self._decode = decode
        self._label = plan.label
        self._limit = np.array(plan.limit, np.float64)
        self._frame = frame
        self._settings = settings
        self._given = frame.boxes_to_input(self._limit[np.newaxis])[0]
        rounded = settings.fallback_down == "rounded"
        self._given_down = frame.boxes_to_input(self._limit[np.newaxis], rounded=rounded)[0]
        self._up, self._down = orders

    def prompted(self) -> Iterator[Step]:
        for index in self._up[:1]:
            yield self._step(index, self._given, None)

    def walks(self, first: Step | None, last: Step | None) -> tuple[Iterator[Step], Iterator[Step]]:
        del last  # the same
        start = None if first is None else first.prediction
        return self._walk(self._up[1:], start, self._given), self._walk(self._down, start, self._given_down)

    def _walk(self, order: range, previous: Prediction | None, fallback: NDArray[np.float32]) -> Iterator[Step]:
        for index in order:
            step = self._step(index, self._follow(previous, fallback), previous)
            previous = step.prediction
            yield step

    def _step(self, index: int, box: NDArray[np.float32], neighbour: Prediction | None) -> Step:
        return Step(index, self._decode(index, SlicePrompt(box, *NO_CLICKS, image_box=self._around(neighbour))))

    def _follow(self, neighbour: Prediction | None, fallback: NDArray[np.float32]) -> NDArray[np.float32]:
        if neighbour is None or not neighbour.areas[0]:
            return fallback
        if self._settings.box_from == "mask":
            tight: NDArray[np.float32] = self._frame.boxes_to_input(neighbour.boxes)[0]
            return tight
        settings = self._settings
        box = resized_label_box(neighbour.masks[0], self._label, settings.label_dtype, settings.margin_px, self._frame)
        return fallback if box is None else box

    def _around(self, neighbour: Prediction | None) -> NDArray[np.float64]:
        """Box in pixels of the view, where crops are cut."""
        if neighbour is None or not neighbour.areas[0]:
            return self._limit
        margin = self._settings.crop_margin_px
        height, width = self._frame.original_size
        low, high = neighbour.boxes[0, :2] - margin, neighbour.boxes[0, 2:] + margin
        return np.concatenate([np.maximum(low, 0), np.minimum(high, [width, height])]).astype(np.float64)
