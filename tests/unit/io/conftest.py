"""Small images made on the fly: NIfTI files with any header, DICOM slices with any geometry."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

SHAPE = (7, 5, 3)


def all_affines() -> list[NDArray[np.float64]]:
    """One affine for each of the 48 ways to lay voxel axes along world axes: anisotropic, off-centre, oblique."""
    turn = np.array([[0.998, -0.05, 0.04], [0.052, 0.997, -0.06], [-0.037, 0.062, 0.997]])
    left, _, right = np.linalg.svd(turn)
    affines = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        affine = np.eye(4)
        for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
            affine[:3, axis] = (left @ right)[:, world] * sign * (0.8, 1.7, 5.0)[axis]
        affine[:3, 3] = (-31.5, 12.25, 104.0)
        affines.append(affine)
    return affines


@pytest.fixture
def voxels() -> NDArray[np.int16]:
    """Every voxel another value, so that no flip or transposition goes unseen."""
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) * 7 - 300).astype(np.int16)


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., Path]:
    """Write a NIfTI file; header fields by keyword."""

    def write(array: NDArray[Any], affine: Any = None, name: str = "image.nii", **fields: Any) -> Path:
        image = nibabel.Nifti1Image(
            array, np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine, dtype=array.dtype
        )
        image.header.set_slope_inter(1, 0)
        nibabel.save(image, tmp_path / name)
        if fields:
            raw = bytearray((tmp_path / name).read_bytes())  # nibabel would not write all that files contain
            header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
            for field, value in fields.items():
                header[field] = value
            raw[:348] = header.binaryblock
            (tmp_path / name).write_bytes(bytes(raw))
        return tmp_path / name

    return write


@pytest.fixture
def write_slice(tmp_path: Path) -> Callable[..., Path]:
    """Write a classic DICOM slice into ``tmp_path / folder``; attributes by keyword, None leaves one out."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    def write(pixels: NDArray[Any], name: str, folder: str = "series", **attributes: Any) -> Path:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{abs(hash(name)) % 10**9}"
        data.SeriesInstanceUID, data.Modality, data.PatientName = "1.2.3.4", "CT", "Doe^Jane"
        data.Rows, data.Columns = pixels.shape[:2] if pixels.ndim == 2 else pixels.shape[-3:-1]
        data.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        data.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
        data.HighBit = data.BitsStored - 1
        data.PixelRepresentation = int(pixels.dtype.kind == "i")
        data.PixelSpacing, data.SliceThickness = [0.9, 0.6], 2.5
        data.ImagePositionPatient, data.ImageOrientationPatient = [0.0, 0.0, 0.0], [1, 0, 0, 0, 1, 0]
        if pixels.ndim == 3:
            data.PlanarConfiguration = 0
        data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
        for keyword, value in attributes.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value)
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        data.save_as(path, enforce_file_format=True)
        return path

    return write
