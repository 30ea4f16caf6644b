"""What tests of output formats share: DICOM series made on the fly, objects that overlap, and space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import Volume, world_to_voxel
from runtime.io._result import Result, Segment

UID = "1.2.826.0.1.3680043.8.498"
PATIENT = {"PatientName": "Müller^Änne", "PatientID": "id-77", "PatientBirthDate": "19500102", "PatientSex": "F"}


@dataclass(frozen=True)
class Layout:
    """How a series lies in the patient: unit vectors (LPS) along which columns and rows are counted, and sizes."""

    name: str
    along_row: tuple[float, float, float]
    along_column: tuple[float, float, float]
    spacing: tuple[float, float] = (0.9, 0.6)
    step: float = 2.5
    shape: tuple[int, int, int] = (13, 11, 6)
    shuffled: bool = False


LAYOUTS = (
    Layout("axial", (1, 0, 0), (0, 1, 0)),
    Layout("axial, from above, shuffled", (1, 0, 0), (0, 1, 0), step=-2.5, shuffled=True),
    Layout("prone", (-1, 0, 0), (0, -1, 0)),
    Layout("sagittal", (0, 1, 0), (0, 0, -1), spacing=(0.5, 1.5)),
    Layout("coronal", (1, 0, 0), (0, 0, -1), step=-4.0),
    Layout("mirrored rows", (1, 0, 0), (0, -1, 0)),
    Layout("oblique", (0.8, 0.48, -0.36), (-0.6, 0.64, -0.48), spacing=(1.25, 0.7), step=3.3),
)


def write_series(folder: Path, layout: Layout = LAYOUTS[0], **attributes: Any) -> Path:
    """Write a classic CT series with all that DICOM results refer to; further attributes by keyword, None omits one."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    columns, rows, slices = layout.shape
    row, column = np.array(layout.along_row, float), np.array(layout.along_column, float)
    origin = np.array([-31.5, 12.25, 104.0])
    order = np.random.default_rng(1).permutation(slices) if layout.shuffled else np.arange(slices)
    pixels = np.random.default_rng(2).integers(-200, 900, (slices, rows, columns)).astype(np.int16)
    for number, k in enumerate(order):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SpecificCharacterSet = "ISO_IR 100"
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{UID}.3.{k + 1}"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (f"{UID}.{n}" for n in (1, 2, 4))
        data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 3, number + 1
        data.StudyDate, data.StudyTime, data.StudyID, data.AccessionNumber = "20200101", "120000", "s1", "a1"
        data.ReferringPhysicianName, data.Manufacturer, data.PositionReferenceIndicator = "", "maker", ""
        for keyword, value in PATIENT.items():
            setattr(data, keyword, value)
        data.Rows, data.Columns, data.SamplesPerPixel = rows, columns, 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 1
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelSpacing, data.SliceThickness = [layout.spacing[0], layout.spacing[1]], abs(layout.step)
        data.ImageOrientationPatient = [*map(float, row), *map(float, column)]
        data.ImagePositionPatient = (origin + np.cross(row, column) * layout.step * k).round(6).tolist()
        data.PixelData = pixels[k].tobytes() + b"\0" * (pixels[k].nbytes % 2)
        for keyword, value in attributes.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value)
        data.save_as(folder / f"IM{number:03d}", enforce_file_format=True)
    return folder


def some_segments(shape: tuple[int, int, int], *, overlapping: bool = True) -> tuple[Segment, ...]:
    """A ragged object with holes and stray voxels, a block that overlaps it or not, and an object not found."""
    ragged = np.random.default_rng(5).random(shape) < 0.6
    ragged[shape[0] // 2 :] = ragged[: max(0, shape[0] // 2 - 20)] = ragged[:, 30:] = False
    ragged[:, :, 1:][:, :, -1:] = False
    block = np.zeros(shape, dtype=bool)
    first = shape[0] // 2 - 2 if overlapping else shape[0] // 2
    block[first : shape[0] - 1, shape[1] // 4 : shape[1] - 2, shape[2] // 2 :] = True
    masks = {"liver": ragged, "Niere, links": block, "nothing": np.zeros(shape, dtype=bool)}
    return tuple(segment(label, name, mask) for label, (name, mask) in enumerate(masks.items(), start=1))


def segment(label: int, name: str, mask: NDArray[np.bool_]) -> Segment:
    """An object cropped to its bounding box, as a session returns it."""
    where = np.argwhere(mask)
    if not len(where):
        return Segment(label, name, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool))
    low, high = where.min(axis=0), where.max(axis=0) + 1
    crop = mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    return Segment(label, name, (int(low[0]), int(low[1]), int(low[2])), crop.copy())


def mask_of(one: Segment, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    mask[one.region] = one.crop
    return mask


def result_of(volume: Volume, segments: tuple[Segment, ...]) -> Result:
    """A result whose label map gives shared voxels to the last object."""
    label_map = np.zeros(volume.shape, dtype=np.uint8)
    for one in segments:
        label_map[one.region][one.crop] = one.label
    return Result(label_map, volume, {one.label: one.name for one in segments}, segments, "tiny 1.2")


def placed(points_lps: NDArray[np.float64], volume: Volume) -> NDArray[np.bool_]:
    """Mask of the voxels at points of the patient (LPS mm); each must be the centre of one, and of another one."""
    assert volume.affine is not None
    points_ijk = world_to_voxel(volume.affine, points_lps * (-1, -1, 1))
    indices = np.rint(points_ijk).astype(int)
    np.testing.assert_allclose(points_ijk, indices, atol=2e-3)
    mask = np.zeros(volume.shape, dtype=bool)
    mask[tuple(indices.T)] = True
    assert mask.sum() == len(points_lps)
    return mask
