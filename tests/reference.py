"""What the kernels must compute, in plain numpy and as plainly as possible. Slow; shares no code with the kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "bilinear",
    "displacement",
    "encoder_input",
    "logits_to_mask",
    "mask_box",
    "resize_uint8",
    "window_to_uint8",
]

Box = tuple[int, int, int, int]


def window_to_uint8(
    image: NDArray[Any], lower: float, upper: float, *, zero_stays_zero: bool = False
) -> NDArray[np.uint8]:
    values = np.asarray(image).astype(np.float64)
    if not upper > lower:
        return np.zeros(values.shape, np.uint8)
    levels = (np.clip(values, lower, upper) - lower) / (upper - lower) * 255.0
    levels[np.isnan(values)] = 0.0
    if zero_stays_zero:
        levels[values == 0.0] = 0.0
    return np.trunc(levels).astype(np.uint8)


def _scales(input_side: int, output_side: int) -> tuple[float, float]:
    """Input pixels an output pixel, and the inverse: the first is the reciprocal of the rounded second."""
    inverse = output_side / input_side
    return 1.0 / inverse, inverse


def _area_weights(input_side: int, output_side: int, scale: float) -> list[list[tuple[int, np.float32]]]:
    """Input samples and weights of each output sample, in the order in which they are added."""
    weights = []
    for position in range(output_side):
        start = position * scale
        stop = start + scale
        width = min(scale, input_side - start)
        last = min(math.floor(stop), input_side - 1)
        first = min(math.ceil(start), last)
        cell = []
        if first - start > 1e-3:
            cell.append((first - 1, np.float32((first - start) / width)))
        cell += [(sample, np.float32(1.0 / width)) for sample in range(first, last)]
        if stop - last > 1e-3:
            cell.append((last, np.float32(min(stop - last, 1.0, width) / width)))
        weights.append(cell)
    return weights


def _weighted_sums(values: NDArray[np.float32], weights: list[list[tuple[int, np.float32]]]) -> NDArray[np.float32]:
    """Weighted sums over the first axis, added one after the other in float32."""
    sums = np.zeros((len(weights), *values.shape[1:]), np.float32)
    for target, cell in zip(sums, weights, strict=True):
        for sample, weight in cell:
            target += values[sample] * weight
    return sums


def _resize_area(image: NDArray[np.uint8], size: tuple[int, int], down: float, across: float) -> NDArray[np.uint8]:
    rows, columns, channels = image.shape
    factors = round(down), round(across)
    epsilon = np.finfo(np.float64).eps
    if abs(down - factors[0]) < epsilon and abs(across - factors[1]) < epsilon:
        blocks = image.reshape(size[0], factors[0], size[1], factors[1], channels)
        sums = blocks.sum(axis=(1, 3), dtype=np.int64)
        if factors == (2, 2) and channels != 2:
            return ((sums + 2) >> 2).astype(np.uint8)
        scale = np.float32(1) / np.float32(factors[0] * factors[1])
        return np.rint(sums.astype(np.float32) * scale).astype(np.uint8)
    narrowed = _weighted_sums(image.astype(np.float32).transpose(1, 0, 2), _area_weights(columns, size[1], across))
    sums = _weighted_sums(narrowed.transpose(1, 0, 2), _area_weights(rows, size[0], down))
    return np.clip(np.rint(sums), 0, 255).astype(np.uint8)


def _linear_taps(
    input_side: int, output_side: int, *, area: bool, snap: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First sample of each output sample, and the two weights in 1/2048."""
    scale, inverse = _scales(input_side, output_side)
    samples, weights = [], []
    for position in range(output_side):
        if area:
            sample = math.floor(position * scale)
            fraction = np.float32((position + 1) - (sample + 1) * inverse)
            fraction = np.float32(0) if fraction <= 0 else fraction - np.floor(fraction)
        else:
            place = np.float32((position + 0.5) * scale - 0.5)
            sample = math.floor(place)
            fraction = place - np.float32(sample)
        if snap and (sample < 0 or sample >= input_side - 1):
            sample, fraction = min(max(sample, 0), input_side - 1), np.float32(0)
        samples.append(sample)
        weights.append([np.rint((np.float32(1) - fraction) * np.float32(2048)), np.rint(fraction * np.float32(2048))])
    return np.array(samples), np.array(weights).astype(np.int64)


def _resize_linear(image: NDArray[np.uint8], size: tuple[int, int], *, area: bool) -> NDArray[np.uint8]:
    rows, columns, _ = image.shape
    x, x_weights = _linear_taps(columns, size[1], area=area, snap=True)
    y, y_weights = _linear_taps(rows, size[0], area=area, snap=False)
    pixels = image.astype(np.int64)
    first, second = pixels[:, x], pixels[:, np.minimum(x + 1, columns - 1)]
    stretched = (first * x_weights[:, :1] + second * x_weights[:, 1:]) >> 4
    upper, lower = stretched[np.clip(y, 0, rows - 1)], stretched[np.clip(y + 1, 0, rows - 1)]
    halves = ((upper * y_weights[:, 0, None, None]) >> 16) + ((lower * y_weights[:, 1, None, None]) >> 16)
    return ((halves + 2) >> 2).astype(np.uint8)


def resize_uint8(image: NDArray[np.uint8], size: tuple[int, int], *, interpolation: str) -> NDArray[np.uint8]:
    if image.shape[:2] == size:
        return image.copy()
    pixels = image.reshape(*image.shape[:2], -1)
    down, across = (_scales(side, wanted)[0] for side, wanted in zip(image.shape, size, strict=False))
    area = interpolation == "area" or (down, across) == (2.0, 2.0)
    if area and down >= 1 and across >= 1:
        resized = _resize_area(pixels, size, down, across)
    else:
        resized = _resize_linear(pixels, size, area=area)
    return resized.reshape(size + image.shape[2:])


def encoder_input(
    image: NDArray[Any],
    *,
    resized_size: tuple[int, int],
    input_size: tuple[int, int],
    interpolation: str = "area",
    normalise: str = "min_max",
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    channels: int = 3,
    window: tuple[float, float] | None = None,
    zero_stays_zero: bool = False,
) -> NDArray[np.float32]:
    if window is not None:
        image = window_to_uint8(image, *window, zero_stays_zero=zero_stays_zero)
    levels = resize_uint8(image, resized_size, interpolation=interpolation)
    levels = levels.reshape(*resized_size, -1)
    if levels.shape[2] == 1:
        levels = np.repeat(levels, channels, axis=2)
    if normalise == "min_max":
        exact = levels.astype(np.float64)
        values = (exact - exact.min()) / max(exact.max() - exact.min(), 1e-8)
    elif normalise == "mean_std":
        values = (levels.astype(np.float32) - np.float32(mean)) / np.float32(std)
    else:
        values = levels.astype(np.float32) / np.float32(255)
    tensor = np.zeros((1, channels, *input_size), np.float32)
    tensor[0, :, : resized_size[0], : resized_size[1]] = values.transpose(2, 0, 1)
    return tensor


def _bilinear_taps(
    input_side: int, output_side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    scale = np.float32(input_side) / np.float32(output_side)
    # Exact in float64, then rounded once: what a fused multiply-add does.
    places = (np.float64(scale) * (np.arange(output_side) + 0.5) - 0.5).astype(np.float32)
    places = np.maximum(places, np.float32(0))
    first = np.minimum(places.astype(np.int64), input_side - 1)
    fraction = np.clip(places - first.astype(np.float32), np.float32(0), np.float32(1))
    return first, np.minimum(first + 1, input_side - 1), fraction


def bilinear(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    y0, y1, y_weight = _bilinear_taps(values.shape[0], size[0])
    x0, x1, x_weight = _bilinear_taps(values.shape[1], size[1])
    one = np.float32(1)
    stretched = values[:, x0] * (one - x_weight) + values[:, x1] * x_weight
    return stretched[y0] * (one - y_weight)[:, None] + stretched[y1] * y_weight[:, None]


def mask_box(mask: NDArray[np.bool_]) -> tuple[Box | None, int]:
    y, x = np.nonzero(mask)
    if not x.size:
        return None, 0
    return (int(x.min()), int(y.min()), int(x.max()), int(y.max())), int(x.size)


def logits_to_mask(
    logits: NDArray[np.float32],
    *,
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.0,
    inclusive: bool = False,
) -> tuple[NDArray[np.bool_], Box | None, int]:
    with np.errstate(invalid="ignore"):
        values = bilinear(logits[: crop[0], : crop[1]], size)
        mask = values >= np.float32(threshold) if inclusive else values > np.float32(threshold)
    return mask, *mask_box(mask)


def _blurred(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """One pass of 1 4 6 4 1 over rows, then columns."""
    for axis in (0, 1):
        padded = np.pad(image, [(2, 2) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        side = image.shape[axis]
        a, b, c, d, e = (padded.take(range(k, k + side), axis=axis) for k in range(5))
        image = ((a + e) + np.float32(4) * (b + d) + np.float32(6) * c) * np.float32(0.0625)
    return image


def _between(image: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear samples; beyond the border, those of the border."""
    height, width = image.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = x.astype(int), y.astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    top = image[y0, x0] + (image[y0, x1] - image[y0, x0]) * (x - x0)
    bottom = image[y1, x0] + (image[y1, x1] - image[y1, x0]) * (x - x0)
    return np.asarray(top + (bottom - top) * (y - y0))


def displacement(before: NDArray[np.uint8], now: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[float, float]:
    around = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        around[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = True
    rows, columns = np.nonzero(around)
    if not len(rows):
        return 0.0, 0.0
    dx = dy = 0.0
    for passes in (4, 1):
        one, other = before.astype(np.float32), now.astype(np.float32)
        for _ in range(passes):
            one, other = _blurred(one), _blurred(other)
        target = other.astype(np.float64)
        padded = np.pad(target, 1, mode="edge")
        slope_x = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
        slope_y = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
        for _ in range(4):
            x, y = columns + dx, rows + dy
            missing = one[rows, columns].astype(np.float64) - _between(target, x, y)
            gx, gy = _between(slope_x, x, y), _between(slope_y, x, y)
            size = np.abs(missing)
            limit = 1.345 * 1.4826 * np.sort(size)[len(size) // 2] + 1
            weight = np.where(size > limit, limit / np.maximum(size, limit), 1.0)
            xx, xy, yy = (weight * gx * gx).sum(), (weight * gx * gy).sum(), (weight * gy * gy).sum()
            steadier = 1e-3 * (xx + yy) + len(rows)
            step = np.linalg.solve(
                [[xx + steadier, xy], [xy, yy + steadier]],
                [(weight * gx * missing).sum(), (weight * gy * missing).sum()],
            )
            dx = float(np.clip(dx + step[0], -mask.shape[1] / 4, mask.shape[1] / 4))
            dy = float(np.clip(dy + step[1], -mask.shape[0] / 4, mask.shape[0] / 4))
            if np.abs(step).max() < 0.03:
                break
    return dx, dy
