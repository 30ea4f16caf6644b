"""Prompts that are refused when they are made, and what the frozen values hold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from runtime.errors import LiteInferError, PromptError
from runtime.types import Box, Embedding, Point, SliceResult


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2, 3), (1, 2, 3, 4, 5), tuple(range(7))])
def test_a_box_has_four_or_six_numbers(numbers: tuple[float, ...]) -> None:
    with pytest.raises(PromptError, match=rf"box with {len(numbers)} numbers: wanted 4 .* or 6"):
        Box(numbers)


@pytest.mark.parametrize(
    "numbers", ["abcd", (1, 2, 3, 10**400), (1, 2, 3, "x"), (1, 2, 3, None), None, 7, ((1, 2), (3, 4))]
)
def test_a_box_of_something_else_than_numbers_is_refused(numbers: Any) -> None:
    with pytest.raises(PromptError, match=r"wanted 4 or 6 numbers"):
        Box(numbers)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", range(6))
def test_a_box_with_nan_or_infinity_is_refused(bad: float, place: int) -> None:
    numbers = [1.0, 2, 3, 4, 5, 6]
    numbers[place] = bad
    with pytest.raises(PromptError, match=r"every coordinate must be a finite number"):
        Box(tuple(numbers))


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((5, 0, 4, 9), "x1 = 4 lies below x0 = 5; give the smaller end first"),
        ((0, 9, 4, 8.5), "y1 = 8.5 lies below y0 = 9"),
        ((0, 0, 3, 4, 4, 2), "z1 = 2 lies below z0 = 3"),
    ],
)
def test_a_reversed_box_names_the_axis(numbers: tuple[float, ...], text: str) -> None:
    with pytest.raises(PromptError, match=text):
        Box(numbers)


def test_a_box_of_one_pixel_is_a_box() -> None:
    assert Box((2, 3, 2, 3)).xyxy == (2.0, 3.0, 2.0, 3.0)


def test_a_solid_box_takes_no_slice() -> None:
    assert Box((1, 2, 3, 4, 5, 6)).is_3d
    with pytest.raises(PromptError, match=r"a box of 6 numbers spans slices already; leave slice_index out"):
        Box((1, 2, 3, 4, 5, 6), slice_index=3)


@pytest.mark.parametrize("kind", [Box, Point])
@pytest.mark.parametrize("bad", ["4", 4.5, math.nan, True, (4,)])
def test_a_slice_index_is_a_whole_number(kind: type[Box] | type[Point], bad: Any) -> None:
    numbers = (1, 2, 3, 4) if kind is Box else (1, 2)
    with pytest.raises(PromptError, match=r"slice_index .*: wanted a whole number"):
        kind(numbers, slice_index=bad)


def test_numpy_numbers_become_python_numbers() -> None:
    box = Box(np.array([1, 2, 3, 4], np.int16), slice_index=np.int64(5))  # type: ignore[arg-type]
    assert [type(value) for value in box.xyxy] == [float] * 4
    assert type(box.slice_index) is int
    assert box == Box((1, 2, 3, 4), 5)


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2, 3, 4)])
def test_a_point_has_two_or_three_numbers(numbers: tuple[float, ...]) -> None:
    with pytest.raises(PromptError, match=rf"point with {len(numbers)} numbers: wanted 2 \(x,y\) or 3"):
        Point(numbers)


@pytest.mark.parametrize("numbers", [None, "ab", (1, "x"), (1, 10**400)])
def test_a_point_of_something_else_than_numbers_is_refused(numbers: Any) -> None:
    with pytest.raises(PromptError, match=r"wanted 2 or 3 numbers"):
        Point(numbers)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_point_with_nan_or_infinity_is_refused(bad: float) -> None:
    with pytest.raises(PromptError, match=r"every coordinate must be a finite number"):
        Point((1, bad))


def test_a_point_in_space_takes_no_slice() -> None:
    with pytest.raises(PromptError, match=r"a point of 3 numbers has its slice already"):
        Point((1, 2, 3), slice_index=3)


def test_prompts_are_frozen_and_compare_by_value() -> None:
    box = Box((1, 2, 3, 4), name="liver")
    with pytest.raises(dataclasses.FrozenInstanceError):
        box.name = "spleen"  # type: ignore[misc]
    assert {box, Box((1.0, 2.0, 3.0, 4.0), name="liver")} == {box}
    assert Point((1, 2)) != Point((1, 2), positive=False)


def test_a_prompt_error_is_a_value_error_and_of_the_tree() -> None:
    assert issubclass(PromptError, ValueError)
    assert issubclass(PromptError, LiteInferError)


def test_the_size_of_an_embedding_is_that_of_all_its_tensors() -> None:
    tensors = {"a": np.zeros((1, 2, 3), np.float16), "b": np.zeros((5,), np.uint8)}
    assert Embedding(tensors, (3, 4), (6, 8), "00").nbytes == 12 + 5
    assert Embedding(tensors, (3, 4), (6, 8), "00", np.zeros((3, 4), np.uint8)).nbytes == 12 + 5 + 12


def test_a_slice_result_says_nothing_of_a_stop_by_default() -> None:
    assert SliceResult(4, 0.5, 12).stop is None
