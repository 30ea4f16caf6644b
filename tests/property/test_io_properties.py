"""Properties of runtime.io: what goes in comes out, in place, whatever the grid."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.geometry import Volume
from runtime.io import load, save
from runtime.io.dicom import read_file

SIZES = st.tuples(*[st.integers(1, 9)] * 3)
QUICK = settings(max_examples=40, deadline=None)


@st.composite
def affines(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any rotation, reflection and anisotropic spacing, anywhere in the scanner."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(draw(st.tuples(*[st.floats(0.05, 12)] * 3)))
    affine[:3, 3] = random.uniform(-900, 900, 3)
    return affine


def _labels(size: tuple[int, int, int], top: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, top + 1, size)


@QUICK
@given(SIZES, affines(), st.sampled_from(["seg.nii", "seg.nii.gz"]), st.integers(1, 70_000))
def test_a_nifti_label_map_comes_back_in_its_place(
    size: tuple[int, int, int], affine: NDArray[np.float64], name: str, top: int
) -> None:
    labels = _labels(size, top)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / name, labels, Volume(np.zeros(size, np.uint8), affine))
        again, image = load(Path(folder) / name), nibabel.load(Path(folder) / name)
        np.testing.assert_array_equal(again.array, labels)
        np.testing.assert_array_equal(image.get_fdata(), labels)
    np.testing.assert_allclose(again.affine, affine, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(image.get_qform(), affine, rtol=1e-4, atol=1e-2)


@QUICK
@given(
    SIZES,
    affines(),
    st.sampled_from(["u1", "<i2", ">i2", "<u2", "<i4", ">f4", "<f4", "<f8"]),
    st.sampled_from([(1.0, 0.0), (2.0, -100.0), (0.25, 3.5), (0.0, 9.0)]),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_any_nifti_is_read_and_labelled_as_nibabel_sees_it(
    size: tuple[int, int, int],
    affine: NDArray[np.float64],
    dtype: str,
    scaling: tuple[float, float],
    codes: tuple[int, int],
) -> None:
    stored = (np.random.default_rng(1).integers(0, 120, size)).astype(dtype)
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(size)
    header.set_qform(affine, code=codes[0])
    header.set_sform(affine, code=codes[1])
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = *scaling, 352
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.nii"
        path.write_bytes(header.binaryblock + bytes(4) + stored.tobytes(order="F"))
        volume, image = load(path), nibabel.load(path)
        np.testing.assert_allclose(volume.array, image.get_fdata(), rtol=1e-6)
        np.testing.assert_allclose(volume.affine, image.affine, rtol=1e-12)
        save(Path(folder) / "seg.nii", np.ones(size, int), volume)
        written = nibabel.load(Path(folder) / "seg.nii")
        np.testing.assert_array_equal(written.affine, image.affine)
        np.testing.assert_array_equal(written.get_qform(), image.get_qform())


@QUICK
@given(SIZES, st.booleans(), st.integers(1, 300))
def test_segs_of_the_challenge_come_back_in_its_order(size: tuple[int, int, int], flat: bool, top: int) -> None:
    shape = size[1:] if flat else size
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / ("2D.npz" if flat else "3D.npz"), imgs=np.zeros(shape, np.uint8))
        volume = load(Path(folder) / ("2D.npz" if flat else "3D.npz"))
        labels = _labels(volume.shape, top)
        save(Path(folder) / "out.npz", labels, volume)
        with np.load(Path(folder) / "out.npz") as file:
            np.testing.assert_array_equal(file["segs"], labels[:, :, 0].T if flat else labels.transpose(2, 1, 0))


@QUICK
@given(affines(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.sampled_from([np.uint8, np.int16, np.uint16]))
def test_a_dicom_plane_lies_where_its_attributes_say(
    affine: NDArray[np.float64], size: tuple[int, int], dtype: type[Any]
) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset

    pixels = _labels((*size, 1), 200).astype(dtype)[:, :, 0]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    row, column = (affine[:3, axis] / spacing[axis] for axis in (0, 1))
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = *size, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
    data.ImageOrientationPatient = [f"{value:.10f}" for value in (*row, *column)]
    data.ImagePositionPatient = [f"{value:.8f}" for value in affine[:3, 3]]
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    with tempfile.TemporaryDirectory() as folder:
        data.save_as(Path(folder) / "x.dcm", enforce_file_format=True)
        volume = read_file(Path(folder) / "x.dcm")
    np.testing.assert_array_equal(volume.array[:, :, 0].T, pixels)
    mirror = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS -> RAS
    np.testing.assert_allclose(volume.affine[:, [0, 1, 3]], (mirror @ affine)[:, [0, 1, 3]], atol=1e-5)
