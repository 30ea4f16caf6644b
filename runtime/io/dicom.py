"""DICOM in: one file, or a folder or zip archive that holds a series, becomes a `Volume`.

Puts together what the headers say (`_dicom_header`), how slices lie (`_dicom_stack`) and what the pixels hold
(`_dicom_pixels`). Must not know prompts or models, and never shows what names a person.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import ImageError
from runtime.geometry import Volume, axis_codes
from runtime.io._dicom_files import ZipMember, head_of
from runtime.io._dicom_header import Scan, Series, scan_file, scan_files
from runtime.io._dicom_pixels import read_pixels
from runtime.io._dicom_stack import stack_frames
from runtime.io._kinds import ZIP_START
from runtime.io._reading import SeveralVolumes, check_size, named
from runtime.io._source import DicomSource

__all__ = ["SeriesSummary", "list_series", "read_file", "read_series"]


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """What tells one series of a folder from another, without naming anyone.

    Attributes
    ----------
    number : int
        Place in the list, from 1; `load` takes it as ``series``.
    uid : str
        SeriesInstanceUID.
    modality : str
        Empty where the headers do not say.
    images : int
        Slices or frames that the files hold.
    size : tuple of int
        (columns, rows) of the first.
    volumes : int
        Time points, echoes or frames of a film, of which ``volume`` chooses one.
    slices : int
        Of one volume; 0 where the series is refused.
    spacing : tuple of 3 float, or None
        Millimetres between columns, rows and slices.
    orientation : str or None
        Three letters such as ``LPS``: what columns, rows and slices grow towards.
    findings : tuple of str
        What has to be guessed; gaps, duplicates and missing positions, and what ``force`` does about them.
    refused : str or None
        Why the series cannot be read at all.
    """

    number: int
    uid: str
    modality: str
    images: int
    size: tuple[int, int]
    volumes: int = 1
    slices: int = 0
    spacing: tuple[float, float, float] | None = None
    orientation: str | None = None
    findings: tuple[str, ...] = ()
    refused: str | None = None


def list_series(place: Path) -> tuple[SeriesSummary, ...]:
    """Image series of a folder, of a zip archive or of a single file; no pixel is decoded.

    Parameters
    ----------
    place : Path
        A folder (its subfolders are not searched), an archive (all of it is) or a DICOM file.

    Returns
    -------
    summaries : tuple of SeriesSummary
        In the order that ``series`` numbers count.

    Raises
    ------
    ImageError
        If there is no image series, or the place or a DICOM file in it cannot be read.
    """
    several = place.is_dir() or head_of(place).startswith(ZIP_START)
    found = _found(place) if several else (scan_file(place),)
    return tuple(_summary(number, series) for number, series in enumerate(found, start=1))


def read_file(path: Path, *, volume: int | None = None, force: bool = False) -> Volume:
    """Read one DICOM file: a single image is 2-D, a multi-frame object a volume where its geometry says so.

    Parameters
    ----------
    path : Path
        The file, with or without preamble.
    volume : int, optional
        Which repetition of a multi-frame object, or which frame of a film, 0-based.
    force : bool
        As in `read_series`.

    Returns
    -------
    image : Volume
        [i = column, j = row, k], modality values (HU), affine in RAS; the file's window and modality.

    Raises
    ------
    ImageError
        If it holds no image, cannot be decoded, or a choice is needed.
    """
    return _volume(path, scan_file(path), volume, force)


def read_series(place: Path, *, series: str | None = None, volume: int | None = None, force: bool = False) -> Volume:
    """Read the one series of a folder or a zip archive, or the one that was chosen.

    Slices are ordered by position along their normal; names and InstanceNumber do not matter. A gantry tilt
    is kept as a sheared affine. Files that are no DICOM images are passed over. An archive is read in memory,
    file by file; nothing of it is written to disk.

    Parameters
    ----------
    place : Path
        A folder (its subfolders are not searched) or an archive (all of it is).
    series : str, optional
        SeriesInstanceUID, or its number in the list that the error message gives.
    volume : int, optional
        Which repetition (time point, echo), 0-based, where positions repeat.
    force : bool
        Whether to read a series with gaps, duplicates or missing positions all the same: gaps are filled with
        copies of the neighbouring slices, of duplicates the first is kept, slices without position are left out
        (or, if none has one, ordered by InstanceNumber). ``notes`` of the volume says what was found and done.

    Returns
    -------
    image : Volume
        As `read_file`.

    Raises
    ------
    ImageError
        If there is no image series, several and none was chosen, or its slices do not make one evenly spaced
        stack (gaps, duplicates, differing sizes or directions, no positions).
    """
    found = _found(place)
    chosen = [
        entry for number, entry in enumerate(found, start=1) if series is None or series in (entry.uid, str(number))
    ]
    if len(chosen) != 1:
        listed = "; ".join(_line(number, entry) for number, entry in enumerate(found, start=1))
        problem = f"has no series {series}" if series is not None else f"holds {len(found)} series"
        msg = f"{place}: {problem}; choose one with series=1 .. {len(found)} (--series N), or by UID: {listed}"
        raise ImageError(msg)
    return _volume(place, chosen[0], volume, force)


def _found(place: Path) -> tuple[Series, ...]:
    scan: Scan = scan_files(place)
    if scan.series:
        return scan.series
    counts = ", ".join(f"{what} ({number})" for what, number in Counter(scan.passed_over).items())
    only = f" but only {counts}" if counts else ""
    wanted = "a folder with one series (subfolders are not searched)" if place.is_dir() else "an archive with a series"
    msg = f"{place}: holds no DICOM images{only}; give {wanted}"
    raise ImageError(msg)


def _volume(path: Path, series: Series, volume: int | None, force: bool) -> Volume:
    with named(path):
        stack = stack_frames(series, volume, force=force)
    rows, columns, samples = stack.frames[0].size
    check_size(path, (columns, rows, len(stack.frames)), samples)
    array, window = read_pixels(series.files, stack.frames)
    places = dict.fromkeys(file.archive if isinstance(file, ZipMember) else file for file in series.files)
    with named(path):
        return Volume(
            array,
            affine=stack.affine,
            spacing=stack.spacing,
            is_2d=len(stack.frames) == 1,
            modality=series.modality,
            window=window,
            notes=stack.notes,
            source=DicomSource(
                paths=tuple(one.resolve() for one in places),
                files=tuple(one if isinstance(one, ZipMember) else one.resolve() for one in series.files),
                frames=tuple((frame.file, frame.index) for frame in stack.frames),
                copies=stack.copies,
            ),
        )


def _summary(number: int, series: Series) -> SeriesSummary:
    rows, columns, _ = series.frames[0].size
    known = SeriesSummary(number, series.uid, series.modality or "", len(series.frames), (columns, rows))
    volumes = 1
    try:
        try:
            stack = stack_frames(series, None, force=True)
        except SeveralVolumes as several:
            volumes = several.count
            stack = stack_frames(series, 0, force=True)
    except ImageError as error:
        return replace(known, refused=str(error))
    return replace(
        known,
        volumes=volumes,
        slices=len(stack.frames),
        spacing=stack.spacing,
        orientation=None if stack.affine is None else axis_codes(stack.affine),
        findings=stack.notes,
    )


def _line(number: int, series: Series) -> str:
    rows, columns, _ = series.frames[0].size
    return f"{number} = {series.modality or 'unknown modality'}, {len(series.frames)} of {columns}x{rows}"
