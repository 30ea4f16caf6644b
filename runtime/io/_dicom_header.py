"""What DICOM headers say about the frames that they hold, and which series a folder holds.

Knows pydicom's reader and the attributes of image objects, classic and enhanced; decodes no pixel and orders
no slice. Reads no attribute that names a person.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime._zip import ZipArchive
from runtime.errors import ImageError
from runtime.io._dicom_files import DicomFile, archive_of, files_in, head_of, opened
from runtime.io._kinds import is_dicom
from runtime.io._quiet import quiet
from runtime.io._reading import MAX_BYTES, check_size, foreign, named

__all__ = ["MAX_FRAMES", "Frame", "Scan", "Series", "frames_of", "read_dataset", "scan_file", "scan_files"]

MAX_FRAMES = 50_000
"""Most frames of a multi-frame object."""

_WANTED = "a DICOM file"
_NO_IMAGE = {
    "SEG": "a segmentation",
    "RTSTRUCT": "a structure set",
    "RTPLAN": "a treatment plan",
    "RTDOSE": "a dose grid",
    "RTRECORD": "a treatment record",
    "REG": "a registration",
    "SR": "a report",
    "PR": "a presentation state",
    "KO": "a key object note",
    "SM": "a tiled whole-slide image",
    "DOC": "a document",
    "M3D": "a surface",
}
_NO_IMAGE_CLASS = "1.2.840.10008.5.1.4.1.1.66."
"""Raw data, registrations, segmentations and surfaces, whatever their modality says."""

_ABSURD = 1e30
"""Numbers beyond this are damage; their squares would overflow."""

_DEFLATED = "1.2.840.10008.1.2.1.99"
_HEADER_TAGS = [
    "BitsAllocated", "BitsStored", "Columns", "DoubleFloatPixelData", "FloatPixelData", "ImageOrientationPatient",
    "ImagePositionPatient", "ImageType", "ImagerPixelSpacing", "InstanceNumber", "Modality",
    "NominalScannedPixelSpacing", "NumberOfFrames", "PerFrameFunctionalGroupsSequence",
    "PhotometricInterpretation", "PixelRepresentation", "PixelSpacing", "RescaleIntercept", "RescaleSlope", "Rows",
    "SOPClassUID", "SamplesPerPixel", "SeriesInstanceUID", "SeriesNumber", "SharedFunctionalGroupsSequence",
    "SliceThickness", "SpacingBetweenSlices", "WindowCenter", "WindowWidth",
]  # fmt: skip
_SPACING_TAGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane of pixels, before it is decoded.

    Attributes
    ----------
    file, index : int
        File within the series and 0-based frame within the file.
    number : int
        InstanceNumber: the order of frames that lie at one place.
    size : tuple of int
        (rows, columns, samples).
    position, orientation : tuple of float, or None
        ImagePositionPatient and ImageOrientationPatient, LPS mm.
    spacing : tuple of 2 float, or None
        Millimetres between rows and between columns.
    thickness : float or None
        SpacingBetweenSlices, else SliceThickness.
    slope, intercept : float
        Stored value -> modality value; NaN where the header holds no usable number.
    window : tuple of 2 float, or None
        First (WindowCenter, WindowWidth).
    """

    file: int
    index: int
    number: int
    size: tuple[int, int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float
    intercept: float
    window: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Series:
    """The image files that share a SeriesInstanceUID, in order of their names.

    Attributes
    ----------
    uid : str
    number : int
        SeriesNumber, 0 where there is none.
    modality : str or None
    files : tuple of Path or ZipMember
    frames : tuple of Frame
    multi_frame : bool
        Whether a file holds more than one frame or is of a multi-frame class.
    mosaic : bool
        Whether the pictures are Siemens mosaics, tiles of whole volumes.
    """

    uid: str
    number: int
    modality: str | None
    files: tuple[DicomFile, ...]
    frames: tuple[Frame, ...]
    multi_frame: bool
    mosaic: bool


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder or an archive holds.

    Attributes
    ----------
    series : tuple of Series
        The image series, in the order of their SeriesNumber.
    passed_over : tuple of str
        DICOM objects that are no images, by kind ("a segmentation").
    """

    series: tuple[Series, ...]
    passed_over: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Header:
    file: DicomFile
    dataset: Any
    uid: str
    number: int


def read_dataset(
    file: DicomFile,
    *,
    pixels: bool,
    tags: Sequence[str] | None = _HEADER_TAGS,
    archive: ZipArchive | None = None,
) -> Any:
    """The data set of a file: all of it, or the header's attributes that are asked for; None asks for the header.

    Files of one zip archive are read faster when it is given opened (`archive_of`).
    """
    import pydicom

    with opened(file, archive) as stream, foreign(file, _WANTED), quiet():
        with named(file):
            _refuse_bomb(stream)
        stream.seek(0)
        if pixels:
            return pydicom.dcmread(stream, force=True)
        return pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=tags and list(tags))


def scan_file(path: Path) -> Series:
    """The one image object of a file; `ImageError` where it holds none."""
    dataset = read_dataset(path, pixels=False)
    with foreign(path, _WANTED), quiet():
        if not _is_image(dataset):
            modality = str(dataset.get("Modality") or "no modality")
            msg = f"{path}: is {_kind(dataset)} ({modality}), not an image; give the image series it belongs to"
            raise ImageError(msg)
        if not _has_size(dataset):
            msg = f"{path}: holds no DICOM image (no Rows and Columns); check that the file is complete"
            raise ImageError(msg)
        return _series((_Header(path, dataset, str(dataset.get("SeriesInstanceUID") or ""), 0),))


def scan_files(place: Path) -> Scan:
    """All image series of a folder (not of its subfolders) or of a zip archive.

    Files that are not DICOM and objects without an image (SEG, RTSTRUCT ...) are passed over.
    """
    groups: dict[str, list[_Header]] = {}
    passed_over: list[str] = []
    files = files_in(place)
    with archive_of(files[0] if files else None) as archive:
        for file in files:
            if not is_dicom(head_of(file, archive)):
                continue
            dataset = read_dataset(file, pixels=False, archive=archive)
            with foreign(file, _WANTED), quiet():
                if not _is_image(dataset):
                    passed_over.append(_kind(dataset))
                elif _has_size(dataset):
                    uid, number = dataset.get("SeriesInstanceUID"), dataset.get("SeriesNumber")
                    header = _Header(file, dataset, str(uid or ""), int(number or 0))
                    groups.setdefault(header.uid, []).append(header)
    found = [_series(tuple(headers)) for headers in groups.values()]
    return Scan(tuple(sorted(found, key=lambda series: (series.number, series.uid))), tuple(sorted(passed_over)))


def _kind(dataset: Any) -> str:
    return _NO_IMAGE.get(str(dataset.get("Modality") or ""), "an object of another kind")


def _has_size(dataset: Any) -> bool:
    return bool(dataset.get("Rows")) and bool(dataset.get("Columns"))


def _is_image(dataset: Any) -> bool:
    kind = str(dataset.get("SOPClassUID") or "")
    return str(dataset.get("Modality") or "") not in _NO_IMAGE and not kind.startswith(_NO_IMAGE_CLASS)


def _refuse_bomb(stream: Any) -> None:
    """Refuse a deflated data set that swells beyond the limits (pydicom inflates without any)."""
    head = stream.read(1024)
    if head[128:132] != b"DICM" or _DEFLATED.encode() not in head or head[132:140] != b"\x02\0\0\0UL\x04\0":
        return
    stream.seek(144 + int.from_bytes(head[140:144], "little"))
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := stream.read(1 << 16):
        total += len(inflate.decompress(chunk))  # at most 64 MiB at a time
        if total > MAX_BYTES:
            msg = f"inflates to more than {MAX_BYTES >> 30} GiB; it is damaged"
            raise ImageError(msg)


def _series(headers: Sequence[_Header]) -> Series:
    frames: list[Frame] = []
    multi_frame = mosaic = False
    for file, header in enumerate(headers):
        with foreign(header.file, _WANTED), quiet():
            own = tuple(frames_of(header.file, header.dataset, file))
            frames.extend(own)
            per_frame = header.dataset.get("PerFrameFunctionalGroupsSequence")
            multi_frame = multi_frame or len(own) > 1 or bool(per_frame)
            mosaic = mosaic or "MOSAIC" in _texts(header.dataset.get("ImageType"))
    first = headers[0]
    return Series(
        uid=first.uid,
        number=first.number,
        modality=str(first.dataset.get("Modality") or "") or None,
        files=tuple(header.file for header in headers),
        frames=tuple(frames),
        multi_frame=multi_frame,
        mosaic=mosaic,
    )


def frames_of(path: DicomFile, dataset: Any, file: int) -> Iterator[Frame]:
    count = int(dataset.get("NumberOfFrames") or 1)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    bits = int(dataset.get("BitsAllocated") or 8)
    check_size(path, (rows, columns, count), samples * max(1, bits // 8))
    if count > MAX_FRAMES:
        msg = f"{path}: claims {count} frames, the limit is {MAX_FRAMES}; split the object or check that it is whole"
        raise ImageError(msg)
    if samples not in (1, 3):
        msg = f"{path}: has {samples} samples per pixel, wanted 1 (grey) or 3 (colour); convert the image"
        raise ImageError(msg)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = (dataset.get("SharedFunctionalGroupsSequence") or (None,))[0]
    if per_frame and len(per_frame) != count:
        msg = f"{path}: has {count} frames but describes {len(per_frame)}; it is damaged"
        raise ImageError(msg)
    common = [] if shared is None else [shared]
    if not per_frame:
        frame = _frame(dataset, common, (file, 0), (rows, columns, samples))
        yield from (replace(frame, index=index) for index in range(count))
        return
    for index, group in enumerate(per_frame):
        yield _frame(dataset, [group, *common], (file, index), (rows, columns, samples))


def _frame(dataset: Any, groups: list[Any], place: tuple[int, int], size: tuple[int, int, int]) -> Frame:
    measures = _macro(groups, "PixelMeasuresSequence", dataset)
    values = _macro(groups, "PixelValueTransformationSequence", dataset)
    lut = _macro(groups, "FrameVOILUTSequence", dataset)
    spacing = next((found for tag in _SPACING_TAGS if (found := _floats(measures, tag, 2))), None)
    thickness = _floats(measures, "SpacingBetweenSlices", 1) or _floats(measures, "SliceThickness", 1)
    level, width = _first(lut, "WindowCenter"), _first(lut, "WindowWidth")
    return Frame(
        file=place[0],
        index=place[1],
        number=int(dataset.get("InstanceNumber") or 0),
        size=size,
        position=_floats(_macro(groups, "PlanePositionSequence", dataset), "ImagePositionPatient", 3),
        orientation=_floats(_macro(groups, "PlaneOrientationSequence", dataset), "ImageOrientationPatient", 6),
        spacing=spacing if spacing and min(spacing) > 0 else None,
        thickness=abs(thickness[0]) if thickness and thickness[0] else None,
        slope=_scale(values, "RescaleSlope", 1.0),
        intercept=_scale(values, "RescaleIntercept", 0.0),
        window=(level, width) if level is not None and width is not None and width > 0 else None,
    )


def _macro(groups: list[Any], name: str, dataset: Any) -> Any:
    """Item of a functional group: the frame's own, else the shared one; classic objects hold it at top level."""
    for group in groups:
        items = group.get(name)
        if items:
            return items[0]
    return dataset


def _floats(item: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` sane numbers, or None."""
    value = item.get(keyword)
    if value is None or value == "":
        return None
    values = [value] if count == 1 and not _is_list(value) else value
    if not _is_list(values) or len(values) != count:
        return None
    numbers = tuple(float(number) for number in values)
    return numbers if all(abs(number) < _ABSURD for number in numbers) else None  # false for NaN as well


def _scale(item: Any, keyword: str, absent: float) -> float:
    """A number; ``absent`` where the attribute is missing or empty, NaN where it is no number."""
    if item.get(keyword) in (None, ""):
        return absent
    number = _floats(item, keyword, 1)
    return number[0] if number else math.nan


def _first(item: Any, keyword: str) -> float | None:
    value = item.get(keyword)
    if _is_list(value):
        value = value[0] if len(value) else None
    number = float(value) if value not in (None, "") else math.nan
    return number if math.isfinite(number) else None


def _is_list(value: Any) -> bool:
    return not isinstance(value, str) and isinstance(value, Sequence)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in value) if _is_list(value) else (str(value),)
