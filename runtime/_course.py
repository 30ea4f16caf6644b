"""What is asked of an object that is followed from slice to slice, and what comes of it, step by step.

Knows predictions; must not know in which order, or from what, a slice is prompted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.types import Prediction

__all__ = ["NO_CLICKS", "Course", "Decode", "Motion", "ObjectPlan", "SlicePrompt", "Step", "Xyxy"]

Xyxy = tuple[float, float, float, float]

NO_CLICKS = np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
"""Points of a slice in the input frame, and their labels: none."""


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
    is_limit : bool
        True where the object need not fill the box: it is the rectangle of a 3-D one.
    """

    box: NDArray[np.float32] | None
    points: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    mask_logits: NDArray[np.float32] | None = None
    neighbour: int | None = None
    image_box: NDArray[np.float64] | None = None
    is_limit: bool = False


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
    extent : tuple of 2 int
        First and last slice that may be decoded, both included.
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
    """One object slice by slice, in parts. Each slice comes once."""

    def prompted(self) -> Iterator[Step]:
        """Decode the slices that are prompted, and those between them."""

    def walks(self, first: Step | None, last: Step | None) -> tuple[Iterator[Step], Iterator[Step]]:
        """Go on from the first and the last of those: two iterators that may be used at once, by two threads."""
