"""runtime.io.npz: the challenge's files in, ``segs`` out."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import ImageError, OutputError
from runtime.io import load, save
from runtime.types import Box

STACK = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)  # (D, H, W)
PLANE = STACK[0]


def _write(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_a_3d_file_gives_volume_spacing_and_boxes(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "3DBox_CT_0001.npz",
        imgs=STACK,
        boxes=[[1, 2, 0, 5, 4, 2], [0, 0, 1, 3, 3, 1]],
        spacing=(0.5, 0.6, 4),
    )
    volume = load(path)
    assert volume.shape == (7, 5, 3)
    assert volume.array.dtype == np.uint8
    assert volume.array[6, 1, 2] == STACK[2, 1, 6]
    assert volume.spacing == (0.5, 0.6, 4.0)
    assert volume.affine is None
    assert not volume.is_2d
    assert volume.prompts == (Box((1, 2, 0, 5, 4, 2)), Box((0, 0, 1, 3, 3, 1)))
    assert volume.array[:, :, 1].T.flags.c_contiguous


def test_a_2d_file_gives_an_image_and_boxes(tmp_path: Path) -> None:
    colour = np.stack([PLANE, PLANE + 1, PLANE + 2], axis=-1)
    volume = load(_write(tmp_path / "2DBox_US_1.npz", imgs=colour, boxes=[[1, 2, 5, 4]]))
    assert volume.array.shape == (7, 5, 1, 3)
    assert volume.is_2d
    np.testing.assert_array_equal(volume.array[6, 1, 0], colour[1, 6])
    assert volume.prompts == (Box((1, 2, 5, 4), slice_index=0),)
    grey = load(_write(tmp_path / "2Dgrey.npz", imgs=PLANE, boxes=[[1, 2, 5, 4]]))
    np.testing.assert_array_equal(grey.array[:, :, 0].T, PLANE)


@pytest.mark.parametrize(
    ("arrays", "is_2d"),
    [
        ({"imgs": STACK, "boxes": [[0, 0, 0, 1, 1, 1]]}, False),
        ({"imgs": STACK}, False),
        ({"imgs": PLANE}, True),
        ({"imgs": np.zeros((4, 5, 3), np.uint8)}, True),
        ({"imgs": np.zeros((4, 5, 3), np.uint8), "boxes": [[0, 0, 0, 1, 1, 1]]}, False),
        ({"imgs": PLANE, "boxes": np.zeros((0, 4))}, True),
    ],
)
def test_without_a_telling_name_boxes_then_shape_decide(tmp_path: Path, arrays: dict[str, Any], is_2d: bool) -> None:
    assert load(_write(tmp_path / "case.npz", **arrays)).is_2d is is_2d


def test_a_box_end_one_beyond_the_image_is_moved_onto_the_last_pixel(tmp_path: Path) -> None:
    volume = load(_write(tmp_path / "3D.npz", imgs=STACK, boxes=[[1, 2, 0, 7, 5, 3]]))
    assert volume.prompts == (Box((1, 2, 0, 6, 4, 2)),)


def test_segs_have_the_axis_order_of_the_challenge(tmp_path: Path) -> None:
    volume = load(_write(tmp_path / "3D.npz", imgs=STACK))
    labels = np.zeros(volume.shape, np.int64)
    labels[6, 1, 2] = 300
    save(tmp_path / "out.npz", labels, volume)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file.files == ["segs"]
        assert file["segs"].shape == STACK.shape
        assert file["segs"].dtype == np.uint16
        assert file["segs"][2, 1, 6] == 300
    flat = load(_write(tmp_path / "2D.npz", imgs=PLANE))
    save(tmp_path / "out.npz", (flat.array > 9).astype(int), flat)
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["segs"], PLANE > 9)


def test_the_input_is_not_overwritten(tmp_path: Path) -> None:
    path = _write(tmp_path / "3D.npz", imgs=STACK)
    with pytest.raises(OutputError, match="is the input itself"):
        save(path, np.zeros((7, 5, 3), int), load(path))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": STACK}, r"has no array 'imgs' \(found image\)"),
        ({"imgs": STACK, "boxes": [[1, 2, 3]]}, r"boxes has shape \(1, 3\)"),
        ({"imgs": STACK, "boxes": [[5, 0, 0, 1, 1, 1]]}, "x1 = 1 lies below x0 = 5"),
        ({"imgs": STACK, "boxes": [[np.nan, 0, 0, 1, 1, 1]]}, "finite number"),
        ({"imgs": STACK, "boxes": [[0, 0, 1, 1]]}, "the name says 3D, but its boxes have 4 numbers"),
        ({"imgs": STACK, "boxes": np.zeros((10_001, 6))}, "N up to 10000"),
        ({"imgs": STACK, "spacing": (1, 1)}, r"spacing is \[1.0, 1.0\]"),
        ({"imgs": STACK, "spacing": (1, 1, -1)}, "three positive numbers"),
        ({"imgs": PLANE}, r"imgs has shape \(5, 7\)"),
        ({"imgs": STACK[np.newaxis]}, r"imgs has shape \(1, 3, 5, 7\)"),
        ({"imgs": STACK[:0]}, "holds no voxels"),
        ({"imgs": STACK.astype(np.complex64)}, "holds complex64, wanted numbers"),
        ({"imgs": np.array([None, 1], object)}, "holds object, wanted numbers"),
        ({"imgs": STACK.astype("U3")}, "wanted numbers"),
    ],
)
def test_files_that_contradict_themselves_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(_write(tmp_path / "3D.npz", **arrays))


def _member(shape: tuple[int, ...], payload: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + payload


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2000, 2000, 400), "claims 1600000000 bytes, more than the file can hold"),
        ((10**6, 10**6, 10**6), "more than the limits"),
        ((4, 5, 7), "claims 140 bytes, more than the file can hold"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_allocated(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "3D.npz", "w") as archive:
        archive.writestr("imgs.npy", _member(shape, bytes(9)))
    tracemalloc.start()
    with pytest.raises(ImageError, match=message):
        load(tmp_path / "3D.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_a_zip_bomb_is_read_only_as_far_as_the_header_says(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "3D.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("imgs.npy", _member((3, 5, 7), STACK.tobytes() + bytes(1 << 26)))
        archive.writestr("junk.npy", bytes(1 << 26))
    tracemalloc.start()
    volume = load(tmp_path / "3D.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.array.T, STACK)
    assert peak < 10e6


def test_a_zip_without_arrays_is_no_image(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ImageError, match="holds no DICOM images; give an archive with a series"):
        load(tmp_path / "x.zip")


def test_a_damaged_file_is_an_image_error(tmp_path: Path) -> None:
    path = _write(tmp_path / "3D.npz", imgs=np.random.default_rng(0).integers(0, 255, (20, 20, 20), np.uint8))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 211):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            load(path)
    broken = bytearray(whole)
    broken[len(whole) // 2] ^= 255
    path.write_bytes(bytes(broken))
    with pytest.raises(ImageError, match="is not an NPZ file that can be read"):
        load(path)
