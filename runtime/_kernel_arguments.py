"""What the compiled kernels are given: the module itself, and arrays as they read them.

The one place where an argument of a kernel is converted or copied. Knows dtypes and memory layouts; must not know
what an array means.
"""

from __future__ import annotations

import importlib
from operator import index
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import BackendUnavailable

__all__ = [
    "box_or_none",
    "contiguous",
    "intensities_for_kernels",
    "logits_for_kernels",
    "native_kernels",
    "rows_and_columns",
    "uint8_for_kernels",
]

_INTENSITY_DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8")


def native_kernels() -> ModuleType:
    """Import the compiled module, or say how to get it."""
    try:
        native = importlib.import_module("runtime._kernels")
    except ModuleNotFoundError as error:
        if error.name != "runtime._kernels":
            raise
        msg = (
            "runtime._kernels, the compiled part of lite-infer, is missing from this installation; wanted the module "
            "built for this Python version. Install a wheel again with `pip install --force-reinstall lite-infer`, or "
            "build it from a source checkout with `pip install .` (needs a C++17 compiler)"
        )
        raise BackendUnavailable(msg) from error
    return native


def contiguous(array: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    """Give the kernels what they read: C order, aligned, native bytes. Copies only if something is otherwise."""
    return np.require(array, dtype=dtype, requirements=["C", "A"])


def intensities_for_kernels(image: Any) -> NDArray[Any]:
    """Copy to float64 what is not of a dtype that the kernels read."""
    array = np.asarray(image)
    if array.dtype.kind not in "buif":
        msg = f"image: dtype {array.dtype}, wanted real numbers"
        raise TypeError(msg)
    native = array.dtype.newbyteorder("=")
    return contiguous(array, native if native.str[1:] in _INTENSITY_DTYPES else np.float64)


def uint8_for_kernels(image: Any, advice: str) -> NDArray[np.uint8]:
    """Refuse what is not uint8, with advice: a silent conversion would wrap intensities."""
    array = np.asarray(image)
    if array.dtype != np.uint8:
        msg = f"image: dtype {array.dtype}, wanted uint8; {advice}"
        raise TypeError(msg)
    return contiguous(array)


def logits_for_kernels(logits: Any, ranks: tuple[int, ...]) -> NDArray[np.float32]:
    """Copy to float32 what is of another float dtype; return (N, h, w)."""
    array = np.asarray(logits)
    if array.dtype.kind != "f":
        msg = f"logits: dtype {array.dtype}, wanted float32"
        raise TypeError(msg)
    if array.ndim not in ranks:
        msg = f"logits: {array.ndim} dimensions, wanted {' or '.join(map(str, ranks))}"
        raise ValueError(msg)
    stack = contiguous(array, np.float32)
    return stack if array.ndim == 3 else stack[np.newaxis]  # (h, w) -> (1, h, w)


def rows_and_columns(size: tuple[int, int], name: str) -> tuple[int, int]:
    """Two Python integers out of a size, whatever its integer type."""
    try:
        rows, columns = (index(side) for side in size)
    except (TypeError, ValueError) as error:
        msg = f"{name}: {size!r}, wanted two integers (rows, columns)"
        raise TypeError(msg) from error
    return rows, columns


def box_or_none(corners: NDArray[np.int64]) -> tuple[int, int, int, int] | None:
    """Box as Python integers; None for the -1 of an empty mask."""
    x0, y0, x1, y1 = (int(corner) for corner in corners)
    return None if x0 < 0 else (x0, y0, x1, y1)
