"""DICOM segmentations (SEG): every object a binary segment on the frames of the series that was segmented.

Knows highdicom and the order of the frames; knows no contour. Each plane is written as the frame that it was read
from, on that frame's own grid, so that nothing is flipped or moved. Objects may overlap.

Memory: one label map of the slices that hold an object; where objects overlap, one byte for each of them and three more
for every voxel of those slices.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io._codes import coding_of
from runtime.io._dicom_source import SERIES_NUMBER, SourceSeries, own_version, read_source, reported
from runtime.io._quiet import quiet
from runtime.io._result import Result, Segment, layers_of

__all__ = ["MAX_SEGMENTS", "check_dicom_seg", "write_dicom_seg"]

MAX_SEGMENTS = 65535
"""Most segments: SegmentNumber has 16 bits."""

_WHAT = "a DICOM segmentation"
_CHECKED = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime")
"""What highdicom refuses where a careless source holds no date, time or sex; the result carries it as it is."""

_UTF8 = "ISO_IR 192"
_LABEL_LENGTH = 64


def check_dicom_seg(path: Path, reference: Volume, count: int) -> None:
    """Write one voxel of an object to nowhere: what the real result would fail of, this fails of."""
    one = Segment(1, "object 1", (0, 0, 0), np.ones((1, 1, 1), dtype=np.bool_))
    _write(io.BytesIO(), path, [one], reference, "")


def write_dicom_seg(stream: BinaryIO, path: Path, result: Result) -> None:
    """Write a segmentation of the series that the image came from.

    Segments are numbered from 1 in the order of labels. An object that is named as pydicom's SNOMED dictionary
    names a structure (``liver``, ``left kidney``) gets that code, others are "tissue".

    Parameters
    ----------
    stream : binary file
        Where the bytes go.
    path : Path
        The name that they will have.
    result : Result
        What to write.

    Raises
    ------
    OutputError
        If the image did not come from DICOM, its files cannot be read any more, they lack what a segmentation
        refers to, or highdicom is missing.
    """
    segments = list(result.segments)
    if not 0 < len(segments) <= MAX_SEGMENTS:
        msg = f"{path}: {len(segments)} objects, {_WHAT} holds 1 to {MAX_SEGMENTS}; write .nii.gz instead"
        raise OutputError(msg)
    _write(stream, path, segments, result.reference, result.algorithm).say_remarks()


def _source(path: Path, reference: Volume) -> SourceSeries:
    source = read_source(path, reference, _WHAT, placed=reference.shape[2] > 1)
    try:
        import highdicom  # noqa: F401 - to fail early, yet not before an image for which no package would help
    except ImportError as error:
        msg = f"{path}: {_WHAT} needs highdicom, which is not installed; install lite-infer[dicom-out]"
        raise OutputError(msg) from error
    return source


def _write(stream: BinaryIO, path: Path, segments: list[Segment], reference: Volume, algorithm: str) -> SourceSeries:
    source = _source(path, reference)
    with reported(path, _WHAT), quiet():
        _segmentation(source, segments, reference, algorithm).save_as(stream, enforce_file_format=True)
    return source


def _segmentation(source: SourceSeries, segments: list[Segment], reference: Volume, algorithm: str) -> Any:
    import highdicom
    from pydicom.uid import generate_uid

    used = sorted({k for one in segments for k, _ in source.planes(one)}) or [0]
    images = _images(source, used, reference.spacing[2])
    for keyword in _CHECKED:
        setattr(images[0], keyword, None)
    dataset = highdicom.seg.Segmentation(
        source_images=images,
        pixel_array=_frames(source, segments, reference.shape, used),
        segmentation_type="BINARY",
        segment_descriptions=[_description(number, one, algorithm) for number, one in enumerate(segments, start=1)],
        series_instance_uid=generate_uid(prefix=None),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="lite-infer",
        manufacturer_model_name="lite-infer",
        software_versions=own_version(),
        device_serial_number="0",
        content_label="SEGMENTATION",
        series_description="Segmentation",
        specific_character_set=_UTF8,
    )
    if "ImagePositionPatient" not in images[0] and reference.affine is None:
        dataset.PatientOrientation = images[0].get("PatientOrientation")
    for keyword in _CHECKED:
        dataset[keyword] = source.headers[0][keyword]
    dataset.pop("ContributingEquipmentSequence", None)  # the source's scanner, station and hospital
    if source.is_multi_frame:
        _restore_frame_numbers(dataset, source, used)
    return dataset


class _Stack(np.ndarray[Any, Any]):
    """Masks (F, rows, columns, segments) that are counted in 16 bits, where numpy would take 64 a voxel."""

    def sum(self, axis: Any = None, dtype: Any = None, out: Any = None, **options: Any) -> Any:
        """Add up; highdicom finds overlaps so."""
        narrow = np.uint16 if axis in (-1, 3) and dtype is None else dtype
        return np.asarray(self).sum(axis, narrow, out, **options)


def _frames(
    source: SourceSeries, segments: list[Segment], shape: tuple[int, int, int], used: list[int]
) -> NDArray[np.unsignedinteger]:
    """Labels (F, rows, columns) of the slices in use or, where objects overlap, masks (F, rows, columns, segments)."""
    columns, rows, _ = shape
    place = {k: index for index, k in enumerate(used)}
    if max(layers_of(segments)) == 0:
        flat = np.zeros((len(used), rows, columns), dtype=np.min_scalar_type(len(segments)))
        for number, one in enumerate(segments, start=1):
            i, j, _ = one.region
            for k, plane in source.planes(one):
                flat[place[k], j, i][plane.T] = number  # (i, j) -> (row, column)
        return flat
    stacked = np.zeros((len(used), rows, columns, len(segments)), dtype=np.uint8).view(_Stack)
    for number, one in enumerate(segments):
        i, j, _ = one.region
        for k, plane in source.planes(one):
            stacked[place[k], j, i, number] = plane.T
    return stacked


def _images(source: SourceSeries, used: list[int], thickness: float) -> list[Any]:
    """Headers of the slices in use as highdicom wants them: one each, or one multi-frame object of these frames."""
    from pydicom.dataset import Dataset

    first = Dataset()  # a copy; Dataset(other) would share its elements
    first.update(source.headers[0])
    if not source.is_multi_frame:
        first.update(source.header(used[0]))
        images = [first, *(source.header(k) for k in used[1:])]
        for image in images if "ImageOrientationPatient" in first else ():
            image.ImageOrientationPatient = first.ImageOrientationPatient  # equal but for rounding, said the loader
            _fill_thickness(image, thickness)
        return images
    frames = [source.frames[k][1] for k in used]
    groups = first.get("PerFrameFunctionalGroupsSequence")
    shared = Dataset()
    shared.update((first.get("SharedFunctionalGroupsSequence") or [Dataset()])[0])
    if groups:
        first.PerFrameFunctionalGroupsSequence = [groups[frame] for frame in frames]
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):  # the loader saw that they are all equal
            if name not in shared and name in groups[frames[0]]:
                shared[name] = groups[frames[0]][name]
        for measures in shared.get("PixelMeasuresSequence") or ():
            _fill_thickness(measures, thickness)
    first.SharedFunctionalGroupsSequence = [shared]
    first.NumberOfFrames = len(frames)
    return [first]


def _fill_thickness(item: Any, thickness: float) -> None:
    """State a slice thickness where the source leaves it out: the distance of the slices."""
    from pydicom.valuerep import DSfloat

    if not item.get("SliceThickness"):
        item.SliceThickness = DSfloat(thickness, auto_format=True)


def _restore_frame_numbers(dataset: Any, source: SourceSeries, used: list[int]) -> None:
    """Refer to the frames of the source by their own numbers, not those of the part that highdicom was given."""
    seen = {}  # highdicom lets the frames of several segments share one item
    for group in (*dataset.SharedFunctionalGroupsSequence, *dataset.PerFrameFunctionalGroupsSequence):
        for derivation in group.get("DerivationImageSequence") or ():
            seen.update({id(image): image for image in derivation.get("SourceImageSequence") or ()})
    for image in seen.values():
        if image.get("ReferencedFrameNumber"):
            image.ReferencedFrameNumber = source.frames[used[int(image.ReferencedFrameNumber) - 1]][1] + 1


def _description(number: int, one: Segment, algorithm: str) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    name, _, version = algorithm.rpartition(" ")
    coding = coding_of(one.name)
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=one.name[:_LABEL_LENGTH],
        segmented_property_category=_code(coding.category),
        segmented_property_type=_code(coding.kind),
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=name or "lite-infer", version=version or own_version(), family=codes.DCM.ArtificialIntelligence
        ),
        display_color=highdicom.color.CIELabColor.from_rgb(*one.colour),
    )
    if coding.side is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_code(coding.side)]
    return description


def _code(code: tuple[str, str, str]) -> Any:
    import highdicom

    scheme, value, meaning = code
    return highdicom.sr.CodedConcept(value, scheme, meaning)
