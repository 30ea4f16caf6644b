"""One call of `Session.segment`: slices through encoder, cache and decoder, masks back into file order.

Knows views, windows and propagation, and a session only as two callables; holds the state of one call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime._ahead import Ahead
from runtime._lanes import Lanes
from runtime._planes import Answer, in_doubt, other_views, weighed
from runtime.errors import Cancelled, ImageError
from runtime.geometry import PlaneView, Volume
from runtime.intensity import Window
from runtime.manifest import ChainSettings, LoopSettings
from runtime.motion import displacement
from runtime.prompts import PlannedObject
from runtime.propagate import ObjectPlan, SlicePrompt, Step, course_of, other_starts, slice_orders
from runtime.segmentation import ObjectResult
from runtime.transforms import Frame
from runtime.types import Embedding, Prediction, SliceResult

__all__ = ["Progress", "VolumeRun"]

_TIMINGS = ("window_ms", "encode_ms", "decode_ms", "slices_encoded", "slices_cached", "prompts_decoded")

_KEPT_BYTES = 64 << 20
"""Embeddings that a run keeps for its next objects: about 100 slices of the default bundle."""

_ALL = slice(None)

_WORTH_A_GUESS = 8.0
"""Where propagation may stop at any slice, the next one is encoded ahead if that takes at most so many decodes: what a
wrong guess costs has to be won back by the slices before it."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One decoded slice, told to the progress callback.

    Attributes
    ----------
    name : str
        The object; two may be followed at once, so that they take turns.
    slice_index : int
        The slice, in file order.
    slice_axis : int
        Voxel axis that it is a slice along; another one than asked for while a 3-D box in doubt is tried.
    done : int
        Slices decoded so far, over all objects.
    total : int or None
        Slices to decode at most; None where propagation decides.
    """

    name: str
    slice_index: int
    slice_axis: int
    done: int
    total: int | None


_Piece = tuple[NDArray[np.int64], NDArray[np.bool_]]  # box of a mask in the view, and the mask inside it


class _Found(NamedTuple):
    """One decoded slice, and its mask where there is one."""

    position: int
    result: SliceResult
    piece: _Piece | None


@dataclass(frozen=True, slots=True)
class _Followed:
    """What propagation found of one object."""

    plan: ObjectPlan
    is_trial: bool = False  # from another slice, or in another plane, than was asked for: no progress
    slices: list[SliceResult] = field(default_factory=list)
    kept: dict[int, _Piece] = field(default_factory=dict)

    @property
    def fill(self) -> float:
        """IoU of the rectangle that the masks span with that of the 3-D box; 1 where none was given."""
        limit = self.plan.limit
        if limit is None:
            return 1.0
        if not self.kept:
            return 0.0
        boxes = np.stack([box for box, _ in self.kept.values()])
        low = np.maximum(boxes[:, :2].min(axis=0), limit[:2])
        high = np.minimum(boxes[:, 2:].max(axis=0), limit[2:])
        sides = np.array(limit[2:]) - limit[:2] + 1
        return float(np.prod(np.maximum(high - low + 1, 0)) / np.prod(sides))  # masks are cut to the box

    @property
    def quality(self) -> float:
        """What tells a good run from a bad one without knowing the truth."""
        return self.fill * float(np.mean([one.score for one in self.slices]))


class _Slice(NamedTuple):
    """A slice as the decoder needs it: its embedding, None where it has one intensity; and where that came from."""

    embedding: Embedding | None
    cached: bool

    @property
    def nbytes(self) -> int:
        return 0 if self.embedding is None else self.embedding.nbytes


class _Route(NamedTuple):
    """The slice that is probably decoded after each slice, and whether it surely is."""

    following: dict[int, int]
    is_sure: bool


@dataclass(slots=True)
class VolumeRun:
    """State of one segmentation: what is asked, and the clocks.

    With two workers two walks are under way at once, as a rule those up and down from an object's prompt. While there
    is only one, the next slice is encoded while one is decoded. Callbacks are called on the caller's thread.

    Attributes
    ----------
    encode : callable
        uint8 image in the view -> (Embedding, whether it came from the cache).
    decode : callable
        (Embedding, SlicePrompt, number of the object from 0, Embedding of the slice that the prompt's mask is from or
        None) -> Prediction for one prompt.
    sees_neighbours : bool
        Whether the decoder reads the embedding of the slice that a mask is from.
    frame_of : callable
        (rows, columns) of a slice -> where it lies in the input frame.
    blank : callable
        Frame -> the answer on a slice of one intensity, where there is nothing to find.
    is_trial : bool
        Whether the slices are of another plane than was asked for, so that they are no progress.
    done : int
        Slices decoded so far that are progress, those before a trial included.
    workers : int
        How many slices are worked on at once, 1 or 2.
    """

    volume: Volume
    view: PlaneView
    frame_of: Callable[[tuple[int, int]], Frame]
    window: Window | None
    encode: Callable[[NDArray[np.uint8]], tuple[Embedding, bool]]
    decode: Callable[[Embedding, SlicePrompt, int, Embedding | None], Prediction]
    blank: Callable[[Frame], Prediction]
    settings: ChainSettings | LoopSettings
    sees_neighbours: bool = False
    is_trial: bool = False
    workers: int = 1
    progress: Callable[[Progress], None] | None = None
    cancel: Callable[[], bool] | None = None
    timings: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_TIMINGS, 0.0))
    done: int = 0
    _slices: Ahead[_Slice] = field(init=False)
    _lanes: Lanes[_Found] = field(init=False)
    _frame: Frame = field(init=False)
    _blank: Prediction = field(init=False)
    _used: set[int] = field(init=False, default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _caller: int = field(default_factory=threading.get_ident)
    _encode_ms: float = 0.0
    _decode_ms: float = 0.0

    def __post_init__(self) -> None:
        """Begin without a slice."""
        self._slices = Ahead(self._encoded, lambda one: one.nbytes, _KEPT_BYTES)
        self._lanes = Lanes(self.workers)
        self._frame = self.frame_of(self.view.shape[:2])
        self._blank = self.blank(self._frame)

    def pixels(self, position: int, rows: slice = _ALL, columns: slice = _ALL) -> NDArray[np.uint8]:
        """Windowed slice at a position of the view, or a part of it."""
        image = self.view.image(self.volume.array, position)[rows, columns]
        return image if self.window is None else self.window.apply(image)

    def _encoded(self, position: int) -> _Slice:
        """One slice through the encoder, or out of the cache; on any thread."""
        pixels = self.pixels(position)
        if pixels.min() == pixels.max():
            return _Slice(None, cached=False)
        started = time.perf_counter()
        found = _Slice(*self.encode(pixels))
        self._encode_ms = (time.perf_counter() - started) * 1e3
        return found

    def _slice(self, position: int) -> Embedding | None:
        """Embedding of a slice; None for a blank one."""
        started = time.perf_counter()
        found = self._slices.get(position)
        with self._lock:
            self.timings["encode_ms"] += (time.perf_counter() - started) * 1e3
            if found.embedding is not None:
                again = found.cached or position in self._used
                self.timings["slices_cached" if again else "slices_encoded"] += 1
                self._used.add(position)
        return found.embedding

    def decode_slice(self, number: int, route: _Route, position: int, prompt: SlicePrompt) -> Prediction:
        """Decode one prompt of an object on one slice; for one object, the callable that propagation is given."""
        self._check_cancelled()
        embedding = self._slice(position)
        if embedding is None:
            return self._blank
        before = None
        if self.sees_neighbours and prompt.neighbour is not None:
            before = self._slices.get(prompt.neighbour).embedding  # kept, as a rule: it was decoded before this one
        if (
            self._lanes.has_idle
            and position in route.following
            and (route.is_sure or self._encode_ms <= _WORTH_A_GUESS * self._decode_ms)
        ):
            self._slices.start(route.following[position])
        started = time.perf_counter()
        prediction = self.decode(embedding, prompt, number, before)
        self._decode_ms = (time.perf_counter() - started) * 1e3
        with self._lock:
            self.timings["decode_ms"] += self._decode_ms
            self.timings["prompts_decoded"] += 1
        return prediction

    def motion(self, before: int, now: int, found: Prediction) -> tuple[float, float]:
        """How far what a mask covers has moved between two slices; the callable that propagation is given."""
        return displacement(partial(self.pixels, before), partial(self.pixels, now), found.masks[0], found.boxes[0])

    def _check_cancelled(self) -> None:
        """Ask, where the caller may be asked: on its own thread."""
        if self.cancel is not None and threading.get_ident() == self._caller and self.cancel():
            msg = "cancelled; nothing was written"
            raise Cancelled(msg)

    def segment(self, objects: list[PlannedObject]) -> tuple[ObjectResult, ...]:
        """Segment every object, each on its own; overlaps are decided by the caller.

        Where the bundle asks for it, what stays in doubt is looked at in the other two planes as well and the planes
        are weighed, or, in a volume that has no others to show, its runs.
        """
        runs = self._in_this_plane(objects, range(len(objects)))
        results = [best.result for best, *_ in runs]
        doubtful = in_doubt(objects, [best for best, *_ in runs], self.settings)
        others: list[list[list[Answer]]] = []
        for view in other_views(self.volume, self.view.slice_axis) if doubtful else ():
            trial = replace(self, view=view, is_trial=True)
            others.append(trial._in_this_plane([objects[n].seen_in(self.volume, view) for n in doubtful], doubtful))
        for place, number in enumerate(doubtful):
            planes = [runs[number][0], *(found[place][0] for found in others)]
            results[number] = weighed(planes if others else runs[number], self.volume)
        return tuple(results)

    def _in_this_plane(self, objects: list[PlannedObject], numbers: Sequence[int]) -> list[list[Answer]]:
        """Follow every object through the slices of the view, with its best run first; decoding is told its number."""
        self._check_prompted(objects)
        total = self._total(objects)
        found: dict[int, list[Answer]] = {}
        for number, one in zip(numbers, objects, strict=True):
            self._make_runs(self._runs(one, partial(found.__setitem__, number)), number, one.name, total)
        try:
            self._lanes.run()
        finally:
            self._slices.wait()
        return [found[number] for number in numbers]

    def _check_prompted(self, objects: list[PlannedObject]) -> None:
        started = time.perf_counter()
        prompted = {anchor for one in objects if one.plan.limit is None for anchor in one.plan.anchors}
        for position in sorted(prompted):  # not the middle of a 3-D box, which nobody has looked at
            pixels = self.pixels(position)
            if pixels.min() == pixels.max():
                msg = (
                    f"slice {self.view.slice_index(position)} has one intensity only; "
                    "prompt a slice that shows the object, or choose another window"
                )
                raise ImageError(msg)
        self.timings["window_ms"] += (time.perf_counter() - started) * 1e3

    def _runs(self, planned: PlannedObject, answer: Callable[[list[Answer]], None]) -> Iterator[_Followed]:
        """Yield the runs that one object needs, each made before the next is asked for; then answer, the best first."""
        runs = [_Followed(planned.plan, self.is_trial)]
        yield runs[0]
        if isinstance(self.settings, ChainSettings):
            for plan in other_starts(planned.plan, self.settings.starts):
                if max(one.quality for one in runs) >= self.settings.min_quality:
                    break
                runs.append(_Followed(plan, is_trial=True))
                yield runs[-1]
        runs.sort(key=lambda one: -one.quality)  # stable: the first of equals
        answer([self._answer(planned, one) for one in runs])

    def _make_runs(self, runs: Iterator[_Followed], number: int, name: str, total: int | None) -> None:
        """Have the next run made, and so on until there is none left."""
        found = next(runs, None)
        if found is None:
            return
        order = slice_orders(found.plan, self.settings)
        route = _Route(dict(chain.from_iterable(map(pairwise, order))), found.plan.known_extent)
        decode = partial(self.decode_slice, number, route)
        course = course_of(decode, found.plan, self._frame, self.settings, self.motion)
        ends: list[Step] = []  # first and last of the prompted slices

        def prompted() -> Iterator[_Found]:
            for step in course.prompted():
                ends[:] = [*ends[:1], step]
                yield self._found(step)

        def walk() -> None:
            walks = course.walks(ends[0], ends[-1]) if ends else course.walks(None, None)
            ends.clear()  # their masks are as large as a slice
            self._lanes.add([map(self._found, one) for one in walks], take, end, soon=True)

        def take(one: _Found) -> None:
            self._check_cancelled()
            found.slices.append(one.result)
            if one.piece is not None:
                found.kept[one.position] = one.piece
            self.done += not found.is_trial
            if self.progress is not None:
                axis, expected = self.view.slice_axis, None if found.is_trial else total
                self.progress(Progress(name, one.result.slice_index, axis, self.done, expected))

        def end() -> None:
            found.slices.sort(key=lambda one: one.slice_index)  # not as they came, which differs from run to run
            self._make_runs(runs, number, name, total)

        self._lanes.add([prompted()], take, walk, soon=found.is_trial)

    def _answer(self, planned: PlannedObject, followed: _Followed) -> Answer:
        fill, quality = followed.fill, followed.quality  # before their masks are put together
        corner, crop = self._assemble(followed.kept)
        scores = [one.score for one in followed.slices if one.area]
        result = ObjectResult(
            name=planned.name,
            label=planned.plan.label,
            score=float(np.mean(scores)) if scores else float("nan"),
            slices=tuple(followed.slices),
            corner=corner,
            crop=crop,
            shape=self.volume.shape,
        )
        return Answer(result, self.view.slice_axis, fill, quality)

    def _found(self, step: Step) -> _Found:
        """Keep of a slice what the answer needs, so that its full-size mask can be freed."""
        area = 0 if step.stop else int(step.prediction.areas[0])
        index = self.view.slice_index(step.slice_index)
        result = SliceResult(index, float(step.prediction.scores[0]), area, step.stop)
        return _Found(step.slice_index, result, _cropped(step.prediction) if area else None)

    def _total(self, objects: list[PlannedObject]) -> int | None:
        if not all(one.plan.known_extent for one in objects):
            return None
        return sum(one.plan.extent[1] - one.plan.extent[0] + 1 for one in objects)

    def _assemble(self, kept: dict[int, _Piece]) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
        """Stack the slices' crops into one crop in file order."""
        if not kept:
            return (0, 0, 0), np.zeros((0, 0, 0), dtype=np.bool_)
        boxes = np.stack([box for box, _ in kept.values()])
        x0, y0 = boxes[:, :2].min(axis=0)
        x1, y1 = boxes[:, 2:].max(axis=0)
        indices = [self.view.slice_index(position) for position in kept]
        first = min(indices)
        u0, v0 = self.view.corner_in_file((x0, y0, x1, y1))
        stack: NDArray[np.bool_] | None = None
        for index, position in zip(indices, list(kept), strict=True):
            box, piece = kept.pop(position)  # freed as it goes: together they may be as large as the volume
            plane = np.zeros((y1 - y0 + 1, x1 - x0 + 1), dtype=np.bool_)
            plane[box[1] - y0 : box[3] - y0 + 1, box[0] - x0 : box[2] - x0 + 1] = piece
            turned = self.view.to_file(plane)  # (rows, columns) -> (u, v)
            if stack is None:
                stack = np.zeros((max(indices) - first + 1, *turned.shape), dtype=np.bool_)
            stack[index - first] = turned
        corner = [u0, v0]
        corner.insert(self.view.slice_axis, first)
        i, j, k = (int(value) for value in corner)
        return (i, j, k), np.moveaxis(np.asarray(stack), 0, self.view.slice_axis)


def _cropped(prediction: Prediction) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Box and copied crop of the only mask, so that the full-size mask can be freed."""
    box = prediction.boxes[0]
    return box, prediction.masks[0, box[1] : box[3] + 1, box[0] : box[2] + 1].copy()
