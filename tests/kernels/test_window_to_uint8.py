"""window_to_uint8 against numpy in float64: every dtype, every layout, every value of the small integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from layouts import Layout

from runtime import kernels

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
WINDOWS = ((-160.0, 240.0), (0.0, 255.0), (-0.5, 0.5), (3.25, 911.125), (-1e5, 1e5), (70000.0, 80000.0), (-9.0, -3.0))


def _values(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(40, 400, shape).astype(kind)
    info = np.iinfo(kind)
    values = rng.integers(max(info.min, -2000), min(info.max, 3000), shape, dtype=kind, endpoint=True)
    values.flat[:3] = info.min, info.max, 0
    return values


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero_stays_zero", [False, True])
def test_every_dtype_equals_numpy(
    dtype: str, window: tuple[float, float], zero_stays_zero: bool, rng: np.random.Generator
) -> None:
    for shape in [(3, 5), (61, 67), (150, 160)]:  # the larger ones take the table for 8- and 16-bit integers
        image = _values(dtype, shape, rng)
        levels = kernels.window_to_uint8(image, *window, zero_stays_zero=zero_stays_zero)
        assert levels.dtype == np.uint8
        np.testing.assert_array_equal(
            levels, reference.window_to_uint8(image, *window, zero_stays_zero=zero_stays_zero)
        )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("window", [*WINDOWS, (-40000.0, 70000.0), (12.0, 13.0), (-1e300, 1e300)])
def test_every_value_of_a_small_integer_equals_numpy(dtype: str, window: tuple[float, float]) -> None:
    info = np.iinfo(dtype)
    image = np.tile(np.arange(info.min, info.max + 1, dtype=dtype), 70_000 // (info.max - info.min + 1) + 1)
    for zero_stays_zero in (False, True):
        np.testing.assert_array_equal(
            kernels.window_to_uint8(image, *window, zero_stays_zero=zero_stays_zero),
            reference.window_to_uint8(image, *window, zero_stays_zero=zero_stays_zero),
        )


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_the_layout_in_memory_does_not_matter(dtype: str, layout: Layout, rng: np.random.Generator) -> None:
    image = _values(dtype, (7, 11, 3), rng)
    stored = layout(image)
    levels = kernels.window_to_uint8(stored, -100.0, 300.0)
    np.testing.assert_array_equal(levels, reference.window_to_uint8(image, -100.0, 300.0))
    assert levels.flags.c_contiguous
    assert not np.shares_memory(levels, stored)


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint64", "float16", "longdouble"])
def test_other_real_dtypes_are_converted(dtype: str, rng: np.random.Generator) -> None:
    image = rng.integers(0, 2, (9, 4)).astype(dtype)
    np.testing.assert_array_equal(kernels.window_to_uint8(image, 0.0, 2.0), reference.window_to_uint8(image, 0.0, 2.0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinities_become_black_and_white(dtype: str) -> None:
    image = np.array([np.nan, -np.inf, np.inf, 0.5, -0.0, 1.0] * 5, dtype)
    assert kernels.window_to_uint8(image, -1.0, 1.0)[:6].tolist() == [0, 0, 255, 191, 127, 255]
    assert kernels.window_to_uint8(image, -1.0, 1.0, zero_stays_zero=True)[:6].tolist() == [0, 0, 255, 191, 0, 255]


def test_levels_are_truncated_not_rounded() -> None:
    image = np.array([0, 1, 2, 3, 4], np.int16)
    assert kernels.window_to_uint8(image, 0.0, 4.0).tolist() == [0, 63, 127, 191, 255]


@pytest.mark.parametrize("bounds", [(5.0, 5.0), (5.0, 4.0)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_window_without_width_gives_black(bounds: tuple[float, float], dtype: str) -> None:
    image = np.full((4, 3), 9, dtype)
    assert not kernels.window_to_uint8(image, *bounds).any()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (4, 0, 3), ()])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_shape_is_kept_even_an_empty_one(shape: tuple[int, ...], dtype: str) -> None:
    levels = kernels.window_to_uint8(np.full(shape, 2, dtype), 0.0, 2.0)
    assert levels.shape == shape
    assert (levels == 255).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bounds_must_be_finite(bad: float) -> None:
    image = np.zeros((2, 2), np.int16)
    with pytest.raises(ValueError, match=r"lower: .*wanted a finite number"):
        kernels.window_to_uint8(image, bad, 1.0)
    with pytest.raises(ValueError, match=r"upper: .*wanted a finite number"):
        kernels.window_to_uint8(image, 1.0, bad)


def test_a_window_wider_than_float64_is_refused() -> None:
    with pytest.raises(ValueError, match="upper - lower: inf, wanted a finite number"):
        kernels.window_to_uint8(np.zeros((2, 2)), -1.7e308, 1.7e308)


@pytest.mark.parametrize("image", [np.zeros((2, 2), complex), np.array([["a"]]), np.array([[None]])])
def test_what_is_not_a_real_number_is_refused(image: np.ndarray[Any, Any]) -> None:
    with pytest.raises(TypeError, match=r"image: dtype .*, wanted real numbers"):
        kernels.window_to_uint8(image, 0.0, 1.0)
