"""The DICOM headers of the image that a DICOM result refers to, read again when the result is written.

Knows the files that a volume came from and the attributes that results take over: those of the patient and of the
study, which they must carry, and those that say which image a plane belongs to. Decodes no pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError, LiteInferError, OutputError
from runtime.geometry import Volume
from runtime.io._dicom_files import archive_of
from runtime.io._dicom_header import read_dataset
from runtime.io._quiet import quiet
from runtime.io._reading import LOGGER
from runtime.io._result import Segment
from runtime.io._source import DicomSource

__all__ = ["PATIENT_AND_STUDY", "SERIES_NUMBER", "SourceSeries", "own_version", "read_source", "reported"]

PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID",
)  # fmt: skip
"""Attributes that every object of a study carries, if only empty."""

SERIES_NUMBER = 900
"""SeriesNumber of results, beyond those that scanners count to."""

_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_SLICE_TAGS = (
    "Columns", "FrameOfReferenceUID", "FrameType", "ImageOrientationPatient", "ImagePositionPatient", "ImageType",
    "InstanceNumber", "Modality", "PixelSpacing", "PlanePositionSequence", "Rows", "SOPClassUID", "SOPInstanceUID",
    "SeriesInstanceUID", "SliceThickness", "SpacingBetweenSlices", "SpecificCharacterSet", "StudyInstanceUID",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """Headers of the files of a series.

    Attributes
    ----------
    headers : tuple of pydicom.Dataset
        One a file: the first whole, the others with the attributes that say where they lie.
    frames : tuple of (int, int)
        For each slice k of the volume: index into ``headers`` and 0-based frame within that file.
    copies : frozenset of int
        Slices k that no file holds: they fill gaps, and results do not describe them.
    remarks : tuple of str
        What the user should know about a result of this series.
    """

    headers: tuple[Any, ...]
    frames: tuple[tuple[int, int], ...]
    copies: frozenset[int]
    remarks: tuple[str, ...]

    @property
    def is_multi_frame(self) -> bool:
        """Whether the slices are frames of one file."""
        header = self.headers[0]
        return "PerFrameFunctionalGroupsSequence" in header or int(header.get("NumberOfFrames") or 1) > 1

    def say_remarks(self) -> None:
        """Log what the user should know, once the result is written."""
        for remark in self.remarks:
            LOGGER.warning(remark)

    def planes(self, one: Segment) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Slices k of an object that the series holds, with its crop there."""
        return ((k, plane) for k, plane in one.planes() if k not in self.copies)

    def header(self, k: int) -> Any:
        """Header of the file that holds slice k."""
        return self.headers[self.frames[k][0]]


@contextmanager
def reported(path: Path, what: str) -> Iterator[None]:
    """Turn what pydicom and highdicom raise over an odd source into an OutputError.

    Only the kind of error is quoted: its text may hold values of the header.
    """
    try:
        yield
    except (LiteInferError, MemoryError):
        raise
    except OSError as error:
        if _says_what(error):
            raise  # the disk's, which `AtomicFiles` reports
        raise _unsuitable(path, what, error) from error
    except Exception as error:
        raise _unsuitable(path, what, error) from error


def _says_what(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and (error.errno is not None or _says_what(error.__context__))


def _unsuitable(path: Path, what: str, error: Exception) -> OutputError:
    kind = type(error).__name__
    return OutputError(f"{path}: {what} cannot be made for this series ({kind}); write .nii.gz or .seg.nrrd instead")


def read_source(path: Path, reference: Volume, what: str, *, placed: bool) -> SourceSeries:
    """Read the headers of the files that an image came from.

    Parameters
    ----------
    path : Path
        The result, for messages.
    reference : Volume
        The image that was, or will be, segmented.
    what : str
        The kind of result, for messages.
    placed : bool
        Whether the result needs to know where the slices lie in the patient.

    Returns
    -------
    source : SourceSeries
        With every attribute of `PATIENT_AND_STUDY`, empty where the files have none.

    Raises
    ------
    OutputError
        If the image did not come from DICOM, its files are gone or have changed, or they lack what a result
        must refer to.
    """
    origin = reference.source
    if not isinstance(origin, DicomSource):
        msg = (
            f"{path}: {what} refers to the DICOM series that was segmented, and this image did not come from DICOM; "
            "give the series as the input, or write .nii.gz or .seg.nrrd"
        )
        raise OutputError(msg)
    used = {file for file, _ in origin.frames}
    try:
        with archive_of(origin.files[0]) as archive:
            headers = [
                read_dataset(file, pixels=False, tags=_SLICE_TAGS if number else None, archive=archive)
                for number, file in enumerate(origin.files)
                if number in used or number == 0
            ]
    except ImageError as error:
        msg = f"{path}: the series that was segmented can no longer be read ({error})"
        raise OutputError(msg) from error
    places = {file: index for index, file in enumerate(sorted(used | {0}))}
    frames = tuple((places[file], frame) for file, frame in origin.frames)
    remarks = []
    if origin.copies:
        remarks.append(f"{len(origin.copies)} slices that fill gaps of the series are no part of {what}")
    if reference.affine is not None and not headers[0].get("FrameOfReferenceUID"):
        remarks.append(f"the source names no frame of reference; {what} names one of its own")
    source = SourceSeries(tuple(headers), frames, frozenset(origin.copies), tuple(remarks))
    with reported(path, what), quiet():
        if reference.affine is not None and not headers[0].get("FrameOfReferenceUID"):
            _name_frame_of_reference(source)
        _check(path, source, reference, what, placed)
        _make_uniform(source)
    return source


def _make_uniform(source: SourceSeries) -> None:
    """Repair what careless anonymisation leaves: absent or empty attributes, a study of its own for each slice."""
    first = source.headers[0]
    for keyword in PATIENT_AND_STUDY:
        if keyword not in first:
            setattr(first, keyword, None)
    if first.get("PatientIdentityRemoved") == "YES" and not (
        first.get("DeidentificationMethod") or first.get("DeidentificationMethodCodeSequence")
    ):
        first.DeidentificationMethod = "not stated by the source"
    for header in source.headers[1:]:
        header.StudyInstanceUID = first.StudyInstanceUID
        if first.get("FrameOfReferenceUID"):
            header.FrameOfReferenceUID = first.FrameOfReferenceUID


def _name_frame_of_reference(source: SourceSeries) -> None:
    """Give a series that was stripped of it a frame of reference: the same one in all of its results."""
    from pydicom.uid import generate_uid

    uid = generate_uid(entropy_srcs=[str(source.headers[0].get("SeriesInstanceUID"))])
    for header in source.headers:
        header.FrameOfReferenceUID = uid


def _check(path: Path, source: SourceSeries, reference: Volume, what: str, placed: bool) -> None:
    required: tuple[str, ...] = _REQUIRED
    if reference.affine is not None and not source.is_multi_frame:
        required += ("PixelSpacing",)
    missing = sorted({keyword for header in source.headers for keyword in required if not header.get(keyword)})
    if (placed or source.is_multi_frame) and reference.affine is None:
        missing.append("the position of its slices")
    if missing:
        msg = f"{path}: {what} needs {', '.join(missing)}, which the source lacks; write .nii.gz or .seg.nrrd instead"
        raise OutputError(msg)
    columns, rows, _ = reference.shape
    if any((header.get("Rows"), header.get("Columns")) != (rows, columns) for header in source.headers):
        msg = f"{path}: {what} has one frame for each of the source, and these slices are not its frames (a mosaic?)"
        raise OutputError(msg + "; write .nii.gz or .seg.nrrd instead")


@lru_cache(maxsize=1)
def own_version() -> str:
    """Version of lite-infer, which results name as what made them."""
    try:
        return metadata.version("lite-infer")
    except metadata.PackageNotFoundError:  # a source tree that was never installed
        return "0.0.0"
