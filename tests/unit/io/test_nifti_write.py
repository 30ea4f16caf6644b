"""runtime.io.nifti, writing: what nibabel reads back lies exactly on the image."""

from __future__ import annotations

import dataclasses
import gzip
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from unit.io.conftest import SHAPE, all_affines

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io import load, save

Write = Callable[..., Path]
FORMS = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
ROWS = ("srow_x", "srow_y", "srow_z")


@pytest.fixture
def labels() -> NDArray[np.int64]:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE) % 4


def _saved(path: Path, labels: NDArray[Any], volume: Volume, **options: Any) -> nibabel.Nifti1Image:
    assert save(path, labels, volume, **options) == path
    return nibabel.load(path)


@pytest.mark.parametrize("affine", all_affines(), ids=lambda a: "".join(nibabel.aff2axcodes(a)))
def test_labels_lie_on_the_image_in_world_space_for_every_orientation(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], affine: NDArray[np.float64]
) -> None:
    path = write_image(voxels, affine)
    volume = load(path)
    marked = volume.array == voxels[6, 1, 2]
    written = _saved(tmp_path / "seg.nii.gz", marked, volume)
    image = nibabel.load(path)
    found_label = nibabel.affines.apply_affine(written.affine, np.argwhere(written.get_fdata() == 1))
    found_image = nibabel.affines.apply_affine(image.affine, np.argwhere(image.get_fdata() == voxels[6, 1, 2]))
    np.testing.assert_array_equal(found_label, found_image)
    np.testing.assert_array_equal(written.affine, image.affine)
    np.testing.assert_array_equal(written.get_qform(), image.get_qform())


@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (3, 0), (0, 0), (2, 4)])
def test_both_forms_and_their_codes_are_the_images_bit_for_bit(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], labels: NDArray[np.int64], codes: tuple[int, int]
) -> None:
    path = write_image(voxels, all_affines()[7], qform_code=codes[0], sform_code=codes[1], qoffset_x=-3.7)
    written = _saved(tmp_path / "seg.nii", labels, load(path)).header
    image = nibabel.load(path).header
    for field in (*FORMS, *ROWS):
        np.testing.assert_array_equal(written[field], image[field], err_msg=field)
    np.testing.assert_array_equal(written["pixdim"][:4], image["pixdim"][:4])
    np.testing.assert_array_equal(nibabel.load(tmp_path / "seg.nii").affine, nibabel.load(path).affine)


@pytest.mark.parametrize(("top", "dtype"), [(1, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4")])
def test_the_smallest_unsigned_dtype_is_used(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], top: int, dtype: str
) -> None:
    labels = np.zeros(SHAPE, np.int64)
    labels[1, 2, 0] = top
    written = _saved(tmp_path / "seg.nii.gz", labels, load(write_image(voxels)))
    assert written.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels)


def test_the_header_says_label_map_and_nothing_else(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], labels: NDArray[np.int64]
) -> None:
    path = write_image(
        voxels, scl_slope=3, scl_inter=7, cal_max=99, cal_min=-9, descrip=b"Doe^Jane", aux_file=b"Doe", slice_code=2
    )
    raw = bytearray(path.read_bytes())
    raw[348:352] = b"\1\0\0\0"  # an extension with a name in it
    header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
    header["vox_offset"] = 352 + 32
    path.write_bytes(header.binaryblock + raw[348:352] + b"\x20\0\0\0\6\0\0\0" + b"Doe^Jane".ljust(24) + raw[352:])
    np.testing.assert_array_equal(load(path).array, voxels * 3 + 7)
    save(tmp_path / "seg.nii", labels, load(path))
    written = nibabel.Nifti1Header((tmp_path / "seg.nii").read_bytes()[:348])  # nibabel.load resets the slope
    assert (float(written["scl_slope"]), float(written["scl_inter"])) == (1, 0)
    assert (written["cal_min"], written["cal_max"], written["intent_code"]) == (0, 0, 1002)
    assert written["slice_code"] == 0
    assert not nibabel.load(tmp_path / "seg.nii").header.extensions
    assert b"Doe" not in (tmp_path / "seg.nii").read_bytes()


def test_names_are_kept_as_a_label_table(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], labels: NDArray[np.int64]
) -> None:
    names = {1: "liver", 2: "kidney <left> & ]]> right", 3: "milz\n\0 ü"}
    written = _saved(tmp_path / "seg.nii.gz", labels, load(write_image(voxels)), names=names)
    (extension,) = written.header.extensions
    assert extension.get_code() == 0
    table = ElementTree.fromstring(extension.get_content().rstrip(b"\0")).iter("Label")
    assert {int(row.attrib["Key"]): row.text for row in table} == {**names, 3: "milz ü"}
    np.testing.assert_array_equal(written.get_fdata(), labels)


def test_the_same_labels_give_the_same_bytes(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], labels: NDArray[np.int64]
) -> None:
    volume = load(write_image(voxels))
    save(tmp_path / "a.nii.gz", labels, volume, names={1: "a"})
    save(tmp_path / "b.nii.gz", np.asfortranarray(labels), volume, names={1: "a"})
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())


def test_units_of_the_image_are_kept(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], labels: NDArray[np.int64]
) -> None:
    path = write_image(voxels, xyzt_units=3)
    written = _saved(tmp_path / "seg.nii", labels, load(path))
    assert written.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
    np.testing.assert_array_equal(load(tmp_path / "seg.nii").affine, load(path).affine)


def test_an_affine_that_was_changed_after_loading_is_the_one_written(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], labels: NDArray[np.int64]
) -> None:
    moved = dataclasses.replace(load(write_image(voxels)), affine=all_affines()[11])
    written = _saved(tmp_path / "seg.nii", labels, moved)
    np.testing.assert_allclose(written.get_sform(), all_affines()[11], atol=1e-5)
    np.testing.assert_allclose(written.get_qform(), all_affines()[11], atol=1e-4)
    assert written.header["qform_code"] > 0


def test_a_volume_without_a_file_gets_both_forms(tmp_path: Path, labels: NDArray[np.int64]) -> None:
    affine = all_affines()[29]
    written = _saved(tmp_path / "seg.nii", labels, Volume(np.zeros(SHAPE), affine, spacing=(0.8, 1.7, 5.0)))
    assert (written.header["qform_code"], written.header["sform_code"]) == (1, 1)
    np.testing.assert_allclose(written.get_sform(), affine, atol=1e-5)
    np.testing.assert_allclose(written.get_qform(), affine, atol=1e-4)


def test_a_sheared_affine_goes_into_the_sform_alone(tmp_path: Path, labels: NDArray[np.int64]) -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 1.2
    written = _saved(tmp_path / "seg.nii", labels, Volume(np.zeros(SHAPE), affine))
    assert (written.header["qform_code"], written.header["sform_code"]) == (0, 1)
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)
    np.testing.assert_allclose(written.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-6)


def test_without_an_affine_only_the_spacing_is_written(tmp_path: Path, labels: NDArray[np.int64]) -> None:
    written = _saved(tmp_path / "seg.nii", labels, Volume(np.zeros(SHAPE), spacing=(0.5, 0.6, 7.0)))
    assert (written.header["qform_code"], written.header["sform_code"]) == (0, 0)
    np.testing.assert_allclose(written.header.get_zooms(), (0.5, 0.6, 7.0))


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_the_kind_of_header_is_kept_whatever_its_byte_order(
    tmp_path: Path, voxels: NDArray[np.int16], labels: NDArray[np.int64], kind: Any, endianness: str
) -> None:
    header = kind.header_class(endianness=endianness)
    nibabel.save(kind(voxels, all_affines()[5], header), tmp_path / "x.nii")
    written = _saved(tmp_path / "seg.nii.gz", labels, load(tmp_path / "x.nii"))
    assert type(written) is kind
    np.testing.assert_array_equal(written.affine, nibabel.load(tmp_path / "x.nii").affine)
    np.testing.assert_array_equal(written.get_fdata(), labels)


def test_a_two_dimensional_file_gets_a_two_dimensional_label_map(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16]
) -> None:
    volume = load(write_image(voxels[:, :, 0]))
    written = _saved(tmp_path / "seg.nii", voxels[:, :, 0] > 0, volume)
    assert written.shape == (7, 5)
    np.testing.assert_array_equal(written.get_fdata(), voxels[:, :, 0] > 0)


def test_a_chosen_time_point_gets_a_three_dimensional_label_map(
    tmp_path: Path, write_image: Write, voxels: NDArray[np.int16], labels: NDArray[np.int64]
) -> None:
    path = write_image(np.stack([voxels, voxels], axis=3), all_affines()[3])
    written = _saved(tmp_path / "seg.nii", labels, load(path, volume=1))
    assert written.shape == SHAPE
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)


def test_the_input_is_not_overwritten(write_image: Write, voxels: NDArray[np.int16]) -> None:
    path = write_image(voxels)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"image\.nii: is the input itself"):
        save(path, np.ones(SHAPE, int), load(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((7, 5, 4), int), r"shape \(7, 5, 4\); wanted integers in the shape of the image, \(7, 5, 3\)"),
        (np.zeros(SHAPE, float), "dtype float64"),
        (np.full(SHAPE, -1), "labels run from -1"),
        (np.full(SHAPE, 2**32), "wanted 0 to 4294967295"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path: Path, labels: NDArray[Any], message: str) -> None:
    with pytest.raises(OutputError, match=message):
        save(tmp_path / "seg.nii", labels, Volume(np.zeros(SHAPE)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["seg", "seg.jpg", ".nii", "seg.nii.bz2", "seg.nrrd", "seg.mha"])
def test_an_unknown_ending_is_refused_with_those_that_are_known(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"unknown output format; wanted a name that ends in \.nii\.gz, \.nii"):
        save(tmp_path / name, np.zeros(SHAPE, int), Volume(np.zeros(SHAPE)))
