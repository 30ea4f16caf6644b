"""runtime.io.dicom on objects of several frames, made here: enhanced volumes, films and stacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io import load

WriteSlice = Callable[..., Path]
ROWS, COLUMNS = 5, 7
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def _pixels(k: int) -> NDArray[np.int16]:
    return (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) + 100 * k).astype(np.int16)


def _frames(count: int, **attributes: Any) -> dict[str, Any]:
    pixels = np.stack([_pixels(k) for k in range(count)])
    return {"pixels": pixels[0], "NumberOfFrames": count, "PixelData": pixels.tobytes(), **attributes}


def _group(k: int, slope: float) -> Any:
    from pydicom.dataset import Dataset

    group, place, values = Dataset(), Dataset(), Dataset()
    place.ImagePositionPatient = [0.0, 0.0, 3.0 * k]
    values.RescaleSlope, values.RescaleIntercept = slope, 0
    group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [values]
    return group


@pytest.fixture
def write_enhanced(write_slice: WriteSlice) -> Callable[..., Path]:
    """An enhanced object whose frames are stored in a given order of positions."""

    def write(order: list[int], **attributes: Any) -> Path:
        from pydicom.dataset import Dataset

        shared, axes, measures = Dataset(), Dataset(), Dataset()
        axes.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        measures.PixelSpacing, measures.SliceThickness = [0.4, 0.3], 3
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [axes], [measures]
        given = _frames(len(order), SOPClassUID=ENHANCED_MR, Modality="MR", **attributes)
        given["PerFrameFunctionalGroupsSequence"] = [_group(k, 1 + n) for n, k in enumerate(order)]
        absent = dict.fromkeys(("PixelSpacing", "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient"))
        return write_slice(given.pop("pixels"), "e.dcm", SharedFunctionalGroupsSequence=[shared], **absent, **given)

    return write


def test_an_enhanced_object_is_a_volume_ordered_by_position(write_enhanced: Callable[..., Path]) -> None:
    volume = load(write_enhanced([2, 0, 1]))
    assert volume.spacing == pytest.approx((0.3, 0.4, 3.0))
    for k, frame in enumerate((1, 2, 0)):
        np.testing.assert_allclose(volume.array[:, :, k].T, _pixels(frame) * (1.0 + frame))


def test_an_enhanced_object_of_two_echoes_asks_which_is_meant(write_enhanced: Callable[..., Path]) -> None:
    path = write_enhanced([0, 1, 0, 1])
    with pytest.raises(ImageError, match="2 images at each of 2 positions"):
        load(path)
    np.testing.assert_allclose(load(path, volume=1).array[:, :, 0].T, _pixels(2) * 3.0)


def test_a_film_is_not_taken_for_a_volume(write_slice: WriteSlice) -> None:
    given = _frames(3, Modality="US", ImagePositionPatient=None, ImageOrientationPatient=None)
    path = write_slice(given.pop("pixels"), "film.dcm", **given)
    with pytest.raises(ImageError, match=r"holds 3 frames, not one volume; choose one with volume=0 \.\. 2"):
        load(path)
    frame = load(path, volume=2)
    assert frame.is_2d
    np.testing.assert_array_equal(frame.array[:, :, 0].T, _pixels(2))


def test_ct_frames_without_positions_are_a_stack_without_affine(
    write_slice: WriteSlice, caplog: pytest.LogCaptureFixture
) -> None:
    given = _frames(3, ImagePositionPatient=None, ImageOrientationPatient=None)
    volume = load(write_slice(given.pop("pixels"), "x.dcm", **given))
    assert volume.shape == (COLUMNS, ROWS, 3)
    assert volume.affine is None
    assert "have no position; they are taken as slices in file order" in caplog.text
