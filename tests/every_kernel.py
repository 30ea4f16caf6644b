"""One accepted call of every kernel, on arrays that all calls share: what threads and the search for leaks repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime._kernel_arguments import native_kernels

__all__ = ["kernel_arguments", "kernel_calls"]


def kernel_arguments(side: int) -> dict[str, NDArray[Any]]:
    """Arrays for `kernel_calls`, of about ``side`` rows and columns."""
    rng = np.random.default_rng(20240617)
    logits = rng.standard_normal((2, side, side)).astype(np.float32)
    return {
        "image": rng.integers(-1000, 2000, (side, side - 1), dtype=np.int16),
        "levels": rng.integers(0, 256, (side, side - 1), dtype=np.uint8),
        "logits": logits,
        "mask": logits[0] > 1,
        "halves": rng.integers(0, 1 << 16, (side, side), dtype=np.uint16),
    }


def kernel_calls(given: dict[str, NDArray[Any]]) -> dict[str, Callable[[], Any]]:
    """A call of each kernel that the module exports, by its name; an error if one is missing here."""
    native = native_kernels()
    image, levels, logits = given["image"], given["levels"], given["logits"]
    rows, columns = image.shape
    size, window, normalise = (rows - 1, columns + 1), (-160.0, 240.0, False), ("scale", [], [], 3)
    input_size = (rows + 1, columns + 2)
    calls: dict[str, Callable[[], Any]] = {
        "window_to_uint8": lambda: native.window_to_uint8(image, *window),
        "encoder_input": lambda: native.encoder_input(image, window, size, input_size, "area", normalise),
        "resize_uint8": lambda: native.resize_uint8(levels, size, "linear"),
        "resize_logits": lambda: native.resize_logits(logits, size),
        "logits_to_masks": lambda: native.logits_to_masks(logits, (rows, columns), size, 0.0, True),
        "displacement": lambda: native.displacement(levels, levels[::-1].copy(), given["mask"][:, :-1].copy()),
        "mask_box": lambda: native.mask_box(given["mask"]),
        "half_to_float": lambda: native.half_to_float(given["halves"]),
        "float_to_half": lambda: native.float_to_half(logits),
        "int8_units": native.int8_units,
        "bf16_unit": native.bf16_unit,
    }
    exported = {name for name in dir(native) if not name.startswith("_")}
    assert exported == set(calls), f"calls of kernels: {sorted(calls)}, but exported are {sorted(exported)}"
    return calls
