"""What the DICOM zoo of the shared data must give, row by row."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from zoo_rows import Check, Facts, Row, close, refusal, refused, told, values_of

from runtime.io import load

__all__ = ["DICOM"]


def _expected(facts: Facts) -> NDArray[np.float64]:
    """Lowest, highest and mean stored value of the table."""
    return np.array([facts["ref_min"], facts["ref_max"], facts["ref_mean"]])


def _rescaled(facts: Facts) -> NDArray[np.float64]:
    slope, _, intercept = facts["rescale"].partition("/")
    return _expected(facts) * float(slope or 1) + float(intercept or 0)


def _grey(folder: Path, facts: Facts) -> str:
    volume = load(folder / facts["path"])
    assert volume.is_2d
    assert volume.array.shape == (*facts["ref_shape"][::-1], 1)
    close(values_of(volume.array), _rescaled(facts))
    return told(volume)


def _turned(total: int) -> Check:
    """MONOCHROME1, turned over: the ends of the value range add up to ``total``."""

    def check(folder: Path, facts: Facts) -> str:
        volume = load(folder / facts["path"])
        low, high, mean = _expected(facts)
        close(values_of(volume.array), (total - high, total - low, total - mean))
        return told(volume)

    return check


def _colour(folder: Path, facts: Facts) -> str:
    volume = load(folder / facts["path"])
    rows, columns, _ = facts["ref_shape"]
    assert (volume.array.shape, volume.array.dtype) == ((columns, rows, 1, 3), np.uint8)
    close(values_of(volume.array), _expected(facts), absolute=0.01)  # JPEG decoders round differently
    return told(volume)


def _looked_up(function: str) -> Check:
    """A palette or a modality LUT, as pydicom applies it."""

    def check(folder: Path, facts: Facts) -> str:
        import pydicom

        data = pydicom.dcmread(folder / facts["path"])
        wanted = getattr(pydicom.pixels, function)(data.pixel_array, data)
        if function == "apply_color_lut" and wanted.dtype == np.uint16:
            wanted = wanted >> 8
        volume = load(folder / facts["path"])
        np.testing.assert_array_equal(volume.array[:, :, 0].swapaxes(0, 1), wanted)
        return told(volume)

    return check


def _stack(shape: tuple[int, int, int], offset: float) -> Check:
    def check(folder: Path, facts: Facts) -> str:
        volume = load(folder / facts["path"])
        assert (volume.shape, volume.is_2d) == (shape, False)
        close(values_of(volume.array), _expected(facts) + offset, relative=1e-4)
        return told(volume)

    return check


def _extra(values: tuple[float, float, float] | None) -> Check:
    """Lossless or 12-bit JPEG: decoded within one grey level, or the extra is named."""

    def check(folder: Path, facts: Facts) -> str:
        if importlib.util.find_spec("imagecodecs") is None:
            return refusal(folder / facts["path"], "needs imagecodecs; install lite-infer[dicom]")
        volume = load(folder / facts["path"])
        close(values_of(volume.array), _rescaled(facts) if values is None else values, relative=1e-4, absolute=1)
        return told(volume)

    return check


def _film(frames: int) -> Check:
    def check(folder: Path, facts: Facts) -> str:
        refusal(folder / facts["path"], f"holds {frames} frames, not one volume")
        volume = load(folder / facts["path"], volume=frames - 1)
        assert (volume.is_2d, volume.array.shape[3], volume.array.dtype) == (True, 3, np.uint8)
        return f"{frames} frames, one chosen: {told(volume)}"

    return check


def _series(shape: tuple[int, int, int], spacing: tuple[float, float, float], same_as: str | None = None) -> Check:
    def check(folder: Path, facts: Facts) -> str:
        volume = load(folder / facts["path"])
        assert volume.shape == shape
        assert volume.modality == "CT"
        close(volume.spacing, spacing, relative=1e-4)
        if same_as is not None:
            plain = load(folder / same_as)
            np.testing.assert_array_equal(volume.array, plain.array)
            np.testing.assert_array_equal(volume.affine, plain.affine)
        return told(volume)

    return check


def _forced(message: str, slices: int) -> Check:
    def check(folder: Path, facts: Facts) -> str:
        text = refusal(folder / facts["path"], message)
        assert "force=True (--force)" in text
        volume = load(folder / facts["path"], force=True)
        assert volume.shape == (88, 128, slices)
        assert len(volume.notes) == 1
        return f"{text}; forced: {told(volume)}"

    return check


def _chosen_series(folder: Path, facts: Facts) -> str:
    text = refusal(folder / facts["path"], "holds 4 series; choose one")
    volume = load(folder / facts["path"], series="4")
    assert (volume.shape, volume.modality) == ((88, 128, 5), "CT")
    return f"{text}; series 4: {told(volume)}"


def _chosen_volume(points: int, places: int, shape: tuple[int, int, int]) -> Check:
    def check(folder: Path, facts: Facts) -> str:
        text = refusal(folder / facts["path"], f"holds {points} images at each of {places} positions")
        volume = load(folder / facts["path"], volume=1)
        assert volume.shape == shape
        return f"{text}; volume 1: {told(volume)}"

    return check


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
STACKS = {
    "emri_small": (64, 64, 10), "emri_small_RLE": (64, 64, 10), "emri_small_big_endian": (64, 64, 10),
    "eCT_Supplemental": (512, 512, 2), "multiframe-test1": (256, 256, 16), "6_1": (64, 64, 6),
}  # fmt: skip
EXTRA: dict[str, tuple[float, float, float] | None] = {
    "SC_rgb_jpeg_gdcm": None, "JPEG-LL": None, "JPGLosslessP14SV1_1s_1f_8b": None, "bad_sequence": None,
    "nema-ct1_jpll": None,
    "JPEG-lossy": (0, 264, 14.369991), "nema-mr1_jply": (0, 3970, 481.498604),  # what SimpleITK 2.5 decodes
}  # fmt: skip
FILMS = {"SC_rgb_rle_16bit_2frame": 2, "examples_ybr_color": 30, "OBXXXX1A_rle_2frame": 2}
DICOM_REFUSED = {
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
}
SERIES = {
    "ct_small_17": ((88, 128, 17), (2, 2, 2)),
    "ct_missing_spacing": ((88, 128, 17), (1, 1, 2)),
    "ct_varying_rescale": ((88, 128, 6), (2, 2, 2)),
    "ct_no_extension_noise": ((88, 128, 5), (2, 2, 2)),
    "ct_gantry_tilt": ((512, 512, 10), (0.4882812, 0.4882812, 4.22)),
    "oblique_oriented_3": ((100, 50, 3), (2.5, 3.5, 4.5)),
    "ct_3slice_with_SEG": ((512, 512, 3), (0.810547, 0.810547, 1)),
    "ct_1slice_with_RTSTRUCT": ((512, 512, 1), (1.074219, 1.074219, 3)),
}
WARNINGS = {
    "ct_missing_spacing": "the pixel spacing is not stated",
    "ct_gantry_tilt": "the slices are sheared by 18.5 degrees",
}
FORCED = {
    "ct_missing_slice": ("4.000 mm between slices 7 and 8", 17),
    "ct_duplicate_slice": ("7 slices lie at 6 positions", 6),
    "ct_no_position": ("none of its 17 slices has a position", 17),
}
BROKEN = {
    "truncated_header": "holds no DICOM image",
    "truncated_pixels": "complete pixel data",
    "zero_bytes": "the file is empty",
    "not_dicom": "holds no DICOM image",
    "preamble_only": "holds no DICOM image",
}


def _dicom_rows() -> Iterator[Row]:
    def single(name: str) -> str:
        return f"single/{name}.dcm"

    def series(name: str) -> str:
        return f"series/{name}"

    loads, one = "loads with the table's values", "one volume, ordered by position"
    yield from (Row(single(name), loads, _grey) for name in GREY)
    yield from (Row(single(name), "turned over", _turned(total)) for name, total in TURNED.items())
    yield from (Row(single(name), loads, _colour) for name in COLOUR)
    yield from (Row(single(name), "colours of the palette", _looked_up("apply_color_lut")) for name in PALETTE)
    yield Row(single("mlut_18"), "values of the LUT", _looked_up("apply_modality_lut"))
    for name, shape in STACKS.items():
        yield Row(single(name), "a volume", _stack(shape, -1024 if name == "eCT_Supplemental" else 0))
    wanted = "loads within one grey level, or names the extra"
    yield from (Row(single(name), wanted, _extra(values)) for name, values in EXTRA.items())
    yield from (Row(single(name), f"a film of {frames}", _film(frames)) for name, frames in FILMS.items())
    yield Row(single("IM_0027_fMAP"), "asks for one of 2 volumes", _chosen_volume(2, 32, (64, 64, 32)))
    yield from (Row(single(name), f"refused: {what}", refused(what)) for name, what in DICOM_REFUSED.items())
    yield from (Row(series(name), one, _series(*facts), WARNINGS.get(name, "")) for name, facts in SERIES.items())
    for name in ("ct_shuffled_names", "ct_shuffled_instance"):
        yield Row(series(name), "equals ct_small_17", _series((88, 128, 17), (2, 2, 2), "series/ct_small_17"))
    for name, (what, slices) in FORCED.items():
        yield Row(series(name), "refused with what was found, unless forced", _forced(what, slices), what)
    yield Row(series("several_series_one_folder"), "lists 4 series, loads the chosen one", _chosen_series)
    wanted = "asks for one of 2 time points"
    yield Row(series("mr_fmri_two_timepoints"), wanted, _chosen_volume(2, 15, (64, 64, 15)))
    yield from (Row(f"broken/{name}.dcm", f"refused: {what}", refused(what)) for name, what in BROKEN.items())


DICOM = list(_dicom_rows())
