"""runtime.io.nifti, reading: against nibabel, which reads the same files on its own."""

from __future__ import annotations

import gzip
import logging
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from unit.io.conftest import SHAPE, all_affines

from runtime.errors import ImageError
from runtime.io import load

Write = Callable[..., Path]


@pytest.mark.parametrize("affine", all_affines(), ids=lambda a: "".join(nibabel.aff2axcodes(a)))
def test_every_orientation_is_read_in_file_order_with_nibabels_affine(
    write_image: Write, voxels: NDArray[np.int16], affine: NDArray[np.float64]
) -> None:
    path = write_image(voxels, affine)
    volume = load(path)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)
    np.testing.assert_allclose(volume.spacing, (0.8, 1.7, 5.0), rtol=1e-6)
    assert not volume.is_2d


@pytest.mark.parametrize(
    ("slope", "inter", "dtype"),
    [
        (1.0, 0.0, np.int16),
        (0.0, 7.0, np.int16),
        (np.nan, 7.0, np.int16),
        (np.inf, 0.0, np.int16),
        (1.0, -1024.0, np.int16),
        (2.0, 5.0, np.int16),
        (1000.0, 0.0, np.int32),
        (0.5, -512.0, np.float32),
        (1e12, 0.0, np.float32),
        (-1.0, 0.25, np.float32),
    ],
)
def test_slope_and_intercept_give_nibabels_values_in_the_smallest_dtype(
    write_image: Write, voxels: NDArray[np.int16], slope: float, inter: float, dtype: type
) -> None:
    path = write_image(voxels, scl_slope=slope, scl_inter=inter)
    volume = load(path)
    assert volume.array.dtype == dtype
    np.testing.assert_allclose(volume.array, nibabel.load(path).get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "u4", "f4", ">i2", ">f4", ">u4"])
def test_stored_dtypes_are_kept_in_native_byte_order(tmp_path: Path, voxels: NDArray[np.int16], dtype: str) -> None:
    stored = (np.abs(voxels) % 100).astype(dtype)
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(stored.dtype)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4), header), tmp_path / "x.nii.gz")
    array = load(tmp_path / "x.nii.gz").array
    assert array.dtype == np.dtype(dtype).newbyteorder("=")
    assert array.dtype.isnative
    np.testing.assert_array_equal(array, stored)


@pytest.mark.parametrize(
    ("stored", "top", "dtype"),
    [("i8", 300, "i2"), ("u8", 70_000, "i4"), ("i8", 2**40, "i8"), ("f8", 300, "f4")],
)
def test_64_bit_voxels_shrink_where_nothing_is_lost(
    write_image: Write, voxels: NDArray[np.int16], stored: str, top: int, dtype: str
) -> None:
    wide = np.abs(voxels).astype(stored)
    wide[0, 0, 0] = top
    array = load(write_image(wide)).array
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array, wide)


def test_nan_and_infinity_survive(write_image: Write) -> None:
    stored = np.zeros(SHAPE, np.float64)
    stored[0, 0, :] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(load(write_image(stored)).array[0, 0], [np.nan, np.inf, -np.inf])


def test_colours_become_the_last_axis(tmp_path: Path) -> None:
    stored = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for channel, name in enumerate("RGB"):
        stored[name] = np.arange(stored.size).reshape(SHAPE) + 50 * channel
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "x.nii")
    array = load(tmp_path / "x.nii").array
    assert array.shape == (*SHAPE, 3)
    for channel, name in enumerate("RGB"):
        np.testing.assert_array_equal(array[..., channel], stored[name])


def test_complex_voxels_are_refused(write_image: Write) -> None:
    with pytest.raises(ImageError, match="holds complex numbers; save their magnitude"):
        load(write_image(np.zeros(SHAPE, np.complex64)))


def test_several_time_points_ask_for_a_choice(write_image: Write, voxels: NDArray[np.int16]) -> None:
    path = write_image(np.stack([voxels, voxels + 1, voxels + 2], axis=3))
    with pytest.raises(ImageError, match=r"holds 3 time points .*choose one with volume=0 \.\. 2 \(--volume N\)"):
        load(path)
    for point in range(3):
        np.testing.assert_array_equal(load(path, volume=point).array, voxels + point)
    for point in (3, -1):
        with pytest.raises(ImageError, match=rf"there is no volume {point}, it holds 3"):
            load(path, volume=point)


def test_trailing_axes_of_size_one_are_dropped(write_image: Write, voxels: NDArray[np.int16]) -> None:
    assert load(write_image(voxels[..., np.newaxis, np.newaxis])).shape == SHAPE


def test_vectors_per_voxel_are_refused(write_image: Write) -> None:
    with pytest.raises(ImageError, match=r"is 5-dimensional \(7x5x3x1x2: vectors per voxel\)"):
        load(write_image(np.zeros((*SHAPE, 1, 2), np.float32)))


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_one_time_point_is_read_without_the_others(tmp_path: Path, name: str) -> None:
    stored = np.random.default_rng(0).integers(0, 50, (64, 64, 20, 12)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / name)
    load(tmp_path / name, volume=1)  # imports out of the way
    tracemalloc.start()
    array = load(tmp_path / name, volume=11).array
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(array, stored[..., 11])
    assert peak < stored.nbytes / 2  # the buffers of unpacking count as well


def test_a_two_dimensional_file_is_one_slice(write_image: Write, voxels: NDArray[np.int16]) -> None:
    volume = load(write_image(voxels[:, :, 0], pixdim=[1, 2, 3, 0, 0, 0, 0, 0], srow_z=[0, 0, 0, 9]))
    assert volume.is_2d
    assert volume.shape == (7, 5, 1)
    assert abs(np.linalg.det(volume.affine)) > 0
    assert volume.spacing == (2.0, 3.0, 1.0)


def test_units_other_than_millimetres_are_converted(write_image: Write, voxels: NDArray[np.int16]) -> None:
    assert load(write_image(voxels, xyzt_units=3)).spacing == pytest.approx((0.002, 0.003, 0.004))
    assert load(write_image(voxels, xyzt_units=0)).spacing == (2.0, 3.0, 4.0)


def test_a_singular_sform_gives_way_to_a_sound_qform(
    write_image: Write, voxels: NDArray[np.int16], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_image(voxels, qform_code=1, sform_code=1, srow_x=[0, 0, 0, 0])
    assert load(path).spacing == (2.0, 3.0, 4.0)
    assert "the sform is singular; the qform is used" in caplog.text


def test_forms_that_are_both_unusable_are_refused(write_image: Write, voxels: NDArray[np.int16]) -> None:
    with pytest.raises(ImageError, match=r"image\.nii: its sform and qform are singular or not finite"):
        load(write_image(voxels, qform_code=0, sform_code=1, srow_x=[np.nan, 0, 0, 0]))


def test_doubtful_geometry_is_logged_without_names(
    write_image: Write, voxels: NDArray[np.int16], caplog: pytest.LogCaptureFixture
) -> None:
    load(write_image(voxels, qform_code=1, sform_code=1, qoffset_x=55))
    load(write_image(voxels, qform_code=0, sform_code=0))
    load(write_image(voxels, qform_code=0, sform_code=1, srow_x=[2, 2, 0, 0]))
    assert "sform and qform disagree by up to 55; the sform is used" in caplog.text
    assert "no orientation (both codes are 0)" in caplog.text
    assert "not perpendicular (by 33.7 degrees)" in caplog.text
    assert "image" not in caplog.text.replace("images", "")
    assert {record.name for record in caplog.records} == {"lite_infer"}


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_file_that_ends_anywhere_is_an_image_error(tmp_path: Path, voxels: NDArray[np.int16], name: str) -> None:
    path = tmp_path / name
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    whole = path.read_bytes()
    for length in range(1, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError, match=r"x\.nii"):
            load(path)


def test_a_wrong_checksum_is_an_image_error(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    path = tmp_path / "x.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 255
    path.write_bytes(bytes(raw))
    with pytest.raises(ImageError, match="BadGzipFile"):
        load(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "more than the limits of 2147483648 voxels"),
        ({"dim": [3, 2000, 2000, 400, 1, 1, 1, 1]}, "is truncated"),
        ({"dim": [3, 7, 0, 3, 1, 1, 1, 1]}, "holds no voxels"),
        ({"dim": [3, 7, -5, 3, 1, 1, 1, 1]}, "holds no voxels"),
        ({"dim": [1, 7, 5, 3, 1, 1, 1, 1]}, "claims 1 dimensions"),
        ({"dim": [9, 7, 5, 3, 1, 1, 1, 1]}, "claims 9 dimensions"),
        ({"datatype": 1234}, "known datatype"),
        ({"datatype": 1}, "holds no grey values"),
        ({"vox_offset": np.nan}, "vox_offset is nan"),
        ({"vox_offset": -4}, "vox_offset is -4"),
        ({"vox_offset": 1e30}, "vox_offset is"),
        ({"vox_offset": 99999}, "is truncated"),
        ({"scl_slope": 2, "scl_inter": np.nan}, "scl_inter is nan"),
        ({"magic": b"xxx"}, "has no NIfTI header"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(
    write_image: Write, voxels: NDArray[np.int16], fields: dict[str, Any], message: str
) -> None:
    path = write_image(voxels, **fields)
    tracemalloc.start()
    with pytest.raises(ImageError, match=message):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_a_gzip_bomb_is_read_only_as_far_as_the_header_says(write_image: Write, voxels: NDArray[np.int16]) -> None:
    path = write_image(voxels)
    bomb = path.with_name("bomb.nii.gz")
    bomb.write_bytes(gzip.compress(path.read_bytes() + bytes(1 << 26), 9))
    tracemalloc.start()
    array = load(bomb).array
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(array, voxels)
    assert peak < 10e6


def test_content_decides_not_the_name(write_image: Write, voxels: NDArray[np.int16]) -> None:
    path = write_image(voxels)
    packed = path.with_name("plain.nii")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    plain = path.with_name("packed.nii.gz")
    plain.write_bytes(path.read_bytes())
    nameless = path.with_name("scan")
    nameless.write_bytes(path.read_bytes())
    for other in (packed, plain, nameless):
        np.testing.assert_array_equal(load(other).array, voxels)


def test_a_header_pair_is_read_from_either_half(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    nibabel.save(nibabel.Nifti1Pair(voxels, np.eye(4)), tmp_path / "x.hdr")
    for name in ("x.hdr", "x.img"):
        np.testing.assert_array_equal(load(tmp_path / name).array, voxels)
    (tmp_path / "x.img").unlink()
    with pytest.raises(ImageError, match=r"x\.img: does not exist"):
        load(tmp_path / "x.hdr")


def test_slices_are_contiguous_images_for_the_encoder(write_image: Write, voxels: NDArray[np.int16]) -> None:
    array = load(write_image(voxels)).array
    assert array[:, :, 1].T.flags.c_contiguous


def test_the_source_keeps_no_free_text(write_image: Write, voxels: NDArray[np.int16], caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    volume = load(write_image(voxels, descrip=b"Doe^Jane", db_name=b"Doe", aux_file=b"doe.txt", intent_name=b"Doe"))
    assert b"oe" not in volume.source.block
    assert "Doe" not in caplog.text + repr(volume)
