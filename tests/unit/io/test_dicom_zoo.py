"""The DICOM zoo of the shared data, row by row: read with the table's values, or refused with a reason."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io import load
from runtime.io.dicom import list_series

GREY = [
    "CT_small", "MR_small", "MR_small_implicit", "MR_small_bigendian", "MR_small_RLE", "MR_small_jp2klossless",
    "MR_small_jpeg_ls_lossless", "MR_small_padded", "MR_small_expb", "693_J2KI", "693_J2KR",
    "J2K_pixelrep_mismatch", "JPEG2000", "JPEGLSNearLossless_16", "image_dfl", "examples_overlay",
    "JLSL_08_07_0_1F", "vlut_04", "parametric_map_float", "parametric_map_double_float", "explicit_VR-UN", "1",
    "decimal_rescale", "slicethickness_empty_string", "gdcm-CT-MONO2-8-abdo", "0",
]  # fmt: skip
TURNED = {"RG3_J2KI": 1023, "dx_image": 255}
COLOUR = [
    "SC_rgb_rle", "SC_rgb_jpeg_dcmtk", "SC_rgb_dcmtk_+eb+cr", "SC_jpeg_no_color_transform",
    "SC_ybr_full_422_uncompressed", "SC_rgb_small_odd", "SC_rgb_small_odd_jpeg", "GDCMJ2K_TextGBR",
    "examples_rgb_color", "examples_jpeg2k", "ExplVR_BigEnd", "SC_rgb_jls_lossy_line", "HTJ2KLossless_08_RGB",
    "color-pl", "US1_J2KI",
]  # fmt: skip
PALETTE = ["examples_palette", "OBXXXX1A", "gdcm-US-ALOKA-16"]
LUT = ["mlut_18"]
STACKS = {
    "emri_small": (64, 64, 10), "emri_small_RLE": (64, 64, 10), "emri_small_big_endian": (64, 64, 10),
    "eCT_Supplemental": (512, 512, 2), "multiframe-test1": (256, 256, 16), "6_1": (64, 64, 6),
}  # fmt: skip
WITH_IMAGECODECS = [
    "SC_rgb_jpeg_gdcm", "JPEG-LL", "JPGLosslessP14SV1_1s_1f_8b", "bad_sequence", "nema-ct1_jpll", "JPEG-lossy",
    "nema-mr1_jply",
]  # fmt: skip
FILMS = {"SC_rgb_rle_16bit_2frame": 2, "examples_ybr_color": 30, "OBXXXX1A_rle_2frame": 2}
REFUSED = {
    "liver_1frame": "is a segmentation",
    "rtdose": "is a dose grid",
    "badVR": "is a dose grid",
    "rtstruct": "is a structure set",
    "rtplan": "is a treatment plan",
    "sm_image": "is a tiled whole-slide image",
    "MR_truncated": "complete pixel data",
    "JPEG2000-embedded-sequence-delimiter": "complete pixel data",  # the reference cannot decode it either
    "no_meta": "holds no DICOM image",
    "nested_priv_SQ": "holds no DICOM image",
    "dwv-test_no-number-rows": "holds no DICOM image",
    "IM-0001-0001": "is a Siemens mosaic",
    "IM_0027_fMAP": "holds 2 images at each of 32 positions",
}
SERIES = {
    "ct_small_17": ((88, 128, 17), (2, 2, 2)),
    "ct_shuffled_names": ((88, 128, 17), (2, 2, 2)),
    "ct_shuffled_instance": ((88, 128, 17), (2, 2, 2)),
    "ct_missing_spacing": ((88, 128, 17), (1, 1, 2)),
    "ct_varying_rescale": ((88, 128, 6), (2, 2, 2)),
    "ct_no_extension_noise": ((88, 128, 5), (2, 2, 2)),
    "ct_gantry_tilt": ((512, 512, 10), (0.4882812, 0.4882812, 4.22)),
    "oblique_oriented_3": ((100, 50, 3), (2.5, 3.5, 4.5)),
    "ct_3slice_with_SEG": ((512, 512, 3), (0.810547, 0.810547, 1)),
    "ct_1slice_with_RTSTRUCT": ((512, 512, 1), (1.074219, 1.074219, 3)),
}
REFUSED_SERIES = {
    "ct_missing_slice": "4.000 mm between slices 7 and 8",
    "ct_duplicate_slice": "7 slices lie at 6 positions",
    "several_series_one_folder": "holds 4 series; choose one",
    "mr_fmri_two_timepoints": "2 images at each of 15 positions",
    "ct_no_position": "none of its 17 slices has a position",
}
FORCED = {"ct_missing_slice": 17, "ct_duplicate_slice": 6, "ct_no_position": 17}
BROKEN = {
    "truncated_header": "holds no DICOM image",
    "truncated_pixels": "complete pixel data",
    "zero_bytes": "the file is empty",
    "not_dicom": "holds no DICOM image",
    "preamble_only": "holds no DICOM image",
}


@pytest.fixture(scope="module")
def zoo(shared: Path) -> Path:
    return shared / "data" / "dicom_zoo"


@pytest.fixture(scope="module")
def table(zoo: Path) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in json.loads((zoo / "table.json").read_text())}


def _single(zoo: Path, name: str) -> Path:
    return zoo / "single" / f"{name}.dcm"


def _scale(row: dict[str, Any]) -> tuple[float, float]:
    slope, _, intercept = row["rescale"].partition("/")
    return float(slope or 1), float(intercept or 0)


def _summary(values: NDArray[Any]) -> NDArray[np.float64]:
    wide = values.astype(np.float64)
    return np.array([wide.min(), wide.max(), wide.mean()])


def _reference(row: dict[str, Any]) -> NDArray[np.float64]:
    return np.array([row["ref_min"], row["ref_max"], row["ref_mean"]])


def test_every_row_of_the_zoo_has_its_expectation(table: dict[str, dict[str, Any]]) -> None:
    singles = [*GREY, *TURNED, *COLOUR, *PALETTE, *LUT, *STACKS, *WITH_IMAGECODECS, *FILMS, *REFUSED]
    expected = [f"single/{name}.dcm" for name in singles]
    expected += [f"series/{name}" for name in (*SERIES, *REFUSED_SERIES)]
    expected += [f"broken/{name}.dcm" for name in BROKEN]
    assert len(expected) == len(set(expected))
    assert set(expected) == set(table)


@pytest.mark.parametrize("name", GREY)
def test_a_grey_picture_has_the_tables_values_after_rescaling(
    zoo: Path, table: dict[str, dict[str, Any]], name: str
) -> None:
    row, volume = table[f"single/{name}.dcm"], load(_single(zoo, name))
    slope, intercept = _scale(row)
    assert volume.is_2d
    assert volume.array.shape == (*row["ref_shape"][::-1], 1)
    assert volume.array.dtype.isnative
    np.testing.assert_allclose(_summary(volume.array), _reference(row) * slope + intercept, rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "total"), TURNED.items())
def test_monochrome1_is_turned_over(zoo: Path, table: dict[str, dict[str, Any]], name: str, total: int) -> None:
    low, high, mean = _reference(table[f"single/{name}.dcm"])
    found = _summary(load(_single(zoo, name)).array)
    np.testing.assert_allclose(found, (total - high, total - low, total - mean), rtol=1e-5)


@pytest.mark.parametrize("name", COLOUR)
def test_a_colour_picture_has_the_tables_values(zoo: Path, table: dict[str, dict[str, Any]], name: str) -> None:
    row, volume = table[f"single/{name}.dcm"], load(_single(zoo, name))
    rows, columns, _ = row["ref_shape"]
    assert volume.array.shape == (columns, rows, 1, 3)
    assert volume.array.dtype == np.uint8
    np.testing.assert_allclose(_summary(volume.array), _reference(row), atol=0.01)  # JPEG decoders round differently


@pytest.mark.parametrize("name", PALETTE)
def test_a_palette_is_expanded(zoo: Path, name: str) -> None:
    import pydicom

    data = pydicom.dcmread(_single(zoo, name))
    expanded = pydicom.pixels.apply_color_lut(data.pixel_array, data)
    expected = expanded >> 8 if expanded.dtype == np.uint16 else expanded
    np.testing.assert_array_equal(load(_single(zoo, name)).array[:, :, 0].swapaxes(0, 1), expected)


@pytest.mark.parametrize("name", LUT)
def test_a_modality_lut_is_applied(zoo: Path, name: str) -> None:
    import pydicom

    data = pydicom.dcmread(_single(zoo, name))
    expected = pydicom.pixels.apply_modality_lut(data.pixel_array, data)
    np.testing.assert_array_equal(load(_single(zoo, name)).array[:, :, 0].T, expected)


@pytest.mark.parametrize(("name", "shape"), STACKS.items())
def test_a_multi_frame_object_is_a_volume(
    zoo: Path, table: dict[str, dict[str, Any]], name: str, shape: tuple[int, int, int]
) -> None:
    volume = load(_single(zoo, name))
    assert volume.shape == shape
    assert not volume.is_2d
    offset = -1024 if name == "eCT_Supplemental" else 0
    np.testing.assert_allclose(_summary(volume.array), _reference(table[f"single/{name}.dcm"]) + offset, rtol=1e-4)


def test_an_enhanced_volume_has_its_place_and_spacing(zoo: Path) -> None:
    volume = load(_single(zoo, "6_1"))
    np.testing.assert_allclose(volume.spacing, (3.375, 3.375, 2.4), rtol=1e-4)
    np.testing.assert_allclose(volume.affine[:3, 3], (109.79, 58.4773, -5.40356), rtol=1e-4)
    reversed_frames = load(_single(zoo, "eCT_Supplemental"))  # its normal points down, its first frame is the lower
    assert reversed_frames.affine[2, 2] == pytest.approx(-10)
    assert reversed_frames.affine[2, 3] == pytest.approx(-149)


@pytest.mark.parametrize("name", WITH_IMAGECODECS)
def test_lossless_and_12_bit_jpeg_are_read_or_the_extra_is_named(
    zoo: Path, table: dict[str, dict[str, Any]], name: str
) -> None:
    if importlib.util.find_spec("imagecodecs") is None:
        with pytest.raises(ImageError, match=r"needs imagecodecs; install lite-infer\[dicom\]"):
            load(_single(zoo, name))
        return
    row, volume = table[f"single/{name}.dcm"], load(_single(zoo, name))
    if row.get("ref_min") is not None:
        slope, intercept = _scale(row)
        np.testing.assert_allclose(_summary(volume.array), _reference(row) * slope + intercept, rtol=1e-4)
    else:  # no reference in the table: what SimpleITK 2.5 decodes
        expected = {"JPEG-lossy": (0, 264, 14.369991), "nema-mr1_jply": (0, 3970, 481.498604)}[name]
        np.testing.assert_allclose(_summary(volume.array), expected, atol=1)


@pytest.mark.parametrize(("name", "frames"), FILMS.items())
def test_a_film_is_not_a_volume_but_its_frames_are_images(zoo: Path, name: str, frames: int) -> None:
    with pytest.raises(ImageError, match=f"holds {frames} frames, not one volume"):
        load(_single(zoo, name))
    volume = load(_single(zoo, name), volume=frames - 1)
    assert volume.is_2d
    assert (volume.array.shape[3], volume.array.dtype) == (3, np.uint8)


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_what_cannot_be_segmented_is_refused_with_its_reason(zoo: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(_single(zoo, name))


def test_the_parts_of_a_mixed_object_can_be_chosen(zoo: Path) -> None:
    magnitude, phase = (load(_single(zoo, "IM_0027_fMAP"), volume=part) for part in (0, 1))
    assert magnitude.shape == phase.shape == (64, 64, 32)
    assert magnitude.array.min() >= 0 > phase.array.min()


@pytest.mark.parametrize(("name", "expected"), SERIES.items())
def test_a_series_is_one_volume(zoo: Path, name: str, expected: tuple[tuple[int, ...], tuple[float, ...]]) -> None:
    volume = load(zoo / "series" / name)
    assert volume.shape == expected[0]
    np.testing.assert_allclose(volume.spacing, expected[1], rtol=1e-4)
    assert volume.modality == "CT"


@pytest.mark.parametrize("name", ["ct_shuffled_names", "ct_shuffled_instance"])
def test_names_and_numbers_do_not_change_the_order(zoo: Path, name: str) -> None:
    plain, shuffled = load(zoo / "series" / "ct_small_17"), load(zoo / "series" / name)
    np.testing.assert_array_equal(shuffled.array, plain.array)
    np.testing.assert_array_equal(shuffled.affine, plain.affine)


@pytest.mark.parametrize(
    "name", ["ct_small_17", "ct_varying_rescale", "ct_gantry_tilt", "oblique_oriented_3", "ct_3slice_with_SEG"]
)
def test_each_slice_lies_where_its_own_header_says(zoo: Path, name: str) -> None:
    import pydicom

    volume = load(zoo / "series" / name)
    seen = 0
    for path in (zoo / "series" / name).iterdir():
        data = pydicom.dcmread(path)
        if data.Modality != "CT":
            continue
        corner = np.array([*data.ImagePositionPatient], float) * (-1, -1, 1)
        origins = volume.affine[:3, 3] + np.arange(volume.shape[2])[:, np.newaxis] * volume.affine[:3, 2]
        k = int(np.argmin(np.linalg.norm(origins - corner, axis=1)))
        np.testing.assert_allclose((volume.affine @ (0, 0, k, 1))[:3], corner, atol=0.02)
        x, y = np.array([*data.ImageOrientationPatient], float).reshape(2, 3)
        far = corner / (-1, -1, 1) + x * data.PixelSpacing[1] * 10 + y * data.PixelSpacing[0] * 20
        np.testing.assert_allclose((volume.affine @ (10, 20, k, 1))[:3], far * (-1, -1, 1), atol=0.02)
        expected = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        np.testing.assert_allclose(volume.array[:, :, k].T, expected, rtol=1e-5, atol=1e-4)
        seen += 1
    assert seen == volume.shape[2]


@pytest.mark.parametrize(("name", "message"), REFUSED_SERIES.items())
def test_a_doubtful_series_is_refused_with_what_was_found(zoo: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(zoo / "series" / name)


def test_the_ct_among_several_series_can_be_chosen(zoo: Path) -> None:
    folder = zoo / "series" / "several_series_one_folder"
    (chosen,) = [one for one in list_series(folder) if one.modality == "CT"]
    assert load(folder, series=chosen.uid).shape == (88, 128, 5)
    assert load(folder, series=str(chosen.number)).shape == (88, 128, 5)


def test_the_time_points_of_a_series_can_be_chosen(zoo: Path) -> None:
    first, second = (load(zoo / "series" / "mr_fmri_two_timepoints", volume=point) for point in (0, 1))
    assert first.shape == second.shape == (64, 64, 15)
    np.testing.assert_array_equal(first.affine, second.affine)
    assert 0 < np.abs(first.array.astype(int) - second.array).mean() < 0.1 * first.array.mean()


@pytest.mark.parametrize(("name", "message"), BROKEN.items())
def test_a_broken_file_is_an_image_error(zoo: Path, name: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(zoo / "broken" / f"{name}.dcm")


@pytest.mark.parametrize(("name", "slices"), FORCED.items())
def test_a_doubtful_series_is_read_when_forced(zoo: Path, name: str, slices: int) -> None:
    volume, plain = load(zoo / "series" / name, force=True), load(zoo / "series" / "ct_small_17")
    assert volume.shape == (88, 128, slices)
    assert len(volume.notes) == 1
    if name != "ct_no_position":
        np.testing.assert_array_equal(volume.affine, plain.affine)
    else:
        assert volume.affine is None
    for k in range(slices):
        expected = 7 if k in volume.source.copies else k
        np.testing.assert_array_equal(volume.array[:, :, k], plain.array[:, :, expected])
