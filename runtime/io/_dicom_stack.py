"""How the frames of a series lie in space: their order, and the affine of the volume that they make.

Knows positions and orientations (DICOM's LPS millimetres in, RAS out); reads no file and decodes no pixel.
What does not make one evenly spaced stack is refused with what was found, or mended (`_dicom_repair`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io._dicom_header import Frame, Series
from runtime.io._dicom_repair import STEP_TOLERANCE, Doubts, Evened, by_number, even_out, keep_one_each
from runtime.io._reading import choose_volume

__all__ = ["Stack", "stack_frames"]

_SAME_MM = 1e-4
"""Positions closer than this are one, whatever the distance of the slices."""

_ORIENTATION_TOLERANCE = 1e-3
_COSINE_TOLERANCE = 1e-2
_STACKED_MODALITIES = frozenset({"CT", "MR", "PT"})
"""Whose frames are taken as slices even if they carry no position; elsewhere frames are a film."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames in the order of their slices, and where they lie.

    Attributes
    ----------
    frames : tuple of Frame
        One a slice, along the normal (rows x columns) upwards.
    affine : ndarray of float64, shape (4, 4), or None
        (column, row, slice) -> RAS mm; None where the headers do not say.
    spacing : tuple of 3 float
        Millimetres between columns, rows and slices; 1.0 where unknown.
    copies : tuple of int
        Slices that stand in for one that is missing.
    notes : tuple of str
        What was guessed, and what was wrong and how it was mended.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64] | None
    spacing: tuple[float, float, float]
    copies: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def stack_frames(series: Series, volume: int | None, *, force: bool = False) -> Stack:
    """Order the frames of a series.

    Parameters
    ----------
    series : Series
        Frames as found.
    volume : int, optional
        Which of several repetitions (time points, echoes), or which frame of a film, is wanted.
    force : bool
        Whether gaps, duplicates and missing positions are mended and noted instead of refused.

    Returns
    -------
    stack : Stack

    Raises
    ------
    ImageError
        If sizes, orientations or spacings differ, slices are missing, doubled or not on a line, positions are
        absent, or there are several repetitions and none was chosen. The message does not name the file.
    """
    frames = series.frames
    doubts = Doubts(force)
    _refuse_mixture([f"{frame.size[1]}x{frame.size[0]}" for frame in frames], "sizes")
    if series.mosaic:
        msg = "is a Siemens mosaic (all slices tiled in one picture); convert it with dcm2niix first"
        raise ImageError(msg)
    placed = tuple(frame for frame in frames if frame.position is not None and frame.orientation is not None)
    if not placed:
        return _unplaced(series, volume, doubts)
    if len(placed) < len(frames):
        missing = f"{len(frames) - len(placed)} of {len(frames)} slices have no position"
        doubts.found(missing, "remove them or convert the series", "they are left out")
    row, column = _axes(placed)
    normal = np.cross(row, column)
    chosen = _repetition(placed, normal, volume, doubts)
    spacing = _in_plane(chosen, doubts)
    first = np.array(chosen[0].position, dtype=np.float64)
    evened = _step(chosen, normal, doubts)
    affine = np.eye(4)
    affine[:3, 0] = row * spacing[1]  # the row direction is that in which the column index grows
    affine[:3, 1] = column * spacing[0]
    affine[:3, 2] = evened.step
    affine[:3, 3] = first
    affine[:2] *= -1.0  # LPS -> RAS
    return Stack(
        evened.frames,
        affine,
        (spacing[1], spacing[0], float(np.linalg.norm(evened.step))),
        evened.copies,
        tuple(doubts.notes),
    )


def _refuse_mixture(values: Sequence[str], what: str) -> None:
    counts = Counter(values)
    if len(counts) > 1:
        found = ", ".join(f"{value} ({number})" for value, number in counts.most_common(4))
        msg = f"its slices have different {what}: {found}; keep those that belong together in a folder of their own"
        raise ImageError(msg)


def _unplaced(series: Series, volume: int | None, doubts: Doubts) -> Stack:
    """One image, a film of which one frame is chosen, or a stack whose place in the world is unknown."""
    frames = series.frames
    if len(series.files) > 1:
        frames = by_number(frames, doubts)
        choose_volume(1, volume, "volumes")
        spacing = _in_plane(frames, doubts)
        return Stack(frames, None, (spacing[1], spacing[0], frames[0].thickness or 1.0), (), tuple(doubts.notes))
    stacked = len(frames) > 1 and series.modality in _STACKED_MODALITIES
    if not stacked or volume is not None:
        frames = (frames[choose_volume(len(frames), volume, "frames")],)
    spacing = _in_plane(frames, doubts)
    if stacked and volume is None:
        doubts.notes.append("the frames have no position; they are taken as slices in file order, without an affine")
    return Stack(frames, None, (spacing[1], spacing[0], frames[0].thickness or 1.0), (), tuple(doubts.notes))


def _axes(frames: Sequence[Frame]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along which the column index and the row index grow, LPS."""
    orientations = np.array([frame.orientation for frame in frames], dtype=np.float64)
    if float(np.abs(orientations - orientations[0]).max()) > _ORIENTATION_TOLERANCE:
        number = len(np.unique(orientations.round(2), axis=0))
        msg = f"its {len(frames)} slices point in {number} directions (a localiser?); keep those of one direction"
        raise ImageError(msg)
    row, column = orientations[0, :3], orientations[0, 3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > _COSINE_TOLERANCE or abs(row @ column) > _COSINE_TOLERANCE:
        msg = "its ImageOrientationPatient is not a pair of perpendicular unit vectors; repair or convert the series"
        raise ImageError(msg)
    return row / lengths[0], column / lengths[1]


def _repetition(
    frames: Sequence[Frame], normal: NDArray[np.float64], volume: int | None, doubts: Doubts
) -> tuple[Frame, ...]:
    """The frames of one repetition, in the order of their distance along the normal."""
    heights = np.array([frame.position for frame in frames], dtype=np.float64) @ normal
    order = sorted(range(len(frames)), key=lambda n: (heights[n], frames[n].number, frames[n].file, frames[n].index))
    gaps = np.diff(np.sort(heights))
    same = max(_SAME_MM, 1e-3 * float(np.median(gaps[gaps > _SAME_MM]))) if (gaps > _SAME_MM).any() else _SAME_MM
    places: list[list[Frame]] = []
    last = math.nan
    for n in order:
        if not heights[n] - last <= same:
            places.append([])
        last = heights[n]
        places[-1].append(frames[n])
    for place in places:  # rounding must not order what lies at one place
        place.sort(key=lambda frame: (frame.number, frame.file, frame.index))
    repeats = Counter(len(place) for place in places)
    if len(repeats) > 1:
        keep_one_each(places, max(repeats, key=lambda repeat: (repeats[repeat], -repeat)), doubts)
    chosen = choose_volume(len(places[0]), volume, f"images at each of {len(places)} positions (time points or echoes)")
    return tuple(place[chosen] for place in places)


def _in_plane(frames: Sequence[Frame], doubts: Doubts) -> tuple[float, float]:
    """Millimetres between rows and between columns."""
    known = [frame.spacing for frame in frames if frame.spacing is not None]
    if len(known) < len(frames):
        doubts.notes.append("the pixel spacing is not stated; 1 mm is assumed")
        return (1.0, 1.0)
    if float(np.ptp(np.array(known), axis=0).max()) > 1e-3 * min(known[0]):
        _refuse_mixture([f"{rows:g} x {columns:g} mm" for rows, columns in known], "pixel spacings")
    return (known[0][0], known[0][1])


def _step(frames: tuple[Frame, ...], normal: NDArray[np.float64], doubts: Doubts) -> Evened:
    """Slices, and the vector from each to the next, once they are known to lie evenly on a line."""
    if len(frames) == 1:
        return Evened(frames, (), normal * (frames[0].thickness or 1.0))
    positions = np.array([frame.position for frame in frames], dtype=np.float64)
    heights = positions @ normal
    usual = float(np.sort(np.diff(heights))[(len(heights) - 2) // 2])  # median; of two the smaller: gaps only widen
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    evened = Evened(frames, (), step)
    along = np.arange(len(positions), dtype=np.float64)
    if (np.abs(np.diff(heights) - usual) > STEP_TOLERANCE * usual).any():
        evened = even_out(frames, heights, positions, usual, doubts)
        along = (heights - heights[0]) / usual
    line = positions[0] + along[:, np.newaxis] * evened.step
    off = float(np.linalg.norm(positions - line, axis=1).max())
    if off > 2 * STEP_TOLERANCE * usual:
        problem = f"its slices do not lie on a line (off by {off:.2f} mm), so no affine fits"
        doubts.found(problem, "convert the series first", "the affine fits the first and the last")
    length = float(np.linalg.norm(evened.step))
    tilt = math.degrees(math.acos(min(1.0, float(evened.step @ normal) / length)))
    if tilt > 0.5:
        doubts.notes.append(f"the slices are sheared by {tilt:.1f} degrees (gantry tilt); the affine keeps the shear")
    return evened
