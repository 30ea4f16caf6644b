"""The NIfTI zoo of the shared data, row by row: read as nibabel reads it, or refused with a reason."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from runtime.errors import ImageError
from runtime.io import load, save

ORIENTATIONS = [
    f"orient/{''.join(letters)}.nii.gz"
    for order in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*order)
]
LOADED = [
    "ref_ras.nii.gz", "ref_label.nii.gz", *ORIENTATIONS,
    "affine/oblique_q_and_s.nii.gz", "affine/qform_only.nii.gz", "affine/no_forms_analyze_like.nii",
    "affine/sform_qform_disagree_flip.nii.gz", "affine/sform_qform_disagree_spacing.nii.gz",
    "affine/sform_shear.nii.gz", "affine/negative_pixdim.nii",
    "dtype/uint8.nii.gz", "dtype/int8.nii.gz", "dtype/uint16.nii.gz", "dtype/int32.nii.gz", "dtype/uint32.nii.gz",
    "dtype/int64.nii.gz", "dtype/float32.nii.gz", "dtype/float64.nii.gz", "dtype/rgb24.nii.gz",
    "dtype/scl_slope_inter.nii.gz", "dtype/scl_slope_zero.nii", "dtype/scl_slope_nan.nii",
    "dtype/big_endian_int16.nii.gz", "dtype/nan_inf_float32.nii.gz", "dtype/constant_zero.nii.gz",
    "shape/four_d_1vol.nii.gz", "shape/one_slice.nii.gz", "shape/two_d.nii.gz", "shape/minimal_1x1x1.nii.gz",
    "shape/slice_first_thin_x.nii.gz",
    "container/nifti2.nii.gz", "container/plain.nii", "container/pair.hdr",
    "broken/not_gz.nii.gz", "broken/gz_named.nii", "broken/gzip_bomb_like.nii.gz",
    "foreign/ct_perfusion.nii.gz", "foreign/shear.nii.gz", "foreign/minimal.nii.gz", "foreign/low_res.nii.gz",
    "foreign/strokez.nii.gz", "foreign/rgb_test_file.nii.gz", "foreign/space_AIL.nii.gz",
    "foreign/space_LPS.nii.gz", "foreign/space_PIR.nii.gz", "foreign/nb_anatomical.nii",
    "container/small.mgz", "container/itk.mha", "container/itk.mhd", "container/itk.nrrd", "container/itk.nhdr",
    "container/ascii.nrrd", "container/gzip_ras.nrrd", "foreign/FLAIR.nrrd", "foreign/mha.mha",
]  # fmt: skip
CHOSEN = {
    "shape/four_d_3vol.nii.gz": 3,
    "foreign/V1.nii.gz": 3,
    "foreign/pcasl.nii.gz": 10,
    "foreign/nb_example4d.nii.gz": 2,
    "foreign/nb_example_nifti2.nii.gz": 2,
    "foreign/nb_functional.nii": 20,
    "foreign/nb_test.mgz": 2,
}
REFUSED = {
    "dtype/complex64.nii.gz": "holds complex numbers",
    "foreign/complex.nii.gz": "holds complex numbers",
    "shape/five_d_vector.nii.gz": "is 5-dimensional",
    "container/analyze75.hdr": "has no NIfTI header",
    "broken/truncated.nii.gz": "EOFError",
    "broken/truncated_header.nii.gz": "EOFError",
    "broken/bad_crc.nii.gz": "BadGzipFile",
    "broken/truncated_data.nii": "is truncated",
    "broken/empty.nii.gz": "the file is empty",
    "broken/text.nii": "has no NIfTI header",
    "broken/huge_dims_tiny_file.nii": "more than the limits",
    "broken/zero_dim.nii": "holds no voxels",
    "broken/negative_dim.nii": "holds no voxels",
    "broken/bad_magic.nii": "has no NIfTI header",
    "broken/vox_offset_beyond_end.nii": "is truncated",
    "broken/unknown_datatype.nii": "known datatype",
}


@pytest.fixture(scope="module")
def zoo(shared: Path) -> Path:
    return shared / "data" / "nifti_zoo"


@pytest.fixture(scope="module")
def table(zoo: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in json.loads((zoo / "table.json").read_text())}


def test_every_row_of_the_zoo_has_its_expectation(table: dict[str, dict[str, Any]]) -> None:
    expected = [*LOADED, *CHOSEN, *REFUSED]
    assert len(expected) == len(set(expected))
    assert set(expected) == set(table)


@pytest.mark.parametrize("name", LOADED)
def test_a_row_is_read_as_the_table_says(zoo: Path, table: dict[str, dict[str, Any]], name: str) -> None:
    row, volume = table[name], load(zoo / name)
    if row.get("shape"):
        assert volume.shape == tuple([*row["shape"], 1][:3])
    if row.get("axcodes"):
        assert "".join(nibabel.aff2axcodes(volume.affine)) == row["axcodes"]
    if row.get("affine"):
        np.testing.assert_allclose(volume.affine, row["affine"], atol=1e-4)
    if row.get("min") is not None:
        finite = volume.array[np.isfinite(volume.array)].astype(np.float64)
        np.testing.assert_allclose(
            (finite.min(), finite.max(), finite.mean()), (row["min"], row["max"], row["mean"]), rtol=1e-5, atol=1e-4
        )
    if row.get("zooms") and "disagree_spacing" not in name:  # there pixdim belongs to the qform that lost
        np.testing.assert_allclose(volume.spacing[: len(row["zooms"])], row["zooms"][:3], atol=1e-3)


NIBABEL_READS = [
    name
    for name in LOADED
    if not name.startswith(("broken/", "orient/")) and name.endswith((".nii", ".nii.gz", ".hdr", ".mgz"))
]


@pytest.mark.parametrize("name", NIBABEL_READS)
def test_a_row_has_nibabels_voxels_and_its_labels_nibabels_affine(zoo: Path, tmp_path: Path, name: str) -> None:
    volume, image = load(zoo / name), nibabel.load(zoo / name)
    raw = np.asanyarray(image.dataobj)
    if raw.dtype.names:
        raw = np.stack([raw[channel] for channel in raw.dtype.names], axis=-1)
    np.testing.assert_allclose(volume.array, raw.reshape(volume.array.shape), rtol=1e-6)
    save(tmp_path / "seg.nii.gz", np.ones(volume.shape, np.uint8), volume)
    written = nibabel.load(tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(written.affine, image.affine)
    for form in ("qform_code", "sform_code") if not name.endswith(".mgz") else ():
        assert written.header[form] == image.header[form]


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_all_orientations_hold_the_same_world(zoo: Path, name: str) -> None:
    volume, reference = load(zoo / name), load(zoo / "ref_ras.nii.gz")
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.array, volume.affine))
    np.testing.assert_array_equal(np.asanyarray(turned.dataobj), reference.array)
    np.testing.assert_allclose(turned.affine, reference.affine, atol=1e-4)


@pytest.mark.parametrize("name", [
    "container/plain.nii", "container/pair.hdr", "dtype/big_endian_int16.nii.gz", "container/small.mgz",
    "container/itk.mha", "container/itk.mhd", "container/itk.nrrd", "container/itk.nhdr", "container/gzip_ras.nrrd",
])  # fmt: skip
def test_containers_hold_the_reference_image(zoo: Path, name: str) -> None:
    volume, reference = load(zoo / name), load(zoo / "ref_ras.nii.gz")
    np.testing.assert_array_equal(volume.array, reference.array)
    np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-4)


@pytest.mark.parametrize(("name", "points"), CHOSEN.items())
def test_a_row_of_several_volumes_asks_for_a_choice(zoo: Path, name: str, points: int) -> None:
    with pytest.raises(
        ImageError, match=rf"holds {points} (time points|values at each voxel) .*volume=0 \.\. {points - 1}"
    ):
        load(zoo / name)
    volume = load(zoo / name, volume=points - 1)
    image = nibabel.load(zoo / name)
    np.testing.assert_allclose(volume.array, np.asanyarray(image.dataobj[..., points - 1]), rtol=1e-6)
    np.testing.assert_array_equal(volume.affine, image.affine)


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_a_row_is_refused_with_its_reason(zoo: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(zoo / name)
