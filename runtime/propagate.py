"""Carrying one object's mask from slice to slice.

A course of `Step`: the prompted slices, then two walks away from them, neither of which needs anything of the other. It
takes a decode callable and knows no session, no cache, no file and no thread. Two modes, as ``docs/bundle-format.md``
section 9 defines them: ``chain``, lite-infer's own, and ``published``, the loop of a system's authors. Everything here
happens in a `runtime.geometry.PlaneView`: slices are counted in its order and boxes are in pixels of its images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime._cut import cut_to_boxes, shared_pixels
from runtime.errors import PromptError
from runtime.manifest import ChainSettings, LoopSettings
from runtime.motion import moved_logits
from runtime.transforms import Frame, resized_label_box
from runtime.types import Prediction

__all__ = [
    "Course",
    "Decode",
    "Motion",
    "ObjectPlan",
    "SlicePrompt",
    "Step",
    "course_of",
    "other_starts",
    "propagate",
    "slice_orders",
]

Xyxy = tuple[float, float, float, float]

_NO_CLICKS = np.zeros((0, 2), np.float32), np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class SlicePrompt:
    """What the decoder is asked on one slice, in the input frame.

    Attributes
    ----------
    box : ndarray of float32, shape (4,), or None
        xyxy in input-frame pixels, both ends inclusive.
    points : ndarray of float32, shape (P, 2)
        xy in input-frame pixels.
    point_labels : ndarray of float32, shape (P,)
        1 on the object, 0 beside it.
    mask_logits : ndarray of float32, shape (h, w), or None
        Low-res logits of a neighbouring slice.
    neighbour : int or None
        Position of that slice in the view.
    image_box : ndarray of float64, shape (4,), or None
        xyxy in pixels of the view: where a decoder looks that is shown what lies inside the box.
    """

    box: NDArray[np.float32] | None
    points: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    mask_logits: NDArray[np.float32] | None = None
    neighbour: int | None = None
    image_box: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """One object to segment: its prompts, placed in a view.

    Attributes
    ----------
    label : int
        Number of the object, from 1.
    boxes : mapping of int to xyxy
        Prompted slices and their boxes, in pixels of the view, both ends inclusive.
    points : mapping of int to tuple of (x, y, label)
        Clicks by slice.
    extent : tuple of 2 int, or None
        First and last slice of the object, both included; None where it is unknown.
    known_extent : bool
        True where the object is known to fill ``extent``; False where ``extent`` only limits propagation.
    limit : xyxy or None
        Rectangle that neither a box nor a mask may leave.
    every_slice : bool
        True where every slice of ``extent`` is decoded on its own and without a prompt, for bundles that find the
        object themselves.
    """

    label: int
    boxes: Mapping[int, Xyxy]
    points: Mapping[int, tuple[tuple[float, float, float], ...]] = field(default_factory=dict)
    extent: tuple[int, int] = (0, 0)
    known_extent: bool = True
    limit: Xyxy | None = None
    every_slice: bool = False

    @property
    def anchors(self) -> tuple[int, ...]:
        """Slices to start from, ascending: those with a box, or the first one with points."""
        return tuple(sorted(self.boxes)) or tuple(sorted(self.points))[:1]


class Step(NamedTuple):
    """One decoded slice: where, what, and why propagation stopped there (None: it did not)."""

    slice_index: int
    prediction: Prediction
    stop: str | None = None


Decode = Callable[[int, SlicePrompt], Prediction]
"""Decodes one prompt on one slice, given the slice's position in the view."""

Motion = Callable[[int, int, Prediction], tuple[float, float]]
"""How far, in pixels of the view, what a mask covers has moved from one slice to another, given their positions."""


class Course(Protocol):
    """One object slice by slice, in parts. Each slice is decoded once."""

    def prompted(self) -> Iterator[Step]:
        """Decode the slices that are prompted, and those between them."""

    def walks(self, first: Step | None, last: Step | None) -> tuple[Iterator[Step], Iterator[Step]]:
        """Go on from the first and the last of those: two iterators that may be used at once, by two threads."""


def course_of(
    decode: Decode, plan: ObjectPlan, frame: Frame, settings: ChainSettings | LoopSettings, motion: Motion | None = None
) -> Course:
    """Choose how one object is followed; for what is given and raised see `propagate`."""
    if plan.every_slice:
        return _EverySlice(decode, plan)
    if isinstance(settings, LoopSettings):
        return _Published(decode, plan, frame, settings)
    # The first mask inside a 3-D box may be of something else than the object: nothing is looked for where that goes.
    return _Chain(decode, plan, frame, settings, None if plan.limit else motion)


def propagate(
    decode: Decode, plan: ObjectPlan, frame: Frame, settings: ChainSettings | LoopSettings, motion: Motion | None = None
) -> Iterator[Step]:
    """Segment one object slice by slice, one after another.

    Parameters
    ----------
    decode : callable
        ``decode(slice_index, SlicePrompt) -> Prediction`` for one prompt (N = 1).
    plan : ObjectPlan
        The object's prompts and extent.
    frame : Frame
        Where the slices lie in the input frame; the same for all.
    settings : ChainSettings or LoopSettings
        The mode and its parameters.
    motion : callable, optional
        ``motion(before, now, prediction) -> (dx, dy)``: where to look for what was found on the slice before. Without
        it, and in ``published`` mode, where it was.

    Yields
    ------
    step : Step
        In the order of decoding, each slice once. A step with a stop reason lies beyond the object; it is
        the last of its direction.

    Raises
    ------
    PromptError
        If the published loop is asked for without a 3-D box.
    """
    course = course_of(decode, plan, frame, settings, motion)
    first = last = None
    for last in course.prompted():
        first = first or last
        yield last
    for walk in course.walks(first, last):
        yield from walk


def slice_orders(plan: ObjectPlan, settings: ChainSettings | LoopSettings) -> tuple[range, range]:
    """Slices in the order in which they are asked for unless something stops it: prompted and up, then down."""
    low, high = plan.extent
    if plan.every_slice:
        middle = (low + high) // 2
        return range(low, middle + 1), range(middle + 1, high + 1)
    if isinstance(settings, LoopSettings):
        first = (low + high) // 2
        low += settings.first_slice != "included"
        high -= settings.last_slice != "included"
    else:
        first = min(plan.anchors, default=low)
    return range(first, high + 1), range(first - 1, low - 1, -1)


def other_starts(plan: ObjectPlan, starts: int) -> list[ObjectPlan]:
    """Plans of a 3-D box that start on other slices than its middle; none for any other prompt."""
    if plan.limit is None or plan.every_slice or tuple(plan.boxes.values()) != (plan.limit,):
        return []
    low, high = plan.extent
    parts = [part / (starts + 1) for part in range(1, starts + 1) if 2 * part != starts + 1]
    places = {low + round((high - low) * part) for part in parts}
    return [replace(plan, boxes={place: plan.limit}) for place in sorted(places - set(plan.boxes))]


@dataclass(frozen=True, slots=True)
class _Chain:
    """lite-infer's own mode."""

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
        for low, high in zip(anchors, (*anchors[1:], *anchors[-1:]), strict=True):
            for index in range(low, max(high, low + 1)):
                step = Step(index, self._decode(index, self._anchor_box(index, low, high), None))
                if index in (anchors[0], anchors[-1]) and self._lost(step.prediction):
                    step = step._replace(stop="empty")
                yield step

    def walks(self, first: Step | None, last: Step | None) -> tuple[Iterator[Step], Iterator[Step]]:
        return self._walk(last, 1), self._walk(first, -1)

    def _anchor_box(self, index: int, low: int, high: int) -> Xyxy | None:
        """Box of a slice between two prompted ones: linear in the slice index."""
        if not self.plan.boxes:
            return None
        share = (index - low) / (high - low) if high > low else 0.0
        ends = zip(self.plan.boxes[low], self.plan.boxes[high], strict=True)
        x0, y0, x1, y1 = (a + (b - a) * share for a, b in ends)
        return (x0, y0, x1, y1)

    def _walk(self, start: Step | None, direction: int) -> Iterator[Step]:
        if start is None or self._lost(start.prediction):
            return
        previous = start.prediction
        box = self._next_box(previous, self.plan.boxes.get(start.slice_index))
        bound = self.plan.extent[1] if direction > 0 else self.plan.extent[0]
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
            ),
        )
        return prediction if self.plan.limit is None else cut_to_boxes(prediction, [self.plan.limit])

    def _clicks(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Points of a slice in the input frame, and their labels."""
        if index not in self.plan.points:
            return _NO_CLICKS
        clicks = np.array(self.plan.points[index], dtype=np.float64).reshape(-1, 3)
        return self.frame.points_to_input(clicks[:, :2]), clicks[:, 2].astype(np.float32)


@dataclass(frozen=True, slots=True)
class _EverySlice:
    """Each slice without a prompt and without its neighbours, for bundles that find the object themselves."""

    decode: Decode
    plan: ObjectPlan

    def prompted(self) -> Iterator[Step]:
        return iter(())

    def walks(self, first: Step | None, last: Step | None) -> tuple[Iterator[Step], Iterator[Step]]:
        del first, last  # there are none
        low, high = self.plan.extent
        middle = (low + high) // 2
        return self._slices(range(low, middle + 1)), self._slices(range(middle + 1, high + 1))

    def _slices(self, order: range) -> Iterator[Step]:
        limit = self.plan.limit
        for index in order:
            prediction = self.decode(index, SlicePrompt(None, *_NO_CLICKS))
            yield Step(index, prediction if limit is None else cut_to_boxes(prediction, [limit]))


class _Published:
    """The loop of the system's authors; facts in the manifest, parity tested against their own runs."""

    def __init__(self, decode: Decode, plan: ObjectPlan, frame: Frame, settings: LoopSettings) -> None:
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
        self._up, self._down = slice_orders(plan, settings)

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
        return Step(index, self._decode(index, SlicePrompt(box, *_NO_CLICKS, image_box=self._around(neighbour))))

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
