"""DICOM in: one file, or a folder that holds one series, becomes a `Volume`.

Puts together what the headers say (`_dicom_header`), how slices lie (`_dicom_stack`) and what the pixels hold
(`_dicom_pixels`). Must not know prompts or models, and never shows what names a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io._dicom_header import Series, is_dicom, scan_file, scan_folder
from runtime.io._dicom_pixels import read_pixels
from runtime.io._dicom_stack import stack_frames
from runtime.io._reading import check_size, named
from runtime.io._source import DicomSource

__all__ = ["SeriesSummary", "is_dicom", "list_series", "read_file", "read_series"]


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
    frames : int
        Slices or frames.
    size : tuple of int
        (columns, rows).
    """

    number: int
    uid: str
    modality: str
    frames: int
    size: tuple[int, int]


def list_series(folder: Path) -> tuple[SeriesSummary, ...]:
    """Image series of a folder.

    Parameters
    ----------
    folder : Path
        A folder; its subfolders are not searched.

    Returns
    -------
    summaries : tuple of SeriesSummary
        In the order that ``series`` numbers count.

    Raises
    ------
    ImageError
        If the folder or a DICOM file in it cannot be read.
    """
    return tuple(_summary(number, series) for number, series in enumerate(scan_folder(folder), start=1))


def read_file(path: Path, *, volume: int | None = None) -> Volume:
    """Read one DICOM file: a single image is 2-D, a multi-frame object a volume where its geometry says so.

    Parameters
    ----------
    path : Path
        The file, with or without preamble.
    volume : int, optional
        Which repetition of a multi-frame object, or which frame of a film, 0-based.

    Returns
    -------
    image : Volume
        [i = column, j = row, k], modality values (HU), affine in RAS; the file's window and modality.

    Raises
    ------
    ImageError
        If it holds no image, cannot be decoded, or a choice is needed.
    """
    return _volume(path, scan_file(path), volume)


def read_series(folder: Path, *, series: str | None = None, volume: int | None = None) -> Volume:
    """Read the one series of a folder, or the one that was chosen.

    Slices are ordered by position along their normal; names and InstanceNumber do not matter. A gantry tilt
    is kept as a sheared affine. Files that are no DICOM images are passed over.

    Parameters
    ----------
    folder : Path
        A folder; its subfolders are not searched.
    series : str, optional
        SeriesInstanceUID, or its number in the list that the error message gives.
    volume : int, optional
        Which repetition (time point, echo), 0-based, where positions repeat.

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
    found = scan_folder(folder)
    if not found:
        msg = f"{folder}: holds no DICOM images; give a folder with one series (subfolders are not searched)"
        raise ImageError(msg)
    chosen = [
        entry for number, entry in enumerate(found, start=1) if series is None or series in (entry.uid, str(number))
    ]
    if len(chosen) != 1:
        listed = "; ".join(_line(_summary(number, entry)) for number, entry in enumerate(found, start=1))
        problem = f"has no series {series}" if series is not None else f"holds {len(found)} series"
        msg = f"{folder}: {problem}; choose one with series= (--series), by number or UID: {listed}"
        raise ImageError(msg)
    return _volume(folder, chosen[0], volume)


def _volume(path: Path, series: Series, volume: int | None) -> Volume:
    with named(path):
        stack = stack_frames(series, volume)
    rows, columns, samples = stack.frames[0].size
    check_size(path, (columns, rows, len(stack.frames)), samples)
    array, window = read_pixels(series.paths, stack.frames)
    with named(path):
        return Volume(
            array,
            affine=stack.affine,
            spacing=stack.spacing,
            is_2d=len(stack.frames) == 1,
            modality=series.modality,
            window=window,
            source=DicomSource(
                paths=tuple(file.resolve() for file in series.paths),
                frames=tuple((frame.file, frame.index) for frame in stack.frames),
            ),
        )


def _summary(number: int, series: Series) -> SeriesSummary:
    rows, columns, _ = series.frames[0].size
    return SeriesSummary(number, series.uid, series.modality or "", len(series.frames), (columns, rows))


def _line(summary: SeriesSummary) -> str:
    columns, rows = summary.size
    modality = summary.modality or "unknown modality"
    return f"{summary.number} = {modality}, {summary.frames} of {columns}x{rows}, {summary.uid}"
