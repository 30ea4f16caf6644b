"""Where what a mask covers has gone on the next slice, in pixels of the slice."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.motion import displacement, moved_logits


def part(image: NDArray[np.uint8], rows: slice, columns: slice) -> NDArray[np.uint8]:
    return image[rows, columns]


def disc(shape: tuple[int, int], x: float, y: float, radius: float) -> NDArray[np.uint8]:
    """A bright disc with soft edges on a background that stands still."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    still = 60 + 20 * np.sin(columns / 9) + 20 * np.cos(rows / 7)
    depth = np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1)
    return (still * (1 - depth) + 210 * depth).astype(np.uint8)


def followed(shape: tuple[int, int], at: tuple[float, float], moved: tuple[float, float], radius: float) -> list[float]:
    before, now = (disc(shape, at[0] + dx, at[1] + dy, radius) for dx, dy in ((0, 0), moved))
    mask = before > 150
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]])
    return list(displacement(partial(part, before), partial(part, now), mask, box))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from([(64, 96), (300, 201), (512, 512)]),
    radius=st.floats(2.5, 30),
    place=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
    share=st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)),
)
def test_an_object_of_any_size_is_followed(
    shape: tuple[int, int], radius: float, place: tuple[float, float], share: tuple[float, float]
) -> None:
    at = place[0] * shape[1], place[1] * shape[0]
    radius = min(radius, min(shape) / 6)
    moved = share[0] * 2 * radius, share[1] * 2 * radius
    assert followed(shape, at, moved, radius) == pytest.approx(moved, abs=0.5 + 0.05 * radius)


@pytest.mark.parametrize("at", [(3.0, 40.0), (60.0, 2.0), (125.0, 77.0)])
def test_at_the_border_each_axis_has_its_own_scale(at: tuple[float, float]) -> None:
    assert followed((80, 128), at, (-1.0, 1.0), 6.0) == pytest.approx([-1.0, 1.0], abs=0.5)


def test_only_the_surroundings_are_asked_for_and_colours_are_averaged() -> None:
    image = np.repeat(disc((256, 256), 100, 90, 5)[:, :, np.newaxis], 3, axis=2)
    asked: list[tuple[slice, slice]] = []

    def pixels(rows: slice, columns: slice) -> NDArray[np.uint8]:
        asked.append((rows, columns))
        return image[rows, columns]

    found = displacement(pixels, pixels, image[:, :, 0] > 150, np.array([95, 85, 105, 95]))
    assert found == (0, 0)
    assert asked[0] == asked[1]
    assert [side.stop - side.start for side in asked[0]] == [33, 33]


def test_logits_move_by_whole_pixels_and_repeat_their_border() -> None:
    logits = np.arange(20, dtype=np.float32).reshape(4, 5)
    moved = moved_logits(logits, 1.6, -1.2)
    np.testing.assert_array_equal(moved[:3, 2:], logits[1:, :3])
    np.testing.assert_array_equal(moved[3], moved[2])
    np.testing.assert_array_equal(moved[:, 0], moved[:, 2])
    assert moved_logits(logits, 0.4, -0.4) is logits
    np.testing.assert_array_equal(moved_logits(logits, 99, 99), np.zeros((4, 5)))
