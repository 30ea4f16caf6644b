"""Points and strokes made from boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime._derived import box_quarters, box_stroke


def test_points_are_the_centres_of_the_quarters_row_by_row() -> None:
    points, labels = box_quarters(np.float32([[10, 20, 30, 60], [5, 5, 5, 5]]))
    np.testing.assert_array_equal(points[0], np.float32([[15, 30], [25, 30], [15, 50], [25, 50]]))
    np.testing.assert_array_equal(points[1], np.full((4, 2), 5, np.float32))
    np.testing.assert_array_equal(labels, np.ones((2, 4), np.float32), strict=True)


def test_a_stroke_runs_through_the_middle_half_of_its_box() -> None:
    strokes = box_stroke(np.float32([[40, 46, 120, 158], [8, 8, 9, 12]]), (256, 256), (256, 256))
    wanted = np.zeros((2, 1, 256, 256), np.float32)
    wanted[0, 0, 100:105, 60:101] = 1  # the middle is (80, 102), a quarter of the box on both sides, five rows
    wanted[1, 0, 8:13, 8:10] = 1
    np.testing.assert_array_equal(strokes, wanted, strict=True)


def test_a_stroke_is_as_thick_in_a_smaller_map_as_it_is_in_the_input_frame() -> None:
    stroke = box_stroke(np.float32([[40, 40, 167, 167]]), (64, 64), (256, 256))[0, 0]
    rows, columns = np.nonzero(stroke)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 26, 18, 33)


@given(st.lists(st.integers(0, 255), min_size=4, max_size=4), st.sampled_from([32, 64, 256]))
def test_a_stroke_is_never_empty_and_never_leaves_its_box(ends: list[int], side: int) -> None:
    x0, x1 = sorted(ends[:2])
    y0, y1 = sorted(ends[2:])
    rows, columns = np.nonzero(box_stroke(np.float32([[x0, y0, x1, y1]]), (side, side), (256, 256))[0, 0])
    assert rows.size
    factor = side / 256
    assert columns.min() >= (x0 + 0.5) * factor - 1
    assert columns.max() <= (x1 + 0.5) * factor
    assert rows.min() >= (y0 + 0.5) * factor - 1
    assert rows.max() <= (y1 + 0.5) * factor


@pytest.mark.parametrize("count", [1, 3])
def test_every_box_has_its_own_points_and_stroke(count: int) -> None:
    boxes = np.float32([[10, 20, 30, 60], [50, 5, 90, 25], [0, 0, 255, 255]])[:count]
    strokes = box_stroke(boxes, (64, 64), (256, 256))
    points, _ = box_quarters(boxes)
    for index in range(count):
        np.testing.assert_array_equal(strokes[index], box_stroke(boxes[index : index + 1], (64, 64), (256, 256))[0])
        np.testing.assert_array_equal(points[index], box_quarters(boxes[index : index + 1])[0][0])
