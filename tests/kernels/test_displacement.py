"""How far what a mask covers has moved: against plain numpy, and against movements that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
from numpy.typing import NDArray

native: Any = pytest.importorskip("runtime._kernels")

GREY = NDArray[np.uint8]


def bumps(size: tuple[int, int], dx: float = 0.0, dy: float = 0.0, seed: int = 0) -> GREY:
    """Smooth hills, moved."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    hills = np.zeros(size)
    for _ in range(12):
        cx, cy, height = rng.uniform(0, size[1]), rng.uniform(0, size[0]), rng.uniform(-90, 90)
        hills += height * np.exp(-((x - cx - dx) ** 2 + (y - cy - dy) ** 2) / (2 * rng.uniform(2.5, 5) ** 2))
    return np.clip(hills + 120, 0, 255).astype(np.uint8)


def middle(size: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size, np.bool_)
    mask[size[0] // 3 : -(size[0] // 3), size[1] // 3 : -(size[1] // 3)] = True
    return mask


@pytest.mark.parametrize("size", [(48, 48), (31, 60), (7, 9), (3, 3), (1, 4), (2, 2), (1, 1)])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_plain_numpy_computes(size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, now = (rng.integers(0, 256, size, dtype=np.uint8) for _ in range(2))
    if seed % 2:
        before, now = bumps(size, seed=seed), bumps(size, 1.3, -0.7, seed)
    mask = rng.uniform(size=size) < (0.5, 0.1, 0.9)[seed % 3]
    assert native.displacement(before, now, mask) == pytest.approx(reference.displacement(before, now, mask), abs=1e-5)


@pytest.mark.parametrize("moved", [(0.0, 0.0), (1.0, 0.0), (0.0, -2.5), (3.4, 2.2), (-4.6, 1.1)])
def test_a_known_movement_is_found(moved: tuple[float, float]) -> None:
    found = native.displacement(bumps((48, 48)), bumps((48, 48), *moved), middle((48, 48)))
    assert found == pytest.approx(moved, abs=0.25)


def test_what_stands_still_around_the_mask_counts_little() -> None:
    still = bumps((48, 48), seed=1)
    before, now = still.copy(), still.copy()
    before[18:30, 18:30] = bumps((12, 12), seed=2)
    now[18:30, 20:32] = before[18:30, 18:30]
    mask = np.zeros((48, 48), np.bool_)
    mask[18:30, 18:30] = True
    assert native.displacement(before, now, mask) == pytest.approx((2, 0), abs=0.6)


def test_nothing_moves_where_nothing_tells() -> None:
    flat = np.full((48, 40), 77, np.uint8)
    assert native.displacement(flat, flat, middle((48, 40))) == (0, 0)
    assert native.displacement(flat, flat + 50, middle((48, 40))) == (0, 0), "brightness is no movement"
    assert native.displacement(bumps((48, 40)), bumps((48, 40), 3), np.zeros((48, 40), np.bool_)) == (0, 0)


def test_no_movement_is_larger_than_a_quarter_of_a_side() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        before, now = rng.integers(0, 256, (2, 12, 20), dtype=np.uint8)
        dx, dy = native.displacement(before, now, rng.uniform(size=(12, 20)) < 0.3)
        assert abs(dx) <= 5
        assert abs(dy) <= 3


def test_what_does_not_fit_is_refused() -> None:
    image, mask = np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.bool_)
    with pytest.raises(ValueError, match=r"now: shape \(5, 4\), mask: shape \(4, 5\), wanted that of before, \(4, 5\)"):
        native.displacement(image, image.T.copy(), mask)
    with pytest.raises(ValueError, match="wanted that of before"):
        native.displacement(image, image, mask[:3].copy())
    with pytest.raises(ValueError, match="before: 1 dimensions, wanted 2"):
        native.displacement(image[0].copy(), image, mask)
    with pytest.raises(ValueError, match="wanted sides of 1"):
        native.displacement(image[:0], image[:0], mask[:0])
    with pytest.raises(TypeError):
        native.displacement(image.astype(np.float32), image, mask)
    with pytest.raises(TypeError):
        native.displacement(image, image, image)
