"""DICOM structure sets (RTSTRUCT): every object a region of interest of closed contours on the source's slices.

Knows pydicom and the attributes of structure sets; what a contour is, `_contours` knows. Each contour lies in the
plane of the slice that it was drawn on, at that slice's own position, and names that slice.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io._contours import outlines
from runtime.io._dicom_header import Frame, frames_of
from runtime.io._dicom_source import PATIENT_AND_STUDY, SERIES_NUMBER, SourceSeries, own_version, read_source, reported
from runtime.io._quiet import quiet
from runtime.io._result import Result, Segment

__all__ = ["check_rtstruct", "write_rtstruct"]

_WHAT = "a structure set"
_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired, by which structure sets name their study to this day."""

_PATIENT = ("PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod")
_UTF8 = "ISO_IR 192"
_NAME_LENGTH = 64
_DIGITS = 10
"""Significant digits of a coordinate: a DICOM decimal string has at most 16 characters."""


def check_rtstruct(path: Path, reference: Volume, count: int) -> None:
    """Write a structure set without a region to nowhere: what the real one would fail of, this fails of."""
    _write(io.BytesIO(), path, (), reference, "")


def write_rtstruct(stream: BinaryIO, path: Path, result: Result) -> None:
    """Write a structure set for the series that the image came from.

    Parameters
    ----------
    stream : binary file
        Where the bytes go.
    path : Path
        The name that they will have.
    result : Result
        What to write. Holes are joined to the outside by channels; an object that was not found has no contour.

    Raises
    ------
    OutputError
        If the image did not come from DICOM, its files cannot be read any more, or they do not say where the slices
        lie.
    """
    _write(stream, path, result.segments, result.reference, result.algorithm).say_remarks()


def _write(
    stream: BinaryIO, path: Path, segments: Sequence[Segment], reference: Volume, algorithm: str
) -> SourceSeries:
    source = read_source(path, reference, _WHAT, placed=True)
    with reported(path, _WHAT), quiet():
        planes = _planes(path, source)
        dataset = _header(source, algorithm)
        for number, one in enumerate(segments, start=1):
            _add_region(dataset, number, one, source, planes)
        dataset.save_as(stream, enforce_file_format=True)
    return source


def _planes(path: Path, source: SourceSeries) -> list[Frame]:
    """Where each slice lies, as its own header says it."""
    found = {
        file: list(frames_of(path, source.headers[file], file)) for file in sorted({file for file, _ in source.frames})
    }
    planes = [found[file][frame] for file, frame in source.frames]
    if any(plane.position is None or plane.orientation is None or plane.spacing is None for plane in planes):
        msg = f"{path}: {_WHAT} needs position and pixel spacing of every slice; write .nii.gz or .seg.nrrd instead"
        raise OutputError(msg)
    return planes


def _header(source: SourceSeries, algorithm: str) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, generate_uid

    first, now = source.headers[0], datetime.now()  # local time is what DICOM's DA and TM mean
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    # Explicit VR limits a contour to 64 KiB of text, about 2000 corners.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SpecificCharacterSet = _UTF8
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = _CLASS
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    for keyword in (*PATIENT_AND_STUDY, "StudyDescription", *_PATIENT):
        if keyword in first:
            setattr(dataset, keyword, first.get(keyword))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = first.StudyInstanceUID, generate_uid(prefix=None)
    dataset.Modality, dataset.SeriesNumber, dataset.OperatorsName = "RTSTRUCT", SERIES_NUMBER + 1, None
    dataset.SeriesDescription = "Structure set"
    dataset.Manufacturer = dataset.ManufacturerModelName = "lite-infer"
    dataset.SoftwareVersions = own_version()
    dataset.FrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = first.get("PositionReferenceIndicator")
    dataset.StructureSetLabel = "SEGMENTATION"
    dataset.StructureSetDescription = algorithm or None
    dataset.StructureSetDate, dataset.StructureSetTime = date, time
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    return dataset


def _frame_of_reference(source: SourceSeries) -> Any:
    first = source.headers[0]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID)
    series.ContourImageSequence = [_image(source, k) for k in range(len(source.frames)) if k not in source.copies]
    study = _item(ReferencedSOPClassUID=_STUDY_CLASS, ReferencedSOPInstanceUID=first.StudyInstanceUID)
    study.RTReferencedSeriesSequence = [series]
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _add_region(dataset: Any, number: int, one: Segment, source: SourceSeries, planes: Sequence[Frame]) -> None:
    dataset.StructureSetROISequence.append(
        _item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=dataset.FrameOfReferenceUID,
            ROIName=one.name[:_NAME_LENGTH],
            ROIGenerationAlgorithm="SEMIAUTOMATIC",
        )
    )
    region = _item(ROIDisplayColor=list(one.colour), ReferencedROINumber=number)
    contours = [_contour(points, _image(source, k)) for k, points in _contours(one, source, planes)]
    if contours:
        region.ContourSequence = contours
    dataset.ROIContourSequence.append(region)
    dataset.RTROIObservationsSequence.append(
        _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType=None, ROIInterpreter=None)
    )


def _contours(one: Segment, source: SourceSeries, planes: Sequence[Frame]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(slice, corners (P, 3) in LPS mm) of every contour of an object."""
    for k, mask in source.planes(one):
        plane = planes[k]
        position, orientation, spacing = plane.position, plane.orientation, plane.spacing
        if position is None or orientation is None or spacing is None:  # `_planes` has refused it
            continue
        along_row, along_column = np.array(orientation[:3]) * spacing[1], np.array(orientation[3:]) * spacing[0]
        for polygon in outlines(mask):
            i, j = (polygon + one.corner[:2]).T
            yield k, np.array(position) + np.outer(i, along_row) + np.outer(j, along_column)


def _contour(points: NDArray[np.float64], image: Any) -> Any:
    return _item(
        ContourImageSequence=[image],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=[f"{value:.{_DIGITS}g}" for value in points.ravel().tolist()],
    )


def _image(source: SourceSeries, k: int) -> Any:
    header = source.header(k)
    image = _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if source.is_multi_frame:
        image.ReferencedFrameNumber = source.frames[k][1] + 1
    return image


def _item(**attributes: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item
