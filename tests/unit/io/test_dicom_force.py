"""`load` with ``force``: a doubtful series is refused with what was found, or mended with what was done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io import load
from runtime.io.dicom import list_series

WriteSlice = Callable[..., Path]


def _pixels(k: float) -> NDArray[np.int16]:
    return np.full((5, 7), round(10 * k) % 1000, dtype=np.int16) + np.arange(7, dtype=np.int16)


@pytest.fixture
def write_at(write_slice: WriteSlice, tmp_path: Path) -> Callable[..., Path]:
    """A series with slices at these heights; every pixel says the height."""

    def write(heights: list[float], **attributes: Any) -> Path:
        for number, height in enumerate(heights):
            here = {key: value(number) if callable(value) else value for key, value in attributes.items()}
            here = {"ImagePositionPatient": [0, 0, height], "InstanceNumber": number, **here}
            write_slice(_pixels(height), f"{number:02d}", **here)
        return tmp_path / "series"

    return write


def _heights(volume: Volume) -> list[float]:
    return [float(value) / 10 for value in volume.array[0, 0]]


def _refused(folder: Path, message: str) -> None:
    with pytest.raises(ImageError, match=rf"{message}.*, or load it all the same with force=True \(--force\)$"):
        load(folder)


def test_a_gap_is_filled_with_copies_and_the_rest_stays_in_its_place(
    write_at: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_at([0, 2, 4, 10, 12])
    _refused(folder, "between its 5 slices is 2.000 mm, but 6.000 mm between slices 2 and 3")
    volume = load(folder, force=True)
    assert _heights(volume) == [0, 2, 4, 4, 10, 10, 12]
    assert volume.source.copies == (3, 4)
    assert [volume.source.files[file].name for file, _ in volume.source.frames] == [
        "00", "01", "02", "02", "03", "03", "04",
    ]  # fmt: skip
    np.testing.assert_allclose((volume.affine @ (0, 0, 5, 1))[:3], (0, 0, 10))
    assert volume.spacing[2] == 2
    (note,) = volume.notes
    assert "6.000 mm" in note
    assert "copies of their neighbours fill the places of missing slices (2)" in note
    assert note in caplog.text


def test_slices_between_the_others_are_left_out(write_at: Callable[..., Path]) -> None:
    folder = write_at([0, 2, 4, 5, 6, 8, 10])
    _refused(folder, r"1.000 mm between slices 2 and 3 \(such places: 2\)")
    volume = load(folder, force=True)
    assert _heights(volume) == [0, 2, 4, 6, 8, 10]
    assert volume.source.copies == ()
    assert "slices that lie between the others are left out (1)" in volume.notes[0]


def test_a_tilted_stack_with_a_gap_keeps_its_shear(write_at: Callable[..., Path]) -> None:
    folder = write_at([0, 2, 6], ImagePositionPatient=lambda n: [0, (0, 1, 3)[n], (0, 2, 6)[n]])
    volume = load(folder, force=True)
    np.testing.assert_allclose(volume.affine[:3, 2], (0, -1, 2), atol=1e-9)
    assert volume.shape[2] == 4


def test_gaps_too_wide_for_one_stack_are_refused_even_so(write_at: Callable[..., Path]) -> None:
    with pytest.raises(ImageError, match=r"5000\.000 mm between slices 2 and 3"):
        load(write_at([0, 1, 2, 5002]), force=True)
    with pytest.raises(ImageError, match=r"slices are missing or extra; fetch the series again$"):
        load(write_at([0, 1e-3, 2e-3, 1e20]), force=True)


def test_of_duplicates_the_first_is_kept(write_at: Callable[..., Path]) -> None:
    folder = write_at([0, 2, 2, 4])
    _refused(folder, "4 slices lie at 3 positions, 1 of which hold more or fewer than 1")
    volume = load(folder, force=True)
    assert _heights(volume) == [0, 2, 4]
    assert [file for file, _ in volume.source.frames] == [0, 1, 3]
    assert "the first 1 by InstanceNumber are kept" in volume.notes[0]


def test_time_points_with_a_hole_ask_for_a_choice_and_stand_in(write_at: Callable[..., Path]) -> None:
    folder = write_at([0, 2, 4, 0, 2], InstanceNumber=lambda n: n)
    with pytest.raises(ImageError, match="holds 2 images at each of 3 positions"):
        load(folder, force=True)
    assert [file for file, _ in load(folder, volume=1, force=True).source.frames] == [3, 4, 2]


def test_slices_without_position_are_ordered_by_number(write_at: Callable[..., Path]) -> None:
    numbers = (3, 1, 4, 2)
    folder = write_at(
        [30, 10, 40, 20], ImagePositionPatient=None, ImageOrientationPatient=None, InstanceNumber=lambda n: numbers[n]
    )
    _refused(folder, "none of its 4 slices has a position, so their order is unknown")
    volume = load(folder, force=True)
    assert _heights(volume) == [10, 20, 30, 40]
    assert (volume.affine, volume.spacing) == (None, (0.6, 0.9, 2.5))
    assert "ordered by InstanceNumber" in volume.notes[0]


def test_equal_numbers_are_said(write_at: Callable[..., Path]) -> None:
    folder = write_at([1, 2, 3], ImagePositionPatient=None, ImageOrientationPatient=None, InstanceNumber=1)
    assert "(1 distinct ones, else by file name)" in load(folder, force=True).notes[0]


def test_some_slices_without_position_are_left_out(write_at: Callable[..., Path]) -> None:
    folder = write_at([0, 2, 4, 6], ImagePositionPatient=lambda n: None if n == 3 else [0, 0, 2 * n])
    _refused(folder, "1 of 4 slices have no position")
    assert _heights(load(folder, force=True)) == [0, 2, 4]


def test_slices_off_the_line_are_kept_where_they_fit_best(write_at: Callable[..., Path]) -> None:
    folder = write_at([0, 2, 4], ImagePositionPatient=lambda n: [(0, 5, 0)[n], 0, 2 * n])
    _refused(folder, r"its slices do not lie on a line \(off by 5.00 mm\)")
    assert load(folder, force=True).shape[2] == 3


def test_force_changes_nothing_where_nothing_is_wrong(write_at: Callable[..., Path]) -> None:
    folder = write_at([0, 2, 4])
    plain, forced = load(folder), load(folder, force=True)
    np.testing.assert_array_equal(plain.array, forced.array)
    np.testing.assert_array_equal(plain.affine, forced.affine)
    assert forced.notes == ()


def test_what_was_found_is_listed_without_loading(write_at: Callable[..., Path]) -> None:
    (one,) = list_series(write_at([0, 2, 4, 10, 12]))
    assert (one.images, one.slices, one.volumes, one.size) == (5, 7, 1, (7, 5))
    assert (one.spacing, one.orientation, one.refused) == ((0.6, 0.9, 2.0), "LPS", None)
    assert "missing or extra" in one.findings[0]
