"""runtime.io._contours: polygons that hold exactly the pixels of a mask."""

from __future__ import annotations

import time
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from polygons import even_odd, painted
from scipy import ndimage

from runtime.io._contours import outlines

Mask = NDArray[np.bool_]
RING = np.pad(np.pad(np.zeros((2, 1), bool), 1, constant_values=True), 1)
TWO_HOLES = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], bool)
NESTED = np.pad(np.pad(RING, 1, constant_values=True), ((1, 2), (0, 1)))
CORNERS = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
DIAGONAL_HOLE = np.pad(np.array([[0, 1], [1, 0]], bool), 1, constant_values=True)

masks = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(masks)
@example(RING)
@example(TWO_HOLES)
@example(TWO_HOLES.T)
@example(NESTED)
@example(CORNERS)
@example(DIAGONAL_HOLE)
@example(np.ones((1, 1), bool))
def test_every_reading_of_the_polygons_gives_the_mask(mask: Mask) -> None:
    polygons = outlines(mask)
    np.testing.assert_array_equal(even_odd(polygons, mask.shape), mask)
    union = np.zeros_like(mask)
    for polygon in polygons:  # each alone: nobody has to know which of them belong together
        union |= even_odd([polygon], mask.shape)
    np.testing.assert_array_equal(union, mask)
    np.testing.assert_array_equal(painted(polygons, mask.shape), mask)
    assert len(polygons) == ndimage.label(mask)[1]


@given(masks)
def test_the_area_is_that_of_the_mask(mask: Mask) -> None:
    area = sum(cv2.contourArea(polygon.astype(np.float32)) for polygon in outlines(mask))
    edge = sum(np.count_nonzero(np.diff(np.pad(mask, 1).astype(int), axis=axis)) for axis in (0, 1))
    assert mask.sum() - 0.0101 * edge <= area + 1e-3
    assert area <= mask.sum() + 1e-3


def test_only_corners_are_kept() -> None:
    square = np.zeros((9, 9), bool)
    square[2:7, 3:6] = True
    (polygon,) = outlines(square)
    np.testing.assert_allclose(sorted(map(tuple, polygon)), [(1.51, 2.51), (1.51, 5.49), (6.49, 2.51), (6.49, 5.49)])


def test_a_hole_is_joined_by_a_channel_there_and_back() -> None:
    (polygon,) = outlines(RING)
    assert len(polygon) == 4 + 4 + 4
    steps = [tuple(sorted((tuple(a), tuple(b)))) for a, b in pairwise([*map(tuple, polygon), tuple(polygon[0])])]
    channel = [step for step in steps if steps.count(step) == 2]
    assert len(channel) == 2
    (u0, v0), (u1, v1) = channel[0]
    assert v0 == v1
    assert v0 % 1 == 0.25, "through no centre"
    assert 0 < abs(u1 - u0) < 1, "through the wall of one pixel"


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_slice_is_outlined_in_a_moment(seed: int) -> None:
    mask = np.random.default_rng(seed).random((160, 200)) < (0.3, 0.6, 0.9)[seed]
    begun = time.perf_counter()
    polygons = outlines(mask)
    assert time.perf_counter() - begun < 5
    np.testing.assert_array_equal(painted(polygons, mask.shape), mask)


def test_an_empty_mask_has_no_outline() -> None:
    assert outlines(np.zeros((3, 4), bool)) == []
