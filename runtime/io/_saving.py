"""Results out: which format a name asks for, whether it can be written, and who writes it.

Knows the formats by name; each is written by a module of its own, which imports its library only when it is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io._atomic import atomic_files, check_writable
from runtime.io._result import Result, Segment
from runtime.io._source import protected_paths

__all__ = ["FORMATS", "WRITABLE", "Format", "check_output", "output_format", "output_suffix", "save", "write_results"]

MAX_SEPARATE = 100
"""Most files that are written together, one for each object; they are open at the same time."""

_NAME_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Format:
    """One way to write a result.

    Attributes
    ----------
    name : str
        As ``format`` and ``--format`` take it.
    endings : tuple of str
        Of file names; where two formats share one, the earlier format has it by default.
    """

    name: str
    endings: tuple[str, ...]


FORMATS = (
    Format("nifti", (".nii.gz", ".nii")),
    Format("npz", (".npz",)),
    Format("png", (".png",)),
    Format("dicom_seg", (".seg.dcm", ".dcm")),
    Format("dicom_rtstruct", (".rtstruct.dcm", ".dcm")),
    Format("seg_nrrd", (".seg.nrrd",)),
    Format("obj", (".obj",)),
    Format("stl", (".stl",)),
    Format("glb", (".glb",)),
    Format("statistics", (".json", ".csv")),
)
"""Every format of results."""

WRITABLE = tuple(dict.fromkeys(ending for one in FORMATS for ending in one.endings))
"""Endings that `save` understands."""


class _Writer(NamedTuple):
    """The two functions that each format has.

    ``check`` refuses with an OutputError, before anything is computed, an image whose results the format cannot
    hold; its last argument is the number of objects, 0 where that is unknown.
    """

    check: Callable[[Path, Volume, int], None]
    write: Callable[[BinaryIO, Path, Result], None]


def save(
    path: str | os.PathLike[str],
    label_map: NDArray[Any],
    reference: Volume,
    *,
    names: Mapping[int, str] | None = None,
    format: str | None = None,
) -> Path:
    """Write a label map beside the image that it belongs to.

    The ending chooses the format. ``.nii`` and ``.nii.gz`` keep the image's place in the world, ``.npz`` holds
    ``segs`` as the challenge wants it, ``.png`` is for 2-D images; ``.seg.dcm`` (or ``.dcm``) is a DICOM
    segmentation and ``.rtstruct.dcm`` a structure set, for images that came from DICOM; ``.seg.nrrd`` is 3D Slicer's;
    ``.obj``, ``.stl`` and ``.glb`` are surfaces in RAS mm; ``.json`` and ``.csv`` are statistics. The file appears
    whole or not at all.

    Parameters
    ----------
    path : str or path-like
        The file to write. An existing one is replaced, but never the input.
    label_map : ndarray of int or bool, shape (I, J, K)
        0 is background; stored in the smallest of uint8, uint16 and uint32 that holds the largest label.
        For a 2-D image (I, J) will do.
    reference : Volume
        The image that was segmented.
    names : mapping of int to str, optional
        Names of the labels, kept by the formats that have a place for them.
    format : str, optional
        Name of a format, for endings that several share: ``"dicom_rtstruct"`` for a ``.dcm``.

    Returns
    -------
    path : Path
        What was written.

    Raises
    ------
    OutputError
        If the ending is unknown, the label map does not fit the image, the format cannot hold it, a package that
        writes it is missing, or the file cannot be written.
    """
    place = Path(path)
    chosen = output_format(place, format)
    labels = _labels(place, label_map, reference)
    return write_results(place, Result(labels, reference, names), format=chosen)[0]


def write_results(path: Path, result: Result, *, format: str | None = None, separate: bool = False) -> tuple[Path, ...]:
    """Write a result to one file, or every object to a file of its own; the files appear together.

    Parameters
    ----------
    path : Path
        The file; with ``separate``, ``NAME.ext`` stands for ``NAME_LABEL_OBJECT.ext`` of every object.
    result : Result
        What to write.
    format : str, optional
        As `save` takes it.
    separate : bool
        Whether each object is written alone, as label 1, with its whole mask.

    Returns
    -------
    paths : tuple of Path
        What was written.

    Raises
    ------
    OutputError
        As `save`.
    """
    writer = _writer(output_format(path, format))
    protected = protected_paths(result.reference.source)
    places = _separate_names(path, result) if separate else (path,)
    for place in places:
        writer.check(place, result.reference, 1 if separate else len(result.objects or ()))
    with atomic_files() as files:
        for index, place in enumerate(places):
            part = _alone(result, index) if separate else result
            with files.open(place, protected=protected) as stream, _memory(place):
                writer.write(stream, place, part)
    return places


def check_output(
    path: str | os.PathLike[str],
    reference: Volume,
    *,
    format: str | None = None,
    objects: int = 0,
    separate: bool = False,
) -> None:
    """Refuse, before minutes are spent on a result, what could not be written.

    Parameters
    ----------
    path : str or path-like
        The file that is to be written.
    reference : Volume
        The image that will be segmented.
    format : str, optional
        As `save` takes it.
    objects : int
        How many objects there will be; 0 where that is unknown.
    separate : bool
        Whether every object gets a file of its own.

    Raises
    ------
    OutputError
        If the ending is unknown, the format cannot hold results of this image, a package that writes it is
        missing, or the folder cannot be written.
    """
    place = Path(path)
    writer = _writer(output_format(place, format))
    if separate:
        _check_separate(place, objects)
    check_writable(place, protected=protected_paths(reference.source))
    writer.check(place, reference, 1 if separate else objects)


def output_suffix(path: str | os.PathLike[str]) -> str:
    """Ending of a result's name that decides its format.

    Parameters
    ----------
    path : str or path-like
        A file name.

    Returns
    -------
    suffix : str
        One of `WRITABLE`.

    Raises
    ------
    OutputError
        If the name ends otherwise.

    Examples
    --------
    >>> output_suffix("liver.NII.gz")
    '.nii.gz'
    """
    name = Path(path).name.lower()
    for suffix in sorted(WRITABLE, key=len, reverse=True):
        if name.endswith(suffix) and name != suffix:
            return suffix
    msg = f"{path}: unknown output format; wanted a name that ends in {', '.join(WRITABLE)}"
    raise OutputError(msg)


def output_format(path: str | os.PathLike[str], format: str | None = None) -> str:
    """Name of the format that a result's name asks for.

    Parameters
    ----------
    path : str or path-like
        A file name.
    format : str, optional
        The format that was named; it must fit the ending.

    Returns
    -------
    name : str
        Of one of `FORMATS`.

    Raises
    ------
    OutputError
        If the ending or the format is unknown, or they do not fit together.

    Examples
    --------
    >>> output_format("liver.dcm"), output_format("liver.dcm", "dicom_rtstruct")
    ('dicom_seg', 'dicom_rtstruct')
    """
    suffix = output_suffix(path)
    possible = [one.name for one in FORMATS if suffix in one.endings]
    if format is None:
        return possible[0]
    known = {one.name: one for one in FORMATS}
    if format not in known:
        msg = f"format {format!r}: wanted one of {', '.join(known)}"
        raise OutputError(msg)
    if format not in possible:
        msg = f"{path}: format {format} wants a name that ends in {' or '.join(known[format].endings)}"
        raise OutputError(msg)
    return format


def _writer(format: str) -> _Writer:
    if format == "dicom_seg":
        from runtime.io.dicom_seg import check_dicom_seg, write_dicom_seg

        return _Writer(check_dicom_seg, write_dicom_seg)
    if format == "dicom_rtstruct":
        from runtime.io.rtstruct import check_rtstruct, write_rtstruct

        return _Writer(check_rtstruct, write_rtstruct)
    if format == "seg_nrrd":
        from runtime.io.seg_nrrd import write_seg_nrrd

        return _Writer(_anything, write_seg_nrrd)
    if format in ("obj", "stl", "glb"):
        from runtime.io.mesh import check_mesh, write_mesh

        return _Writer(check_mesh, write_mesh)
    if format == "statistics":
        from runtime.io.statistics import write_statistics

        return _Writer(_anything, write_statistics)
    if format == "npz":
        from runtime.io.npz import write_npz

        return _Writer(_anything, write_npz)
    if format == "png":
        from runtime.io.raster import check_raster, write_raster

        return _Writer(check_raster, write_raster)
    from runtime.io.nifti import write_nifti

    return _Writer(_anything, write_nifti)


def _anything(path: Path, reference: Volume, count: int) -> None:
    """Accept every image; one without a place in the world lies where the format puts such images."""


@contextmanager
def _memory(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        msg = f"{path}: not enough memory to write it; close other programs or use a machine with more"
        raise OutputError(msg) from error


def _separate_names(path: Path, result: Result) -> tuple[Path, ...]:
    """File of every object."""
    _check_separate(path, len(result.segments))
    suffix = output_suffix(path)
    stem, ending = path.name[: -len(suffix)], path.name[-len(suffix) :]
    names = [re.sub(r"[^\w.-]+", "-", one.name)[:_NAME_LENGTH].strip("-.") for one in result.segments]
    return tuple(
        path.with_name(f"{stem}_{one.label}{f'_{name}' if name else ''}{ending}")
        for one, name in zip(result.segments, names, strict=True)
    )


def _alone(result: Result, index: int) -> Result:
    """One object as label 1 of a result of its own."""
    one = result.segments[index]
    label_map = np.zeros(result.label_map.shape, dtype=np.uint8)
    label_map[one.region] = one.crop
    alone = Segment(1, one.name, one.corner, one.crop)
    return Result(label_map, result.reference, {1: one.name}, (alone,), result.algorithm)


def _check_separate(path: Path, count: int) -> None:
    if count > MAX_SEPARATE:
        msg = f"{path}: {count} objects; at most {MAX_SEPARATE} are written to files of their own at once"
        raise OutputError(msg)


def _labels(path: Path, label_map: NDArray[Any], reference: Volume) -> NDArray[np.unsignedinteger[Any]]:
    labels = label_map[:, :, np.newaxis] if label_map.ndim == 2 and reference.shape[2] == 1 else label_map
    if labels.dtype.kind not in "uib" or labels.shape != reference.shape:
        msg = (
            f"{path}: label map of dtype {label_map.dtype} and shape {label_map.shape}; "
            f"wanted integers in the shape of the image, {reference.shape}"
        )
        raise OutputError(msg)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= 2**32:
        msg = f"{path}: labels run from {low} to {high}; wanted 0 to {2**32 - 1}"
        raise OutputError(msg)
    smallest = next(dtype for dtype in (np.uint8, np.uint16, np.uint32) if high <= np.iinfo(dtype).max)
    return labels.astype(smallest, copy=False)
