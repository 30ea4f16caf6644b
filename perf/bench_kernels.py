"""The compiled kernels beside the numpy and OpenCV calls that they replace: ``python -m perf.bench_kernels``.

Knows `runtime.kernels` and the usual way to write the same steps; must not know what a session does. Both sides get
the same arrays and run in turn, OpenCV with as many threads as it likes; the answers are compared before anything is
timed. A kernel that is not faster here has no reason to exist.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perf.machine import describe_machine
from runtime import kernels
from runtime.kernels import InputOptions
from runtime.motion import displacement

__all__ = ["CASES", "Case", "Timing", "main", "measure"]

Box = tuple[int, int, int, int]
Steps = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A task, done by the kernel and by the calls that it replaces; ``make`` prepares both outside the timer."""

    title: str
    make: Callable[[np.random.Generator], tuple[Steps, Steps]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one side: median, and the quartiles as its spread."""

    median_ms: float
    lower_ms: float
    upper_ms: float


# The calls that the kernels replace


def _window(image: NDArray[Any], lower: float, upper: float) -> NDArray[np.uint8]:
    clipped = np.clip(image.astype(np.float64), lower, upper)
    levels: NDArray[np.uint8] = ((clipped - lower) / (upper - lower) * 255.0).astype(np.uint8)
    return levels


def _resize(image: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    import cv2

    flag = cv2.INTER_AREA if interpolation == "area" else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=flag), dtype=np.uint8)


def _input(image: NDArray[Any], options: InputOptions) -> NDArray[np.float32]:
    levels = image if options.window is None else _window(image, *options.window)
    levels = _resize(levels, options.resized_size, options.interpolation)
    if levels.ndim == 2:
        levels = np.repeat(levels[:, :, np.newaxis], options.channels, axis=2)
    if options.normalise == "min_max":
        low, high = int(levels.min()), int(levels.max())
        values = ((levels.astype(np.float64) - low) / max(high - low, 1e-8)).astype(np.float32)
    else:
        mean, std = (np.asarray(numbers, dtype=np.float32) for numbers in (options.mean, options.std))
        values = (levels.astype(np.float32) - mean) / std
    border = [(0, full - part) for full, part in zip(options.input_size, options.resized_size, strict=True)]
    padded = np.pad(values, [*border, (0, 0)])
    return np.ascontiguousarray(padded.transpose(2, 0, 1))[np.newaxis]  # (H, W, C) -> (1, C, H, W)


def _box(mask: NDArray[np.bool_]) -> tuple[Box | None, int]:
    area = int(np.count_nonzero(mask))
    if not area:
        return None, 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])), area


def _mask(logits: NDArray[np.float32], crop: tuple[int, int], size: tuple[int, int]) -> tuple[Any, Box | None, int]:
    import cv2

    cropped = logits[: crop[0], : crop[1]]
    mask = np.asarray(cv2.resize(cropped, size[::-1], interpolation=cv2.INTER_LINEAR)) > 0
    return (mask, *_box(mask))


def _flow(before: NDArray[np.uint8], now: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[int, int]:
    import cv2

    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(
        np.ascontiguousarray(before), np.ascontiguousarray(now), None
    )
    dx, dy = np.median(flow[mask], axis=0)
    return round(float(dx)), round(float(dy))


# The cases


def _slice_case(image: NDArray[Any], options: InputOptions) -> tuple[Steps, Steps]:
    return lambda: kernels.encoder_input(image, options), lambda: _input(image, options)


def _ct(rng: np.random.Generator) -> NDArray[np.int16]:
    return rng.integers(-1024, 2000, (512, 512), dtype=np.int16)


def _ct_slice(rng: np.random.Generator) -> tuple[Steps, Steps]:
    return _slice_case(_ct(rng), InputOptions((256, 256), (256, 256), window=(-160.0, 240.0)))


def _mr_slice(rng: np.random.Generator) -> tuple[Steps, Steps]:
    image = rng.gamma(2.0, 150.0, (320, 260)).astype(np.float32)
    return _slice_case(image, InputOptions((256, 208), (256, 256), window=(3.5, 1210.25)))


def _photograph(rng: np.random.Generator) -> tuple[Steps, Steps]:
    image = rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    return _slice_case(image, InputOptions((256, 256), (256, 256)))


def _odd_photograph(rng: np.random.Generator) -> tuple[Steps, Steps]:
    image = rng.integers(0, 256, (900, 651, 3), dtype=np.uint8)
    return _slice_case(image, InputOptions((256, 185), (256, 256)))


def _enlarged(rng: np.random.Generator) -> tuple[Steps, Steps]:
    image = rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    means = (123.675, 116.28, 103.53)
    options = InputOptions((1024, 1024), (1024, 1024), "linear", "mean_std", means, means)
    return _slice_case(image, options)


def _windowed(rng: np.random.Generator) -> tuple[Steps, Steps]:
    image = _ct(rng)
    return lambda: kernels.window_to_uint8(image, -160.0, 240.0), lambda: _window(image, -160.0, 240.0)


def _windowed_floats(rng: np.random.Generator) -> tuple[Steps, Steps]:
    image = _ct(rng).astype(np.float32) + np.float32(0.25)
    return lambda: kernels.window_to_uint8(image, -160.0, 240.0), lambda: _window(image, -160.0, 240.0)


def _resized(rng: np.random.Generator) -> tuple[Steps, Steps]:
    image = rng.integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    return lambda: kernels.resize_uint8(image, (256, 256), interpolation="area"), lambda: _resize(
        image, (256, 256), "area"
    )


def _object(rng: np.random.Generator) -> NDArray[np.float32]:
    """Logits of one object of a sixth of the frame on a background of -12."""
    y, x = np.mgrid[:256, :256]
    inside = ((y - 120) / 50) ** 2 + ((x - 100) / 65) ** 2 < 1
    noise = rng.standard_normal((256, 256)).astype(np.float32)
    logits: NDArray[np.float32] = np.where(inside, np.float32(8), np.float32(-12)) + np.float32(0.5) * noise
    return logits


def _mask_case(logits: NDArray[np.float32], crop: tuple[int, int], size: tuple[int, int]) -> tuple[Steps, Steps]:
    return lambda: kernels.logits_to_mask(logits, crop=crop, size=size), lambda: _mask(logits, crop, size)


def _object_mask(rng: np.random.Generator) -> tuple[Steps, Steps]:
    return _mask_case(_object(rng), (256, 256), (512, 512))


def _object_mask_cropped(rng: np.random.Generator) -> tuple[Steps, Steps]:
    return _mask_case(_object(rng), (256, 128), (1024, 512))


def _noisy_mask(rng: np.random.Generator) -> tuple[Steps, Steps]:
    return _mask_case(rng.standard_normal((256, 256)).astype(np.float32), (256, 256), (512, 512))


def _boxed(rng: np.random.Generator) -> tuple[Steps, Steps]:
    mask, _, _ = kernels.logits_to_mask(_object(rng), crop=(256, 256), size=(512, 512))
    return lambda: kernels.mask_box(mask), lambda: _box(mask)


def _followed(rng: np.random.Generator) -> tuple[Steps, Steps]:
    import cv2

    noise = rng.integers(0, 256, (512, 512), dtype=np.uint8)
    before = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
    now = np.roll(before, (-2, 3), axis=(0, 1))
    mask = np.zeros((512, 512), np.bool_)
    mask[240:264, 200:224] = True
    box = np.array([200, 240, 223, 263])

    def ours() -> tuple[int, int]:
        dx, dy = displacement(lambda *part: before[part], lambda *part: now[part], mask, box)
        return round(dx), round(dy)

    part = slice(216, 288), slice(176, 248)  # about what is looked at
    return ours, lambda: _flow(before[part], now[part], mask[part])


CASES = (
    Case("encoder_input: CT slice 512x512 int16 -> 256x256, area", _ct_slice),
    Case("encoder_input: MR slice 320x260 float32 -> 256x208, area", _mr_slice),
    Case("encoder_input: colour 1024x1024x3 uint8 -> 256x256, area", _photograph),
    Case("encoder_input: colour 900x651x3 uint8 -> 256x185, area", _odd_photograph),
    Case("encoder_input: colour 512x512x3 uint8 -> 1024x1024, linear", _enlarged),
    Case("window_to_uint8: 512x512 int16", _windowed),
    Case("window_to_uint8: 512x512 float32", _windowed_floats),
    Case("resize_uint8: colour 1024x1024x3 -> 256x256, area", _resized),
    Case("logits_to_mask: 256x256 -> 512x512, box, area; one object", _object_mask),
    Case("logits_to_mask: 256x128 -> 1024x512, box, area; one object", _object_mask_cropped),
    Case("logits_to_mask: 256x256 -> 512x512, box, area; noise", _noisy_mask),
    Case("mask_box: 512x512, one object", _boxed),
    Case("displacement: 512x512, one object of 24x24", _followed),
)
"""What is measured; the first of each kernel is the one that matters most."""


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, tuple) and found and isinstance(found[0], np.ndarray):
        # A mask: OpenCV's weights differ in the last bits, which may move a pixel whose logit is nearly 0.
        mask, expected = found[0], wanted[0]
        return bool(np.count_nonzero(mask != expected) <= mask.size // 10_000) and found[1:] == _box(mask)
    return bool(np.array_equal(found, wanted)) if isinstance(found, np.ndarray) else bool(found == wanted)


def _timing(samples: Sequence[float]) -> Timing:
    lower, median, upper = statistics.quantiles((1e3 * sample for sample in samples), n=4)
    return Timing(median, lower, upper)


def measure(case: Case, repeats: int) -> tuple[Timing, Timing]:
    """Time kernel and replaced calls in turn, at least two rounds, after one that is compared and not timed."""
    ours, theirs = case.make(np.random.default_rng(7))
    if not _same(ours(), theirs()):
        msg = f"{case.title}: the kernel and the calls that it replaces disagree; run tests/kernels"
        raise RuntimeError(msg)
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(2, repeats)):
        for steps, kept in zip((ours, theirs), samples, strict=True):
            started = time.perf_counter()
            steps()
            kept.append(time.perf_counter() - started)
    return _timing(samples[0]), _timing(samples[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a case."""
    parser = argparse.ArgumentParser(prog="python -m perf.bench_kernels", description="Time the compiled kernels.")
    parser.add_argument("--repeats", type=int, default=50, help="timed rounds a case (default 50)")
    repeats = parser.parse_args(arguments).repeats
    machine = describe_machine()
    versions = ", ".join(f"{name} {machine.packages[name]}" for name in ("numpy", "opencv-python-headless"))
    print(f"{machine.cpu}, {machine.usable_cores} usable cores, load {machine.load_average}; {versions}")
    print(f"milliseconds: median (quartiles) of {max(2, repeats)}")
    for case in CASES:
        ours, theirs = measure(case, repeats)
        print(
            f"{case.title:62}  kernel {ours.median_ms:7.3f} ({ours.lower_ms:.3f}-{ours.upper_ms:.3f})"
            f"  numpy and OpenCV {theirs.median_ms:7.3f} ({theirs.lower_ms:.3f}-{theirs.upper_ms:.3f})"
            f"  {theirs.median_ms / ours.median_ms:5.1f} times"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
