"""Halves: every one of them, and every way of rounding to them, as numpy does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime._half import converted

native: Any = pytest.importorskip("runtime._kernels")

HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def assert_same_bits(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    nan = np.isnan(wanted)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(np.isnan(found), nan)
    bits = f"u{wanted.dtype.itemsize}"
    np.testing.assert_array_equal(found[~nan].view(bits), wanted[~nan].view(bits), strict=True)


def test_every_half_is_widened_exactly() -> None:
    assert_same_bits(converted(HALVES, "float32"), HALVES.astype(np.float32))


def test_every_half_its_neighbours_and_the_middles_between_are_rounded_as_numpy_rounds() -> None:
    with np.errstate(all="ignore"):
        wide = HALVES[np.isfinite(HALVES)].astype(np.float32)
        middles = (wide + np.nextafter(wide.astype(np.float16), np.float16(np.inf)).astype(np.float32)) / 2
        near = [np.nextafter(middles, np.float32(end)) for end in (-np.inf, np.inf)]
        ends = np.float32([65504, 65519.99, 65520, 1e38, np.inf, np.nan, 1e-45, 2**-25, 2**-24])
        values = np.concatenate([wide, middles, *near, ends, -ends]).astype(np.float32)
        assert_same_bits(converted(values, "float16"), values.astype(np.float16))


def test_any_bits_are_rounded_as_numpy_rounds() -> None:
    values = np.random.default_rng(0).integers(0, 1 << 32, 200_001, dtype=np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        assert_same_bits(converted(values, "float16"), values.astype(np.float16))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 5, 7), (2, 3, 4, 5)])
@pytest.mark.parametrize(("source", "target"), [("float32", "float16"), ("float16", "float32")])
def test_shapes_and_layouts_are_kept(shape: tuple[int, ...], source: str, target: str) -> None:
    values = np.random.default_rng(1).standard_normal(shape).astype(source)
    for array in (values, np.asfortranarray(values), values[..., ::-1] if shape else values):
        found = converted(array, target)
        np.testing.assert_array_equal(found, array.astype(target), strict=True)
        assert found.flags.c_contiguous
        assert found.flags.owndata, "the embedding cache copies what somebody else may change"


def test_what_needs_no_change_is_not_copied() -> None:
    values = np.ones((2, 3), np.float32)
    assert np.shares_memory(converted(values, "float32"), values)
    assert converted(values, "uint8").dtype == np.uint8
