"""resize_uint8 against OpenCV and against the plain reference: equal in every pixel."""

from __future__ import annotations

import platform
from typing import Any

import cv2
import numpy as np
import pytest
import reference
from layouts import Layout
from numpy.typing import NDArray

from runtime import kernels

FLAGS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}
CHANNELS: tuple[tuple[int, ...], ...] = ((), (1,), (2,), (3,), (4,))

# On other processors OpenCV has other uint8 arithmetic (fused multiply-adds, vendors' own resizing).
where_opencv_is_the_reference = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"}, reason="OpenCV's uint8 arithmetic differs on this processor"
)

# rows, columns -> rows, columns: each arithmetic of cv2.resize, and its borders
SIZES = [
    ((300, 217), (256, 185)),  # area by fractions
    ((512, 512), (256, 256)),  # halves: rounds half up
    ((96, 60), (32, 20)),  # thirds: rounds half to even
    ((96, 64), (24, 32)),  # different whole factors
    ((771, 12), (3, 4)),  # 257 rows a block, the most that 16-bit sums hold
    ((774, 12), (3, 4)),  # one more
    ((49, 98), (1, 2)),  # 1 / (1 / 49.0) is not 49: fractions after all
    ((37, 64), (37, 20)),  # one side kept
    ((64, 37), (20, 37)),
    ((100, 90), (256, 230)),  # both sides grow
    ((100, 300), (200, 150)),  # one side grows
    ((5, 7), (5, 7)),  # a copy
    ((1, 1), (4, 3)),
    ((1, 9), (1, 4)),
    ((9, 1), (4, 1)),
    ((9, 1), (12, 3)),
    ((2, 2), (1, 1)),
    ((1, 200), (200, 1)),
    ((3, 2), (2, 3)),
    ((640, 480), (1, 1)),
]


def _opencv(image: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[Any]:
    resized = cv2.resize(image, size[::-1], interpolation=FLAGS[interpolation])
    return np.asarray(resized).reshape(size + image.shape[2:])  # OpenCV drops a single channel


every_arithmetic = pytest.mark.parametrize(("shape", "size"), SIZES)
every_interpolation = pytest.mark.parametrize("interpolation", FLAGS)
every_channels = pytest.mark.parametrize("channels", CHANNELS, ids=str)


@every_interpolation
@every_channels
@every_arithmetic
def test_every_arithmetic_equals_the_reference(
    shape: tuple[int, int], size: tuple[int, int], channels: tuple[int, ...], interpolation: str,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    image = rng.integers(0, 256, shape + channels, dtype=np.uint8)
    resized = kernels.resize_uint8(image, size, interpolation=interpolation)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, reference.resize_uint8(image, size, interpolation=interpolation))


@where_opencv_is_the_reference
@every_interpolation
@every_channels
@every_arithmetic
def test_every_arithmetic_equals_opencv(
    shape: tuple[int, int], size: tuple[int, int], channels: tuple[int, ...], interpolation: str,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    image = rng.integers(0, 256, shape + channels, dtype=np.uint8)
    resized = kernels.resize_uint8(image, size, interpolation=interpolation)
    np.testing.assert_array_equal(resized, _opencv(image, size, interpolation))


def _random_sizes(rng: np.random.Generator) -> tuple[int, int, int, int]:
    kind = rng.integers(0, 5)
    if kind == 0:
        sizes = rng.integers(1, 12, 4)
    elif kind == 1:
        sizes = rng.integers(1, 160, 4)
    elif kind == 2:  # whole factors down
        out, factors = rng.integers(1, 50, 2), rng.integers(1, 9, 2)
        sizes = np.concatenate([out * factors, out])
    elif kind == 3:  # whole factors up
        side, factors = rng.integers(1, 40, 2), rng.integers(1, 6, 2)
        sizes = np.concatenate([side, side * factors])
    else:  # the longest side becomes 256
        side = rng.integers(1, 500, 2)
        sizes = np.concatenate([side, np.maximum(1, side * (256 / side.max()) + 0.5).astype(int)])
    rows, columns, out_rows, out_columns = map(int, sizes)
    return rows, columns, out_rows, out_columns


@where_opencv_is_the_reference
def test_a_thousand_random_sizes_equal_opencv(rng: np.random.Generator) -> None:
    for case in range(1000):
        rows, columns, *size = _random_sizes(rng)
        image = rng.integers(0, 256, (rows, columns, *CHANNELS[case % len(CHANNELS)]), dtype=np.uint8)
        if case % 3 == 0:
            image = np.where(image > 127, 255, 0).astype(np.uint8)
        for interpolation in FLAGS:
            wanted = _opencv(image, (size[0], size[1]), interpolation)
            found = kernels.resize_uint8(image, (size[0], size[1]), interpolation=interpolation)
            assert np.array_equal(found, wanted), f"{image.shape} -> {size}, {interpolation}"


@where_opencv_is_the_reference
@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@every_interpolation
def test_an_image_of_one_level_stays_so(level: int, interpolation: str) -> None:
    image = np.full((83, 59, 3), level, np.uint8)
    for size in [(41, 30), (200, 150), (83, 20), (64, 256)]:
        found = np.unique(kernels.resize_uint8(image, size, interpolation=interpolation))
        wanted = np.unique(_opencv(image, size, interpolation))
        np.testing.assert_array_equal(found, wanted)  # OpenCV itself can be one level off


@every_interpolation
@pytest.mark.parametrize("size", [(5, 6), (9, 30)])
def test_the_layout_in_memory_does_not_matter(
    layout: Layout, size: tuple[int, int], interpolation: str, rng: np.random.Generator
) -> None:
    for channels in CHANNELS:
        image = rng.integers(0, 256, (13, 17, *channels), dtype=np.uint8)
        stored = layout(image)
        resized = kernels.resize_uint8(stored, size, interpolation=interpolation)
        np.testing.assert_array_equal(resized, reference.resize_uint8(image, size, interpolation=interpolation))
        assert not np.shares_memory(resized, stored)


def test_an_unchanged_size_gives_a_copy(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (6, 5), dtype=np.uint8)
    resized = kernels.resize_uint8(image, (6, 5), interpolation="area")
    np.testing.assert_array_equal(resized, image)
    assert not np.shares_memory(resized, image)


def test_numpy_integers_make_a_size() -> None:
    size = np.array([2, 3])
    resized = kernels.resize_uint8(np.zeros((4, 4), np.uint8), (size[0], size[1]), interpolation="linear")
    assert resized.shape == (2, 3)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((4,), "image: 1 dimensions, wanted 2 or 3"),
        ((2, 2, 2, 2), "image: 4 dimensions, wanted 2 or 3"),
        ((0, 5), r"image: shape \(0, 5\), wanted sides of 1 to 1048576"),
        ((5, 0, 3), r"image: shape \(5, 0, 3\), wanted sides"),
        ((5, 5, 0), r"image: shape \(5, 5, 0\), wanted sides"),
        ((5, 5, 5), r"image: shape \(5, 5, 5\) has 5 channels, wanted 1 to 4"),
        ((1, 1048577), r"image: shape \(1, 1048577\), wanted sides"),
    ],
)
def test_images_that_cannot_be_resized_are_refused(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kernels.resize_uint8(np.zeros(shape, np.uint8), (2, 2), interpolation="area")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((0, 4), "size rows: 0, wanted 1 to 1048576"),
        ((4, -1), "size columns: -1, wanted 1 to"),
        ((4, 1 << 21), "size columns: 2097152, wanted 1 to"),
    ],
)
def test_sizes_out_of_range_are_refused(size: tuple[int, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        kernels.resize_uint8(np.zeros((3, 3), np.uint8), size, interpolation="area")


@pytest.mark.parametrize("size", [(2.5, 3), (2,), (2, 3, 4), 5, ("2", "3")])
def test_sizes_that_are_not_two_integers_are_refused(size: Any) -> None:
    with pytest.raises(TypeError, match=r"size: .* wanted two integers \(rows, columns\)"):
        kernels.resize_uint8(np.zeros((3, 3), np.uint8), size, interpolation="area")


def test_an_unknown_interpolation_is_refused() -> None:
    with pytest.raises(ValueError, match="interpolation: 'cubic', wanted 'area' or 'linear'"):
        kernels.resize_uint8(np.zeros((3, 3), np.uint8), (2, 2), interpolation="cubic")


def test_another_dtype_is_refused_with_advice() -> None:
    with pytest.raises(TypeError, match="image: dtype int16, wanted uint8; window it with window_to_uint8"):
        kernels.resize_uint8(np.zeros((3, 3), np.int16), (2, 2), interpolation="area")
