"""NRRD: what pynrrd and Slicer write is read where it lies; what leads out of the folder or lies is refused."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.io.conftest import all_affines

from runtime.errors import ImageError
from runtime.io import load
from runtime.io.nrrd import MAX_HEADER_BYTES

HEADER = {
    "type": "int16",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "7 5 3",
    "space directions": "(-2,0,0) (0,-3,0) (0,0,4)",
    "space origin": "(10,20,30)",
    "endian": "little",
    "encoding": "raw",
}
AFFINE = [[2, 0, 0, -10], [0, 3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a header, changed by keyword (None leaves a field out, _ is a space), and data behind it."""

    def write(data: bytes, name: str = "image.nrrd", extra: str = "", **fields: str | None) -> Path:
        header: dict[str, str | None] = {**HEADER, **{key.replace("_", " "): value for key, value in fields.items()}}
        lines = [f"{key}: {value}" for key, value in header.items() if value is not None]
        (tmp_path / name).write_bytes(("NRRD0004\n" + "\n".join(lines) + "\n" + extra + "\n").encode() + data)
        return tmp_path / name

    return write


SPACES = {"left-posterior-superior": (-1, -1, 1), "right-anterior-superior": (1, 1, 1), "LAS": (-1, 1, 1)}


@pytest.mark.parametrize("number", range(48))
def test_every_orientation_is_read_to_its_place(tmp_path: Path, voxels: NDArray[np.int16], number: int) -> None:
    import nrrd

    affine = all_affines()[number]
    space, flips = list(SPACES.items())[number % 3]
    world = np.diag(flips) @ affine[:3]
    header = {"space": space, "space directions": world[:, :3].T, "space origin": world[:, 3]}
    nrrd.write(str(tmp_path / "x.nrrd"), voxels, header)
    volume = load(tmp_path / "x.nrrd")
    np.testing.assert_array_equal(volume.array, voxels, strict=True)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-9)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("raw", bytes), ("gzip", gzip.compress), ("gz", gzip.compress), ("bzip2", bz2.compress), ("bz2", bz2.compress)],
)
@pytest.mark.parametrize("detached", [False, True])
def test_every_encoding_is_read_attached_and_detached(
    tmp_path: Path,
    write: Callable[..., Path],
    voxels: NDArray[np.int16],
    encoding: str,
    pack: Callable[[bytes], bytes],
    detached: bool,
) -> None:
    data = pack(voxels.tobytes(order="F"))
    if detached:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "x.raw").write_bytes(data)
        path = write(b"", "x.nhdr", encoding=encoding, data_file="sub/x.raw")
    else:
        path = write(data, encoding=encoding)
    volume = load(path)
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert volume.spacing == (2, 3, 4)
    assert not volume.is_2d


def test_text_and_big_endian_voxels_are_read(write: Callable[..., Path], voxels: NDArray[np.int16]) -> None:
    words = " ".join(map(str, voxels.ravel(order="F"))).encode()
    np.testing.assert_array_equal(load(write(words, encoding="ascii", endian=None)).array, voxels)
    np.testing.assert_array_equal(load(write(voxels.astype(">i2").tobytes(order="F"), endian="big")).array, voxels)


@pytest.mark.parametrize("skip", [{"byte_skip": "-1"}, {"line_skip": "2"}, {"line_skip": "1", "byte_skip": "5"}])
def test_lines_and_bytes_before_the_voxels_are_skipped(
    write: Callable[..., Path], voxels: NDArray[np.int16], skip: dict[str, str]
) -> None:
    np.testing.assert_array_equal(load(write(b"some\ntext\n" + voxels.tobytes(order="F"), **skip)).array, voxels)


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_one_of_several_volumes_is_chosen_along_any_axis(
    write: Callable[..., Path], voxels: NDArray[np.int16], axis: int
) -> None:
    stacked = np.stack([voxels, voxels + 1000], axis=axis)
    steps, kinds = ["(-2,0,0)", "(0,-3,0)", "(0,0,4)"], ["domain"] * 3
    steps.insert(axis, "none")
    kinds.insert(axis, "list")
    fields = {"sizes": " ".join(map(str, stacked.shape)), "space_directions": " ".join(steps)}
    path = write(stacked.tobytes(order="F"), dimension="4", kinds=" ".join(kinds), **fields)
    with pytest.raises(ImageError, match=r"holds 2 values at each voxel .* volume=0 \.\. 1 \(--volume N\)"):
        load(path)
    with pytest.raises(ImageError, match="there is no volume 2"):
        load(path, volume=2)
    volume = load(path, volume=1)
    np.testing.assert_array_equal(volume.array, voxels + 1000)
    np.testing.assert_array_equal(volume.affine, AFFINE)


def test_a_chosen_volume_of_more_than_one_chunk_is_whole(write: Callable[..., Path], monkeypatch: Any) -> None:
    monkeypatch.setattr("runtime.io._voxels._CHUNK_BYTES", 100)
    for axis in (0, 1, 3):
        stacked = np.arange(3 * 105, dtype=np.int16).reshape([(3, 7, 5, 3), (7, 3, 5, 3), (), (7, 5, 3, 3)][axis])
        fields = {"sizes": " ".join(map(str, stacked.shape)), "dimension": "4", "space_directions": None, "space": None}
        kinds = ["space"] * 3
        kinds.insert(axis, "vector")
        path = write(stacked.tobytes(order="F"), kinds=" ".join(kinds), space_origin=None, **fields)
        np.testing.assert_array_equal(load(path, volume=2).array, stacked.take(2, axis=axis))


def test_colours_of_eight_bits_are_colours(write: Callable[..., Path]) -> None:
    colours = np.arange(4 * 7 * 5, dtype=np.uint8).reshape(4, 7, 5)
    fields = {"kinds": "RGBA-color domain domain", "sizes": "4 7 5", "space_directions": "none (2,0) (0,3)"}
    fields |= {"space_origin": "(0,0)", "type": "uchar"}
    volume = load(write(colours.tobytes(order="F"), space=None, extra="space dimension: 2\n", **fields))
    assert (volume.is_2d, volume.affine, volume.spacing) == (True, None, (2, 3, 1))
    np.testing.assert_array_equal(volume.array[:, :, 0], np.moveaxis(colours[:3], 0, -1))


def test_a_header_without_directions_has_spacing_but_no_place(
    write: Callable[..., Path], voxels: NDArray[np.int16]
) -> None:
    raw = voxels.tobytes(order="F")
    bare = {"space": None, "space_directions": None, "space_origin": None}
    volume = load(write(raw, spacings="0.5 0.6 nan", **bare))
    assert (volume.affine, volume.spacing) == (None, (0.5, 0.6, 1.0))
    centimetres = load(write(raw, space_units='"cm" "cm" "cm"'))
    assert centimetres.spacing == (20, 30, 40)
    assert centimetres.affine is not None
    assert centimetres.affine[0, 3] == -100
    mixed = load(write(raw, space_units='"mm" "mm" "cm"'))
    assert mixed.spacing == (2, 3, 40)


def test_a_space_without_meaning_is_taken_as_lps_and_said(
    write: Callable[..., Path], voxels: NDArray[np.int16], caplog: pytest.LogCaptureFixture
) -> None:
    volume = load(write(voxels.tobytes(order="F"), space="right-handed-xyz"))
    np.testing.assert_array_equal(volume.affine, AFFINE)
    assert "LPS is assumed" in caplog.text


@pytest.mark.parametrize("name", ["../x.raw", "/etc/hostname", "sub/../../x.raw", "..\\x.raw", "C:x.raw", "link.raw"])
def test_data_outside_the_folder_are_refused(tmp_path: Path, write: Callable[..., Path], name: str) -> None:
    (tmp_path / "x.raw").write_bytes(bytes(210))
    (tmp_path / "inner").mkdir()
    path = write(b"", "inner/x.nhdr", data_file=name)
    if name == "link.raw":
        try:
            (tmp_path / "inner" / name).symlink_to(tmp_path / "x.raw")
        except OSError:
            pytest.skip("links cannot be made here")
    with pytest.raises(ImageError, match=r"x\.nhdr: its data file must lie in the folder of the header") as caught:
        load(path)
    assert name not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": "100000 100000 100000"}, "more than the limits"),
        ({"sizes": "700 500 300"}, "is truncated"),
        ({"sizes": "700 500 300", "encoding": "gzip"}, "is truncated|BadGzipFile"),
        ({"sizes": "7 -5 3"}, "holds no voxels"),
        ({"sizes": "7 5"}, "its dimension is 3"),
        ({"endian": None}, "lacks the endian field"),
        ({"type": "block"}, "its type is no number"),
        ({"encoding": "hex"}, "its encoding is not one of"),
        ({"space_directions": "(nan,0,0) (0,1,0) (0,0,1)", "kinds": "vector domain domain"}, "holds 7 values"),
        ({"space_directions": "(0,0,1) (0,1,0) (0,0,1)"}, "affine is singular"),
        ({"space_origin": "(1e300,0,0)"}, "numbers that are not finite"),
        ({"byte_skip": "-7"}, "byte skip"),
        ({"byte_skip": "99999999999999"}, "is truncated"),
        ({"line_skip": "1000"}, "line skip leads beyond"),
        ({"data_file": "LIST"}, "several files"),
        ({"data_file": "absent.raw"}, "does not exist"),
        ({"kinds": "domain domain"}, "2 kinds"),
    ],
)
def test_what_lies_is_refused_with_its_reason(
    write: Callable[..., Path], voxels: NDArray[np.int16], change: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        load(write(voxels.tobytes(order="F"), **change))


def test_a_gzip_bomb_and_a_header_without_end_are_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(ImageError, match="more than the limits"):
        load(write(gzip.compress(bytes(1 << 20)), encoding="gzip", sizes="2000 2000 2000"))
    with pytest.raises(ImageError, match="its header exceeds the limit"):
        load(write(b"", extra="#" * MAX_HEADER_BYTES))


def test_a_segmentation_is_no_image(write: Callable[..., Path], voxels: NDArray[np.int16]) -> None:
    path = write(voxels.tobytes(order="F"), "x.seg.nrrd", extra="Segment0_ID:=Segment_1\n")
    with pytest.raises(ImageError, match=r"is a segmentation \(\.seg\.nrrd\), not an image"):
        load(path)


def test_what_names_a_person_is_not_kept(write: Callable[..., Path], voxels: NDArray[np.int16]) -> None:
    extra = "content: Doe^Jane\nPatientName:=Doe^Jane\nPatientName:=twice\n"
    assert "Doe" not in repr(load(write(voxels.tobytes(order="F"), extra=extra)).source)
