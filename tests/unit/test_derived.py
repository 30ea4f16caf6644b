"""Points, strokes and boxes made from other prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime._derived import box_quarters, box_stroke, mask_boxes, point_boxes, stroke_points


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


def test_a_box_around_points_has_its_side_and_holds_the_positive_ones() -> None:
    points = np.float32([[[20, 30], [90, 90], [24, 38]], [[5, 6], [50, 6], [0, 0]]])
    labels = np.float32([[1, 0, 1], [1, 1, -1]])
    boxes = point_boxes(points, labels, 21)
    np.testing.assert_array_equal(boxes, np.float32([[12, 24, 32, 44], [5, -4, 50, 16]]))


def test_a_box_around_a_mask_is_grown_and_that_around_nothing_is_none() -> None:
    masks = np.full((2, 1, 20, 30), -3, np.float32)
    masks[0, 0, 4:9, 11:13] = 0.5
    boxes = mask_boxes(masks, margin=2)
    np.testing.assert_array_equal(boxes[0], np.float32([9, 2, 14, 10]))
    assert np.isnan(boxes[1]).all()


def test_points_of_a_stroke_lie_on_it_far_apart() -> None:
    strokes = np.zeros((2, 1, 40, 50))
    strokes[0, 0, 10, 4:45] = 1
    strokes[0, 0, 30:33, 7] = -1
    strokes[1, 0, 5, 6] = 1
    points, labels = stroke_points(strokes)
    on, beside = points[0][labels[0] == 1], points[0][labels[0] == 0]
    assert on[0].tolist() == [24, 10], "first the middle"
    assert {tuple(p) for p in on} >= {(4, 10), (44, 10)}, "then the ends"
    assert len(on) == 6
    assert sorted(map(tuple, beside)) == [(7, 30), (7, 31), (7, 32)]
    assert labels[1].tolist() == [1] + [-1] * 11
    assert points[1, 0].tolist() == [6, 5]
