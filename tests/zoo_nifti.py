"""What the NIfTI zoo of the shared data must give, row by row."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
from zoo_rows import Check, Facts, Row, close, refusal, refused, told, values_of

from runtime.geometry import Volume, axis_codes
from runtime.io import load

__all__ = ["NIFTI", "NIFTI_REFUSED", "ORIENTATIONS"]


def _nifti_facts(volume: Volume, facts: Facts) -> None:
    """What nibabel or SimpleITK said when the table was made."""
    if facts.get("shape"):
        assert volume.shape == tuple([*facts["shape"], 1][:3])
    if facts.get("axcodes"):
        assert volume.affine is not None
        assert "".join(nibabel.aff2axcodes(volume.affine)) == facts["axcodes"]
    if facts.get("affine"):
        close(volume.affine, facts["affine"], relative=0)
    if facts.get("zooms") and "disagree_spacing" not in facts["path"]:  # there pixdim belongs to the qform that lost
        close(volume.spacing[: len(facts["zooms"])], facts["zooms"][:3], absolute=1e-3)


def _image(folder: Path, facts: Facts) -> str:
    volume = load(folder / facts["path"])
    _nifti_facts(volume, facts)
    if facts.get("min") is not None:
        close(values_of(volume.array), (facts["min"], facts["max"], facts["mean"]))
    return told(volume)


def _reference(folder: Path, facts: Facts) -> str:
    """The reference image, whatever the order of its axes and its container."""
    volume, reference = load(folder / facts["path"]), load(folder / "ref_ras.nii.gz")
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.array, volume.affine))
    np.testing.assert_array_equal(np.asanyarray(turned.dataobj), reference.array)
    close(turned.affine, reference.affine, relative=0)
    return f"equals ref_ras; {_image(folder, facts)}"


def _several(points: int) -> Check:
    def check(folder: Path, facts: Facts) -> str:
        path = folder / facts["path"]
        text = refusal(path, f"choose one with volume=0 .. {points - 1} (--volume N)")
        assert f"holds {points} " in text
        volume, image = load(path, volume=points - 1), nibabel.load(path)
        np.testing.assert_allclose(volume.array, np.asanyarray(image.dataobj[..., points - 1]), rtol=1e-6)
        close(volume.affine, image.affine, relative=0)
        return f"{points} volumes, one chosen: {told(volume)}"

    return check


def _as_read(values: tuple[float, float, float], shape: tuple[int, int, int], axes: str) -> Check:
    """An image that the table knows nothing of, as another reader sees it."""

    def check(folder: Path, facts: Facts) -> str:
        volume = load(folder / facts["path"])
        assert volume.shape == shape
        assert volume.affine is not None
        assert axis_codes(volume.affine) == axes
        close(values_of(volume.array), values)
        return told(volume)

    return check


ORIENTATIONS = [
    f"orient/{''.join(letters)}.nii.gz" for order in permutations(("RL", "AP", "SI")) for letters in product(*order)
]
REFERENCES = [
    "ref_ras.nii.gz", *ORIENTATIONS, "container/plain.nii", "container/pair.hdr", "container/nifti2.nii.gz",
    "container/small.mgz", "container/itk.mha", "container/itk.mhd", "container/itk.nrrd", "container/itk.nhdr",
    "container/gzip_ras.nrrd", "dtype/big_endian_int16.nii.gz", "broken/not_gz.nii.gz", "broken/gz_named.nii",
]  # fmt: skip
IMAGES = [
    "ref_label.nii.gz",
    "affine/oblique_q_and_s.nii.gz", "affine/qform_only.nii.gz", "affine/no_forms_analyze_like.nii",
    "affine/sform_qform_disagree_flip.nii.gz", "affine/sform_qform_disagree_spacing.nii.gz",
    "affine/sform_shear.nii.gz", "affine/negative_pixdim.nii", "broken/gzip_bomb_like.nii.gz",
    "dtype/uint8.nii.gz", "dtype/int8.nii.gz", "dtype/uint16.nii.gz", "dtype/int32.nii.gz", "dtype/uint32.nii.gz",
    "dtype/int64.nii.gz", "dtype/float32.nii.gz", "dtype/float64.nii.gz", "dtype/rgb24.nii.gz",
    "dtype/scl_slope_inter.nii.gz", "dtype/scl_slope_zero.nii", "dtype/scl_slope_nan.nii",
    "dtype/nan_inf_float32.nii.gz", "dtype/constant_zero.nii.gz",
    "shape/four_d_1vol.nii.gz", "shape/one_slice.nii.gz", "shape/two_d.nii.gz", "shape/minimal_1x1x1.nii.gz",
    "shape/slice_first_thin_x.nii.gz",
    "foreign/ct_perfusion.nii.gz", "foreign/shear.nii.gz", "foreign/minimal.nii.gz", "foreign/low_res.nii.gz",
    "foreign/strokez.nii.gz", "foreign/rgb_test_file.nii.gz", "foreign/space_AIL.nii.gz",
    "foreign/space_LPS.nii.gz", "foreign/space_PIR.nii.gz", "foreign/nb_anatomical.nii",
]  # fmt: skip
WARNINGS = {
    "affine/no_forms_analyze_like.nii": "left and right are a guess",
    "affine/sform_qform_disagree_flip.nii.gz": "the sform is used",
    "affine/sform_qform_disagree_spacing.nii.gz": "the sform is used",
    "affine/sform_shear.nii.gz": "the voxel axes are not perpendicular (by 18.8 degrees)",
}
SEVERAL = {
    "shape/four_d_3vol.nii.gz": 3,
    "foreign/V1.nii.gz": 3,
    "foreign/pcasl.nii.gz": 10,
    "foreign/nb_example4d.nii.gz": 2,
    "foreign/nb_example_nifti2.nii.gz": 2,
    "foreign/nb_functional.nii": 20,
    "foreign/nb_test.mgz": 2,
}
NIFTI_REFUSED = {
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
NIFTI = [
    *(Row(name, "equals ref_ras in the world", _reference) for name in REFERENCES),
    *(Row(name, "loads with the table's values", _image, WARNINGS.get(name, "")) for name in IMAGES),
    *(Row(name, f"asks for one of {points} volumes", _several(points)) for name, points in SEVERAL.items()),
    # what SimpleITK 2.5 reads
    Row("container/ascii.nrrd", "loads", _as_read((56, 131, 93.6484375), (8, 8, 4), "RAS")),
    Row("foreign/FLAIR.nrrd", "loads", _as_read((0, 255, 41.486048), (124, 160, 140), "RAS")),
    Row("foreign/mha.mha", "loads", _as_read((0, 6690, 527.506116), (64, 64, 37), "LAS")),
    *(Row(name, f"refused: {message}", refused(message)) for name, message in NIFTI_REFUSED.items()),
]
