"""What is done with a doubtful series: refused with what was found or, when forced, mended and noted.

Knows frames and their places along the normal; reads no file and decodes no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io._dicom_header import MAX_FRAMES, Frame

__all__ = ["STEP_TOLERANCE", "Doubts", "Evened", "by_number", "even_out", "keep_one_each"]

STEP_TOLERANCE = 0.05
"""Share of the slice distance by which a slice may lie off its place."""

_MOST_COPIES = 10
"""Slices that filling gaps may make of one that is there; a series with wider gaps is not one stack."""


@dataclass(slots=True)
class Doubts:
    """What was found wrong with a series.

    Attributes
    ----------
    force : bool
        Whether to go on all the same.
    notes : list of str
        What was found or guessed, and what was done about it.
    """

    force: bool
    notes: list[str] = field(default_factory=list)

    def found(self, problem: str, remedy: str, done: str) -> None:
        """Refuse what was found or, when forced, note what is done about it."""
        if not self.force:
            msg = f"{problem}; {remedy}, or load it all the same with force=True (--force)"
            raise ImageError(msg)
        self.notes.append(f"{problem}; {done} (--force)")


@dataclass(frozen=True, slots=True)
class Evened:
    """Frames at even distances.

    Attributes
    ----------
    frames : tuple of Frame
    copies : tuple of int
        Which of them stand in for one that is missing.
    step : ndarray of float64, shape (3,)
        From each to the next, LPS mm.
    """

    frames: tuple[Frame, ...]
    copies: tuple[int, ...]
    step: NDArray[np.float64]


def by_number(frames: Sequence[Frame], doubts: Doubts) -> tuple[Frame, ...]:
    """Frames that lack a position, in the order of their InstanceNumber."""
    distinct = len({frame.number for frame in frames})
    doubts.found(
        f"none of its {len(frames)} slices has a position, so their order is unknown",
        "convert the series to NIfTI",
        "they are ordered by InstanceNumber"
        + ("" if distinct == len(frames) else f" ({distinct} distinct ones, else by file name)")
        + ", and their place in the world is unknown",
    )
    return tuple(sorted(frames, key=lambda frame: (frame.number, frame.file, frame.index)))


def keep_one_each(places: list[list[Frame]], usual: int, doubts: Doubts) -> None:
    """Make the frames at each position as many as they usually are, at least by leaving out what is too much."""
    odd = sum(len(place) != usual for place in places)
    doubts.found(
        f"{sum(map(len, places))} slices lie at {len(places)} positions, {odd} of which hold more or fewer than "
        f"{usual}: there are duplicates or gaps",
        "remove the copies or fetch the series again",
        f"of the images at each position the first {usual} by InstanceNumber are kept"
        + (", and the last one stands in where there are fewer" if min(map(len, places)) < usual else ""),
    )
    for place in places:
        place[:] = (place + place[-1:] * usual)[:usual]


def even_out(
    frames: tuple[Frame, ...],
    heights: NDArray[np.float64],
    positions: NDArray[np.float64],
    usual: float,
    doubts: Doubts,
) -> Evened:
    """Put slices whose distances differ at even ones; each place takes the nearest slice.

    Parameters
    ----------
    frames : tuple of Frame
        In ascending order along the normal.
    heights : ndarray of float64, shape (N,)
        Their places along the normal, mm.
    positions : ndarray of float64, shape (N, 3)
        LPS mm.
    usual : float
        Their usual distance, mm.
    doubts : Doubts
        Refuses, or takes note.

    Raises
    ------
    ImageError
        If it is not forced, or the gaps are too wide for one stack.
    """
    gaps = np.diff(heights)
    wide = np.flatnonzero(np.abs(gaps - usual) > STEP_TOLERANCE * usual)
    first = int(wide[0])
    problem = (
        f"the distance between its {len(frames)} slices is {usual:.3f} mm, but {gaps[first]:.3f} mm between "
        f"slices {first} and {first + 1} (such places: {len(wide)}), so slices are missing or extra"
    )
    span = float(heights[-1] - heights[0])
    if not span / usual + 1 < min(MAX_FRAMES, _MOST_COPIES * len(frames)):
        msg = f"{problem}; fetch the series again"
        raise ImageError(msg)
    places = heights[0] + usual * np.arange(round(span / usual) + 1)
    above = np.clip(np.searchsorted(heights, places), 1, len(frames) - 1)
    nearest = np.where(places - heights[above - 1] <= heights[above] - places, above - 1, above)
    own = np.rint((heights - heights[0]) / usual).astype(int).clip(0, len(places) - 1)  # best place of each slice
    copies = tuple(int(k) for k in np.flatnonzero(own[nearest] != np.arange(len(places))))
    unused = len(frames) - len(set(nearest.tolist()))
    doubts.found(
        problem,
        "fetch the series again",
        f"copies of their neighbours fill the places of missing slices ({len(copies)})"
        + (f", and slices that lie between the others are left out ({unused})" if unused else ""),
    )
    step = (positions[-1] - positions[0]) * (usual / span)
    return Evened(tuple(frames[n] for n in nearest), copies, step)
