"""MetaImage and MGH: what ITK and FreeSurfer write is read where it lies; what lies is refused."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from unit.io.conftest import all_affines

from runtime.errors import ImageError
from runtime.io import load
from runtime.io.metaimage import MAX_HEADER_BYTES

HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
    "Offset": "10 20 30",
    "ElementSpacing": "2 3 4",
    "DimSize": "7 5 3",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
AFFINE = [[2, 0, 0, -10], [0, 3, 0, -20], [0, 0, 4, 30], [0, 0, 0, 1]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a header, changed by keyword (None leaves a field out), and data behind it."""

    def write(data: bytes, name: str = "image.mha", **fields: str | None) -> Path:
        file = {"ElementDataFile": fields.pop("ElementDataFile", "LOCAL")}
        header = {**{key: value for key, value in HEADER.items() if key not in file}, **fields, **file}
        lines = [f"{key} = {value}\n" for key, value in header.items() if value is not None]
        (tmp_path / name).write_bytes("".join(lines).encode() + data)
        return tmp_path / name

    return write


@pytest.mark.parametrize("number", range(48))
def test_every_orientation_is_read_to_its_place(
    write: Callable[..., Path], voxels: NDArray[np.int16], number: int
) -> None:
    affine = all_affines()[number]
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    steps = np.linalg.norm(lps[:, :3], axis=0)
    matrix = " ".join(f"{value:.17g}" for value in (lps[:, :3] / steps).T.ravel())  # one axis after the other
    fields = {"ElementSpacing": " ".join(map(str, steps)), "Offset": " ".join(map(str, lps[:, 3]))}
    volume = load(write(voxels.tobytes(order="F"), TransformMatrix=matrix, **fields))
    np.testing.assert_array_equal(volume.array, voxels, strict=True)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-9)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("detached", [False, True])
def test_data_are_read_packed_and_detached(
    tmp_path: Path, write: Callable[..., Path], voxels: NDArray[np.int16], packed: bool, detached: bool
) -> None:
    data = voxels.tobytes(order="F")
    data = zlib.compress(data) if packed else data
    fields = {"CompressedData": str(packed)}
    if detached:
        (tmp_path / "x.raw").write_bytes(data)
        path = write(b"", "x.mhd", ElementDataFile="x.raw", **fields)
    else:
        path = write(data, **fields)
    volume = load(path)
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_array_equal(volume.affine, AFFINE)


def test_text_big_endian_and_a_header_before_the_data_are_read(
    write: Callable[..., Path], voxels: NDArray[np.int16]
) -> None:
    words = " ".join(map(str, voxels.ravel(order="F"))).encode()
    np.testing.assert_array_equal(load(write(words, BinaryData="False")).array, voxels)
    big = write(voxels.astype(">i2").tobytes(order="F"), BinaryDataByteOrderMSB="True")
    np.testing.assert_array_equal(load(big).array, voxels)
    raw = b"padding" + voxels.tobytes(order="F")
    np.testing.assert_array_equal(load(write(raw, HeaderSize="7")).array, voxels)
    np.testing.assert_array_equal(load(write(raw, HeaderSize="-1")).array, voxels)


def test_channels_are_colours_or_a_choice(write: Callable[..., Path], voxels: NDArray[np.int16]) -> None:
    colours = np.stack([voxels, voxels + 1, voxels + 2]).astype(np.uint8)
    path = write(colours.tobytes(order="F"), ElementNumberOfChannels="3", ElementType="MET_UCHAR")
    np.testing.assert_array_equal(load(path).array, np.moveaxis(colours, 0, -1))
    vectors = np.stack([voxels, voxels + 1], axis=0)
    path = write(vectors.tobytes(order="F"), ElementNumberOfChannels="2", ElementType="MET_SHORT_ARRAY")
    with pytest.raises(ImageError, match="holds 2 values at each voxel"):
        load(path)
    np.testing.assert_array_equal(load(path, volume=1).array, voxels + 1)


def test_two_and_four_dimensions_are_read(write: Callable[..., Path], voxels: NDArray[np.int16]) -> None:
    flat = {"NDims": "2", "DimSize": "7 5", "TransformMatrix": "1 0 0 1", "Offset": "0 0", "ElementSpacing": "2 3"}
    volume = load(write(voxels[:, :, 0].tobytes(order="F"), **flat))
    assert (volume.is_2d, volume.affine, volume.spacing) == (True, None, (2, 3, 1))
    four = {"NDims": "4", "DimSize": "7 5 3 2", "Offset": "10 20 30 0", "ElementSpacing": "2 3 4 1"}
    matrix = "-1 0 0 0 0 -1 0 0 0 0 1 0 0 0 0 1"
    volume = load(write(np.stack([voxels, voxels + 1], 3).tobytes(order="F"), TransformMatrix=matrix, **four), volume=1)
    np.testing.assert_array_equal(volume.array, voxels + 1)
    np.testing.assert_array_equal(volume.affine, AFFINE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"DimSize": "100000 100000 100000"}, "more than the limits"),
        ({"DimSize": "700 500 300"}, "is truncated"),
        ({"DimSize": "700 500 300", "CompressedData": "True"}, "is truncated"),
        ({"CompressedData": "True"}, "is not a complete MetaImage file"),
        ({"DimSize": "0 5 3"}, "holds no voxels"),
        ({"DimSize": "7 5"}, "is not 3 numbers"),
        ({"ElementType": "MET_OTHER"}, "its ElementType is no number"),
        ({"ElementSpacing": "2 -3 4"}, "is not positive"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "affine is singular"),
        ({"TransformMatrix": "1 0 0 inf 0 0 0 0 1"}, "is not 9 numbers"),
        ({"Offset": "1e300 0 0"}, "not finite"),
        ({"ObjectType": "Mesh"}, "holds an object that is no image"),
        ({"NDims": "9"}, "has 9 dimensions"),
        ({"HeaderSize": "-5"}, "its HeaderSize is -5"),
        ({"ElementDataFile": "../x.raw"}, "its data file must lie in the folder"),
        ({"ElementDataFile": "LIST"}, "several files"),
        ({"ElementDataFile": "x%03d.raw 1 3 1"}, "several files"),
        ({"ElementDataFile": "absent.raw"}, "does not exist"),
        ({"Comment": "x" * MAX_HEADER_BYTES}, "does not come to ElementDataFile"),
    ],
)
def test_what_lies_is_refused_with_its_reason(
    write: Callable[..., Path], voxels: NDArray[np.int16], change: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        load(write(voxels.tobytes(order="F"), **change))


@pytest.mark.parametrize("name", ["x.mgz", "x.mgh"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_mgh_is_read_as_nibabel_reads_it(
    tmp_path: Path, voxels: NDArray[np.int16], name: str, dtype: type[np.generic]
) -> None:
    for affine in all_affines()[::7]:
        image = nibabel.MGHImage(voxels.astype(dtype), affine)
        nibabel.save(image, tmp_path / name)
        volume = load(tmp_path / name)
        np.testing.assert_array_equal(volume.array, voxels.astype(dtype), strict=True)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-4)  # the header holds float32


def test_mgh_frames_are_chosen_and_damage_is_named(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    path = tmp_path / "x.mgz"
    nibabel.save(nibabel.MGHImage(np.stack([voxels, voxels + 1], axis=3), np.eye(4)), path)
    with pytest.raises(ImageError, match="holds 2 values at each voxel"):
        load(path)
    np.testing.assert_array_equal(load(path, volume=1).array, voxels + 1)
    raw = gzip.decompress(path.read_bytes())
    (tmp_path / "short.mgh").write_bytes(raw[:300])
    with pytest.raises(ImageError, match="is truncated"):
        load(tmp_path / "short.mgh", volume=0)
    (tmp_path / "other.mgz").write_bytes(gzip.compress(b"\0" * 300))
    with pytest.raises(ImageError, match="has no FreeSurfer MGH header"):
        load(tmp_path / "other.mgz")
