"""Voxels behind a header: which bytes to read, unpacked within limits, and the dtype that their values need.

Knows streams and arrays; knows no format. What a header claims is compared with what the file can hold before
anything is allocated.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io._gzip import unpacked
from runtime.io._reading import LOGGER, MAX_RATIO, check_file, check_size, foreign, read_into

__all__ = ["MAX_TEXT_BYTES", "Packing", "Stored", "read_voxels", "scaled", "single"]

Packing = Literal["raw", "gzip", "zlib", "bzip2", "text"]

MAX_TEXT_BYTES = 1 << 26
"""Most bytes of voxels that are written out as decimal numbers."""

_CHUNK_BYTES = 1 << 22
_CHUNK_VOXELS = 1 << 20
_TAIL_BYTES = 1 << 16
_TAIL_CHUNKS = 16
_LARGEST_FACTOR = 2.0**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where the voxels of one volume lie in a file.

    The file's array, slowest axis first, is (``blocks``, ``count``, ``run``) elements; the volume is
    ``[:, index, :]`` of it.

    Attributes
    ----------
    data : Path
        The file.
    start : int
        Bytes of the file before its (packed) voxels.
    skip : int
        Unpacked bytes before the first voxel.
    packing : {"raw", "gzip", "zlib", "bzip2", "text"}
        How the bytes from ``start`` on are packed; text is decimal numbers between white space.
    dtype : dtype
        Of the elements, in the file's byte order.
    run, blocks, count, index : int
        As above.
    """

    data: Path
    packing: Packing
    dtype: np.dtype[Any]
    run: int
    start: int = 0
    skip: int = 0
    blocks: int = 1
    count: int = 1
    index: int = 0


def read_voxels(path: Path, stored: Stored, wanted: str) -> NDArray[Any]:
    """Flat elements of a volume in file order and native byte order.

    Parameters
    ----------
    path : Path
        The file that the user named, for messages.
    stored : Stored
        What to read.
    wanted : str
        What a complete file is, for messages ("a complete NRRD file").

    Raises
    ------
    ImageError
        If the file is damaged, or holds or can hold fewer bytes than the header announces.
    """
    size = check_size(path, (stored.blocks * stored.run,), stored.dtype.itemsize)
    available = check_file(stored.data) - stored.start
    if stored.packing == "text":
        return _read_text(path, stored, available)
    step = stored.run * stored.dtype.itemsize
    last = stored.skip + ((stored.blocks - 1) * stored.count + stored.index + 1) * step
    got = 0
    with foreign(path, wanted):
        if last <= _most_bytes(stored, available, last):  # otherwise the header lies, and nothing is allocated
            with _unpacked(stored) as stream:
                flat = np.empty(size, dtype=np.uint8)
                got = _fill(stream, flat, stored)
                if got == size and stored.packing != "raw":
                    _check_tail(stream)
        if got < size:
            msg = f"{path}: is truncated, it holds fewer than the {size} bytes of voxels that the header announces"
            raise ImageError(msg + "; copy or download it again")
    voxels = flat.view(stored.dtype)
    if not stored.dtype.isnative:
        voxels.byteswap(inplace=True)
        voxels = voxels.view(stored.dtype.newbyteorder("="))
    return voxels


def _most_bytes(stored: Stored, available: int, last: int) -> int:
    """Most bytes that the file can unpack to (for bzip2, which has no such bound, counted up to ``last``)."""
    if stored.packing == "raw":
        return available
    if stored.packing != "bzip2":
        return available * MAX_RATIO
    with _unpacked(stored) as stream:
        return _skip(stream, last)


@contextlib.contextmanager
def _unpacked(stored: Stored) -> Iterator[Any]:
    """The unpacked bytes of the voxels."""
    with stored.data.open("rb") as raw:
        raw.seek(stored.start)
        if stored.packing == "gzip":
            with unpacked(raw) as stream:
                yield stream
        elif stored.packing == "bzip2":
            with bz2.BZ2File(raw) as packed:
                yield packed
        elif stored.packing == "zlib":
            with io.BufferedReader(_Inflated(raw), _TAIL_BYTES) as buffered:
                yield buffered
        else:
            yield raw


class _Inflated(io.RawIOBase):
    """A zlib stream as a file that can be read forwards."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._inflate = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._raw.read(_TAIL_BYTES)
            piece = self._inflate.decompress(packed, len(view))
            if piece:
                view[: len(piece)] = piece
                return len(piece)
            if not packed:
                msg = "the stream ends before its end marker"
                raise EOFError(msg)
        return 0


def _skip(stream: Any, count: int) -> int:
    """Read over some bytes; how many there were."""
    left = count
    while left > 0:
        piece = len(stream.read(min(left, _TAIL_BYTES)))
        if not piece:
            break
        left -= piece
    return count - left


def _fill(stream: Any, flat: NDArray[np.uint8], stored: Stored) -> int:
    """Fill the volume's bytes; how many came."""
    step = stored.run * stored.dtype.itemsize
    if stored.packing == "raw":
        stream.seek(stored.start + stored.skip)
    else:
        _skip(stream, stored.skip)
    if stored.count == 1:
        return read_into(stream, flat.data)
    block, got = stored.count * step, 0
    if block > _CHUNK_BYTES:
        for number in range(stored.blocks):
            _skip(stream, stored.index * step if number == 0 else block - step)
            got += read_into(stream, flat.data[number * step : (number + 1) * step])
        return got
    many = max(1, _CHUNK_BYTES // block)
    buffer = np.empty(many * block, dtype=np.uint8)
    for first in range(0, stored.blocks, many):
        number = min(many, stored.blocks - first)
        whole = read_into(stream, buffer.data[: number * block]) // block
        pieces = buffer[: whole * block].reshape(whole, stored.count, step)[:, stored.index]
        flat[first * step : (first + whole) * step] = pieces.reshape(-1)
        got += whole * step
        if whole < number:
            break
    return got


def _check_tail(stream: Any) -> None:
    """Read on to the end of a packed file, which checks its checksum, unless the end is far."""
    for _ in range(_TAIL_CHUNKS):
        if not stream.read(_TAIL_BYTES):
            return
    LOGGER.info("bytes behind the voxels that were asked for are ignored, and the checksum with them")


def _read_text(path: Path, stored: Stored, available: int) -> NDArray[Any]:
    if available > MAX_TEXT_BYTES:
        limit = MAX_TEXT_BYTES >> 20
        msg = f"{path}: holds more than {limit} MiB of voxels as text; save the image in binary form"
        raise ImageError(msg)
    with foreign(path, "an image whose voxels are decimal numbers"):
        with stored.data.open("rb") as stream:
            stream.seek(stored.start + stored.skip)
            words = stream.read(available).split()
        elements = stored.blocks * stored.count * stored.run
        if len(words) < elements:
            msg = f"{path}: is truncated, it holds {len(words)} of {elements} voxels; copy or download it again"
            raise ImageError(msg)
        dtype = stored.dtype.newbyteorder("=")
        texts = np.array(words[:elements], dtype=np.bytes_)
        values = texts.astype(dtype) if dtype.kind != "f" else texts.astype(np.float64).astype(dtype)
    return values.reshape(stored.blocks, stored.count, stored.run)[:, stored.index].reshape(-1)


def scaled(flat: NDArray[Any], slope: float = 1.0, inter: float = 0.0) -> NDArray[Any]:
    """``slope * flat + inter`` in the smallest dtype that holds it, in place where that needs no more room.

    Whole numbers stay integers: the smallest of the stored dtype (up to 32 bits), int16 and int32. Anything
    else becomes float32 (whole numbers above 2**24 lose digits). ``flat`` must not be used afterwards.
    """
    target = _target_dtype(flat, slope, inter)
    if target == flat.dtype and (slope, inter) == (1.0, 0.0):
        return flat
    narrower = target.itemsize <= flat.dtype.itemsize
    out = flat.view(target)[: len(flat)] if narrower else np.empty(flat.shape, dtype=target)
    whole = target.kind != "f"
    for start in range(0, len(flat), _CHUNK_VOXELS):  # forwards: what is written was read before
        part = slice(start, start + _CHUNK_VOXELS)
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are data here
            if (slope, inter) == (1.0, 0.0):
                out[part] = flat[part].astype(target)
            elif whole:
                out[part] = flat[part].astype(np.int64) * int(slope) + int(inter)
            else:
                out[part] = flat[part].astype(np.float64) * slope + inter
    return out


def single(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float64 as float32, without numpy's warnings: NaN and infinity, which large numbers become, are data here."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def _target_dtype(flat: NDArray[Any], slope: float, inter: float) -> np.dtype[Any]:
    """Smallest dtype that holds ``slope * flat + inter``."""
    whole = slope == int(slope) and inter == int(inter) and max(abs(slope), abs(inter)) < _LARGEST_FACTOR
    if flat.dtype.kind == "f" or not whole:
        return np.dtype(np.float32)
    same = (slope, inter) == (1.0, 0.0)
    if same and flat.dtype.itemsize <= 4:
        return flat.dtype
    ends = sorted(int(end) * int(slope) + int(inter) for end in (flat.min(), flat.max()))
    candidates: list[np.dtype[Any]] = [np.dtype(np.int16), np.dtype(np.int32)]
    if flat.dtype.itemsize <= 2:
        candidates.insert(0, flat.dtype)
    for candidate in candidates:
        if np.iinfo(candidate).min <= ends[0] and ends[1] <= np.iinfo(candidate).max:
            return candidate
    return flat.dtype if same else np.dtype(np.float32)
