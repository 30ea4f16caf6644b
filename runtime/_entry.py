"""The bytes of one stored embedding: a checksum, a small JSON header, and the tensors in C order.

Knows numpy and the error tree; knows no file and no folder. Nothing is unpickled, and every number is
checked before it is used::

    offset  0  8 bytes   magic and version
            8  uint32    CRC-32 of all that follows
           12  uint32    length of the header
           16  header    {"key": hex, "tensors": [[name, dtype, shape], ...]}, padded with spaces
               tensors   little-endian, each starting at a multiple of 64 and padded with zeros to one

A CRC finds what accidents do: torn writes, flipped bits, files that were cut or swapped. Against somebody who
may write to the folder no checksum without a secret helps; then the checks of the header keep the damage
to a wrong embedding.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InferenceError

__all__ = ["PREFIX_BYTES", "BadEntry", "decode_entry", "encode_entry", "owned_tensor"]

PREFIX_BYTES = 16

_MAGIC = b"LIEMBED\x01"
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 1 << 16
_MAX_NDIM = 8
_DTYPES = frozenset(["|b1", "|i1", "|u1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8"])


class BadEntry(Exception):
    """These bytes are not an intact entry of this key."""


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def owned_tensor(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    """Read-only, C-contiguous, little-endian array that nobody else can change behind the cache's back."""
    dtype = tensor.dtype.newbyteorder("<")
    if dtype.str not in _DTYPES or tensor.ndim > _MAX_NDIM or tensor.size == 0:
        msg = (
            f"embedding tensor {name!r} has dtype {tensor.dtype} and shape {tensor.shape}: wanted bool, "
            f"integers or float16/32/64, up to {_MAX_NDIM} axes and at least one element"
        )
        raise InferenceError(msg)
    settled = tensor.flags.owndata and tensor.flags.c_contiguous and not tensor.flags.writeable
    if settled and tensor.dtype == dtype:
        return tensor
    copy = np.array(tensor, dtype=dtype, order="C")
    copy.flags.writeable = False
    return copy


def encode_entry(key: str, tensors: Mapping[str, NDArray[Any]]) -> list[bytes | memoryview]:
    """Lay an entry out, without copying the tensors, which come from :func:`owned_tensor`."""
    table = [[name, tensor.dtype.str, list(tensor.shape)] for name, tensor in tensors.items()]
    header = json.dumps({"key": key, "tensors": table}, separators=(",", ":")).encode()
    header = header.ljust(_aligned(PREFIX_BYTES + len(header)) - PREFIX_BYTES)
    parts: list[bytes | memoryview] = [len(header).to_bytes(4, "little"), header]
    for tensor in tensors.values():
        parts.append(tensor.reshape(-1).view(np.uint8).data)
        parts.append(bytes(_aligned(tensor.nbytes) - tensor.nbytes))
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return [_MAGIC, checksum.to_bytes(4, "little"), *parts]


def decode_entry(key: str, data: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Check an entry and view its tensors in ``data`` without copying; BadEntry if anything is amiss."""
    prefix = data[:PREFIX_BYTES].tobytes()
    if len(prefix) < PREFIX_BYTES or prefix[:8] != _MAGIC:
        raise BadEntry
    if zlib.crc32(data[12:].data) != int.from_bytes(prefix[8:12], "little"):
        raise BadEntry
    offset = PREFIX_BYTES + int.from_bytes(prefix[12:], "little")
    if offset > min(_MAX_HEADER_BYTES, data.size):
        raise BadEntry
    tensors: dict[str, NDArray[Any]] = {}
    try:
        header = json.loads(data[PREFIX_BYTES:offset].tobytes())
        if header["key"] != key:
            raise BadEntry
        for name, dtype, shape in header["tensors"]:
            start = offset
            offset = start + _tensor_bytes(name, dtype, shape)
            if offset > data.size:
                raise BadEntry
            tensors[name] = data[start:offset].view(dtype).reshape(shape)
            offset = _aligned(offset)
    except (ValueError, TypeError, KeyError, RecursionError) as error:  # a header made to mislead
        raise BadEntry from error
    if offset != data.size or not tensors:
        raise BadEntry
    return tensors


def _tensor_bytes(name: object, dtype: str, shape: list[int]) -> int:
    if type(name) is not str or dtype not in _DTYPES or len(shape) > _MAX_NDIM:
        raise BadEntry
    if not all(type(length) is int and length > 0 for length in shape):
        raise BadEntry
    return prod(shape) * np.dtype(dtype).itemsize
