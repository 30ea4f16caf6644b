"""Ten thousand calls of every kernel, good and refused ones, leak nothing; run by ``run_sanitized.sh`` under ASan.

LeakSanitizer looks for memory that nothing points to. Python objects that its garbage collector knows are always
pointed to, so they are counted, and so are the references to the arguments.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any

from every_kernel import kernel_arguments, kernel_calls

from runtime import _kernels as native

CALLS = 10_000

GIVEN = kernel_arguments(6)
IMAGE, LEVELS = GIVEN["image"], GIVEN["levels"]
SIZE = (7, 8)
NORMALISE = ("scale", [], [], 3)
ARGUMENTS = (*GIVEN.values(), SIZE, NORMALISE)

ACCEPTED = kernel_calls(GIVEN)
REFUSED: list[Callable[[], Any]] = [
    lambda: native.resize_uint8(IMAGE, SIZE, "linear"),  # a wrong dtype
    lambda: native.resize_uint8(LEVELS, (0, -1), "area"),
    lambda: native.resize_uint8(LEVELS, SIZE, "sinc"),
    lambda: native.encoder_input(IMAGE, None, SIZE, (8, 8), "area", NORMALISE),
    lambda: native.encoder_input(IMAGE, (0.0, 20.0, True), SIZE, (8, 8), "sinc", NORMALISE),
]


def call_all(times: int) -> None:
    """Call each kernel, and each in ways that it refuses."""
    for kernel in ACCEPTED.values():
        for _ in range(times):
            kernel()
    for refused in REFUSED:
        for _ in range(times):
            try:
                refused()
            except (TypeError, ValueError):
                continue
            raise AssertionError("a wrong call was accepted")


def held() -> tuple[int, list[int]]:
    """How many objects the collector knows, and how many references the arguments have."""
    gc.collect()
    return len(gc.get_objects()), [sys.getrefcount(argument) for argument in ARGUMENTS]


def main() -> None:
    """Check each kernel; end with an error if one leaks."""
    sanitizer = ctypes.CDLL(None)
    leaked = sanitizer.__lsan_do_recoverable_leak_check
    sanitizer.malloc.restype = ctypes.c_void_p
    sanitizer.__lsan_disable()  # what is allocated from here on does not count
    call_all(20)
    before = held()
    sanitizer.__lsan_enable()  # what is allocated from here on does
    call_all(CALLS)
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
