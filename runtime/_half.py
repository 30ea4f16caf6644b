"""Arrays between float32 and float16, in the compiled module: numpy takes several times as long.

Knows arrays alone. Release the GIL while they work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime._kernel_arguments import contiguous, native_kernels

__all__ = ["converted"]


def converted(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The array, C-contiguous, in another dtype: rounded as numpy rounds, without a copy where nothing changes."""
    if array.dtype == np.float32 and dtype == "float16":
        half: NDArray[np.float16] = native_kernels().float_to_half(contiguous(array))
        return half
    if array.dtype == np.float16 and dtype == "float32":
        wide: NDArray[np.float32] = native_kernels().half_to_float(contiguous(array).view(np.uint16))
        return wide
    return np.ascontiguousarray(array, dtype=dtype)
