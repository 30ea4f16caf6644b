"""The ways an array can lie in memory; kernels must not notice any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Layout = Callable[[NDArray[Any]], NDArray[Any]]


def _every_second(array: NDArray[Any]) -> NDArray[Any]:
    holder = np.zeros(tuple(2 * side for side in array.shape), array.dtype)
    view = holder[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def _backwards(array: NDArray[Any]) -> NDArray[Any]:
    turned = tuple(slice(None, None, -1) for _ in array.shape)
    return array[turned].copy()[turned]


def _unaligned(array: NDArray[Any]) -> NDArray[Any]:
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def _swapped(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(array.dtype.newbyteorder())


LAYOUTS: dict[str, Layout] = {
    "c_order": np.ascontiguousarray,
    "fortran_order": np.asfortranarray,
    "every_second": _every_second,
    "backwards": _backwards,
    "unaligned": _unaligned,
    "read_only": _read_only,
    "swapped_bytes": _swapped,
}
