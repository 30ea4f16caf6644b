"""Masks cut to rectangles, held against what is cut pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import kernels
from runtime._cut import cut_to_boxes, shared_pixels
from runtime.types import Prediction

SIZE = (11, 14)
SIDES = st.tuples(st.floats(-0.5, 13.4), st.floats(-0.5, 10.4), st.floats(0, 14), st.floats(0, 11))


def blob(box: tuple[int, int, int, int], holes: int = 0) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, np.bool_)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = np.random.default_rng(holes).random((max(y1 - y0, 0), max(x1 - x0, 0))) < 0.7
    return mask


def predicted(*masks: NDArray[np.bool_]) -> Prediction:
    """One prompt with these candidates."""
    stack = np.stack(masks)[np.newaxis]
    box, area = kernels.mask_box(masks[0])
    scores = np.linspace(0.9, 0.1, len(masks), dtype=np.float32)[np.newaxis]
    logits = np.ones((1, 4, 4), np.float32)
    tight = np.array([box or (-1,) * 4])
    return Prediction(logits, stack[:, 0], scores[:, 0], stack, scores, tight, np.array([area]))


def placed(numbers: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x, y, width, height = numbers
    return (x, y, min(x + width, 13.4), min(y + height, 10.4))


@given(
    box=st.tuples(st.integers(0, 13), st.integers(0, 10), st.integers(0, 14), st.integers(0, 11)),
    limits=st.lists(SIDES.map(placed), min_size=1, max_size=3),
    candidates=st.integers(1, 3),
)
def test_a_cut_mask_holds_the_pixels_whose_centres_lie_in_the_box(
    box: tuple[int, int, int, int], limits: list[tuple[float, float, float, float]], candidates: int
) -> None:
    masks = [blob(box, holes) for holes in range(candidates)]
    found = cut_to_boxes(predicted(*masks), limits)
    y, x = np.indices(SIZE)
    for row, (x0, y0, x1, y1) in enumerate(limits):
        inside = (x > x0 - 0.5 - 1e-9) & (x <= x1 + 0.5) & (y > y0 - 0.5 - 1e-9) & (y <= y1 + 0.5)
        for number, mask in enumerate(masks):
            np.testing.assert_array_equal(found.candidates[row, number], mask & inside)
        np.testing.assert_array_equal(found.masks[row], masks[0] & inside)
        tight, area = kernels.mask_box(masks[0] & inside)
        assert found.boxes[row].tolist() == list(tight or (-1,) * 4)
        assert found.areas[row] == area
    assert len(found.scores) == len(found.low_res_logits) == len(limits)


@pytest.mark.parametrize("box", [(2, 3, 9, 8), (5, 5, 5, 5)])
def test_what_lies_within_its_box_is_left_as_it_is(box: tuple[int, int, int, int]) -> None:
    whole = predicted(blob(box))
    assert cut_to_boxes(whole, [(2, 3, 8, 7)]) is whole


def shifted(mask: NDArray[np.bool_], dx: int, dy: int) -> NDArray[np.bool_]:
    """A mask moved by whole pixels; what leaves the image is gone."""
    moved = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        if 0 <= y + dy < SIZE[0] and 0 <= x + dx < SIZE[1]:
            moved[y + dy, x + dx] = True
    return moved


@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(7, 11)] * 2), min_size=2, max_size=2),
    moved=st.tuples(*[st.floats(-15, 15)] * 2) | st.just((0.0, 0.0)),
)
def test_pixels_that_two_masks_share_are_counted_where_their_boxes_meet(
    boxes: list[tuple[int, int, int, int]], moved: tuple[float, float]
) -> None:
    one, other = (blob(box, holes) for holes, box in enumerate(boxes))
    there = shifted(one, round(moved[0]), round(moved[1]))
    assert shared_pixels(predicted(one), predicted(other), moved) == np.count_nonzero(there & other)
    left, right = np.zeros((2, *SIZE), np.bool_)
    left[2:4, 1:3] = right[6:8, 9:12] = True
    assert shared_pixels(predicted(left), predicted(right), (0.0, 0.0)) == 0
