"""Carrying one object's mask from slice to slice.

A course of `Step`: the prompted slices, then two walks away from them, neither of which needs anything of the other. It
takes a decode callable and knows no session, no cache, no file and no thread. Two modes, as ``docs/bundle-format.md``
section 9 defines them: ``chain``, lite-infer's own, and ``published``, the loop of a system's authors. Everything here
happens in a `runtime.geometry.PlaneView`: slices are counted in its order and boxes are in pixels of its images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from runtime._chain import Chain
from runtime._course import NO_CLICKS, Course, Decode, Motion, ObjectPlan, SlicePrompt, Step
from runtime._cut import cut_to_boxes
from runtime._published import Published
from runtime.manifest import ChainSettings, LoopSettings
from runtime.transforms import Frame

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


def course_of(
    decode: Decode, plan: ObjectPlan, frame: Frame, settings: ChainSettings | LoopSettings, motion: Motion | None = None
) -> Course:
    """Choose how one object is followed; for what is given and raised see `propagate`."""
    if plan.every_slice:
        return _EverySlice(decode, plan)
    if isinstance(settings, LoopSettings):
        return Published(decode, plan, frame, settings, slice_orders(plan, settings))
    # The first mask inside a 3-D box may be of something else than the object: nothing is looked for where that goes.
    return Chain(decode, plan, frame, settings, None if plan.limit else motion)


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
            prediction = self.decode(index, SlicePrompt(None, *NO_CLICKS))
            yield Step(index, prediction if limit is None else cut_to_boxes(prediction, [limit]))
