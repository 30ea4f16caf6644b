"""Ten thousand calls of every kernel, good and refused ones, leak nothing; run by ``run_sanitized.sh`` under ASan.

LeakSanitizer looks for memory that nothing points to. Python objects that its garbage collector knows are always
pointed to, so they are counted, and so are the references to the arguments.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from runtime import _kernels as native

CALLS = 10_000

IMAGE = np.arange(30, dtype=np.int16).reshape(5, 6)
LEVELS = IMAGE.astype(np.uint8)
LOGITS = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4)
MASK = np.eye(6, dtype=bool)
SIZE = (7, 8)
NORMALISE = ("scale", [], [], 3)
HALVES = np.zeros((5, 4), np.uint16)
ARGUMENTS = (IMAGE, LEVELS, LOGITS, MASK, SIZE, NORMALISE, HALVES)

KERNELS: dict[str, Callable[[], Any]] = {
    "window_to_uint8": lambda: native.window_to_uint8(IMAGE, 0.0, 20.0, True),
    "encoder_input": lambda: native.encoder_input(IMAGE, (0.0, 20.0), SIZE, (8, 8), "area", NORMALISE),
    "resize_uint8": lambda: native.resize_uint8(LEVELS, SIZE, "linear"),
    "resize_logits": lambda: native.resize_logits(LOGITS, SIZE),
    "logits_to_masks": lambda: native.logits_to_masks(LOGITS, (4, 3), SIZE, 0.0, True),
    "mask_box": lambda: native.mask_box(MASK),
    "half_to_float": lambda: native.half_to_float(HALVES),
    "float_to_half": lambda: native.float_to_half(LOGITS),
    "int8_units": native.int8_units,
    "has_amx_bf16": native.has_amx_bf16,
    "a wrong dtype": lambda: native.resize_uint8(IMAGE, SIZE, "linear"),
    "a wrong size": lambda: native.resize_uint8(LEVELS, (0, -1), "area"),
    "an unknown method": lambda: native.resize_uint8(LEVELS, SIZE, "sinc"),
    "no window": lambda: native.encoder_input(IMAGE, None, SIZE, (8, 8), "area", NORMALISE),
}


def call(kernel: Callable[[], Any], times: int) -> None:
    """Call a kernel, refused or not."""
    for _ in range(times):
        with suppress(TypeError, ValueError):
            kernel()


def held() -> tuple[int, list[int]]:
    """How many objects the collector knows, and how many references the arguments have."""
    gc.collect()
    return len(gc.get_objects()), [sys.getrefcount(argument) for argument in ARGUMENTS]


def main() -> None:
    """Check each kernel; end with an error if one leaks."""
    assert not {name for name in dir(native) if not name.startswith("_")} - set(KERNELS), "a kernel is not checked"
    sanitizer = ctypes.CDLL(None)
    leaked = sanitizer.__lsan_do_recoverable_leak_check
    sanitizer.malloc.restype = ctypes.c_void_p
    sanitizer.__lsan_disable()  # what is allocated from here on does not count
    for kernel in KERNELS.values():
        call(kernel, 20)
    before = held()
    sanitizer.__lsan_enable()  # what is allocated from here on does
    for kernel in KERNELS.values():
        call(kernel, CALLS)
    sanitizer.__lsan_disable()
    after = held()
    assert after[1] == before[1], f"references to the arguments: {before[1]} before, {after[1]} after"
    assert after[0] - before[0] < CALLS // 100, f"objects: {before[0]} before, {after[0]} after"
    assert not leaked(), "leaks, see above"
    sys.stdout.write("the next report is of a leak made on purpose, which must be found\n")
    sys.stdout.flush()
    sanitizer.__lsan_enable()
    sanitizer.malloc(ctypes.c_size_t(4321))  # lost on purpose
    sanitizer.__lsan_disable()
    assert leaked(), "the sanitizer does not find a leak made on purpose"
    sys.stdout.write(f"{CALLS} calls of each kernel leak nothing\n")


if __name__ == "__main__":
    main()
