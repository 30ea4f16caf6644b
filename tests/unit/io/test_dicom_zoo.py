"""The DICOM zoo of the shared data beyond its table: places, parts, series, and what force reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from zoo import main as zoo_main

from runtime.io import load
from runtime.io.dicom import list_series


@pytest.fixture(scope="module")
def zoo(shared: Path) -> Path:
    return shared / "data" / "dicom_zoo"


def _single(zoo: Path, name: str) -> Path:
    return zoo / "single" / f"{name}.dcm"


def test_the_command_prints_the_table(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo_main(["dicom", "--shared", str(shared)]) == 0
    assert capsys.readouterr().out.endswith("96 rows, 0 fall short\n")


def test_an_enhanced_volume_has_its_place_and_spacing(zoo: Path) -> None:
    volume = load(_single(zoo, "6_1"))
    np.testing.assert_allclose(volume.spacing, (3.375, 3.375, 2.4), rtol=1e-4)
    np.testing.assert_allclose(volume.affine[:3, 3], (109.79, 58.4773, -5.40356), rtol=1e-4)
    reversed_frames = load(_single(zoo, "eCT_Supplemental"))  # its normal points down, its first frame is the lower
    assert reversed_frames.affine[2, 2] == pytest.approx(-10)
    assert reversed_frames.affine[2, 3] == pytest.approx(-149)


def test_the_parts_of_a_mixed_object_can_be_chosen(zoo: Path) -> None:
    magnitude, phase = (load(_single(zoo, "IM_0027_fMAP"), volume=part) for part in (0, 1))
    assert magnitude.shape == phase.shape == (64, 64, 32)
    assert magnitude.array.min() >= 0 > phase.array.min()


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


@pytest.mark.parametrize(
    ("name", "slices"), [("ct_missing_slice", 17), ("ct_duplicate_slice", 6), ("ct_no_position", 17)]
)
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
