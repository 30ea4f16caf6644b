"""Zip archives from strangers: what is inside, checked as a whole before a byte is unpacked.

Knows the zip format and the error tree; knows neither bundles nor images, and writes to no file system: a member is
read into memory or into a stream that the caller opened under a name of its own choice.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NoReturn

from runtime.errors import LiteInferError

__all__ = ["ZipArchive", "ZipLimits"]

_CHUNK_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_RECORD_BYTES = 46 + 1024
"""Generous size of one member's record in the list at the end of an archive: 46 bytes, its name and extras."""
_LOCAL_BYTES = 30
_LOCATOR_BYTES = 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")


@dataclass(frozen=True)
class ZipLimits:
    """What an archive may hold at most.

    Attributes
    ----------
    members : int
        Files and folders.
    total_bytes : int
        All files together, unpacked.
    ratio : int
        How many times larger than the archive they may be, once they take more than `free_bytes`.
    free_bytes : int
        Up to here no ratio is looked at.
    """

    members: int
    total_bytes: int
    ratio: int = 200
    free_bytes: int = 64 << 20


class ZipArchive:
    """An archive whose names, kinds and sizes are harmless.

    Refused are: names that are absolute, contain ``..``, a backslash, a colon or control characters, or occur twice
    (upper and lower case being the same); links and devices; encryption; methods other than storing and deflating;
    members that overlap; and whatever goes beyond the limits.

    Parameters
    ----------
    path : Path
        The archive.
    limits : ZipLimits
        What it may hold.
    error : type of LiteInferError
        What is raised for anything wrong with it.

    Attributes
    ----------
    files : dict of str to int
        Name -> size unpacked, folders left out, in the archive's order.
    """

    def __init__(self, path: Path, *, limits: ZipLimits, error: type[LiteInferError]) -> None:
        self._path = path
        self._error = error
        with self._mapped():
            packed = path.stat().st_size
            with path.open("rb") as file:
                directory_bytes = _directory_bytes(file)
            if directory_bytes > limits.members * _RECORD_BYTES:
                self._refuse(f"lists more than {limits.members} members")
            self._zip = zipfile.ZipFile(path)
        infos = self._zip.infolist()
        for problem in (*_problems(infos), _problem_of_size(infos, packed, limits)):
            if problem is not None:
                self._zip.close()
                self._refuse(problem)
        self._members = {info.filename: info for info in infos}
        self.files = {name: info.file_size for name, info in self._members.items() if not info.is_dir()}

    def __enter__(self) -> ZipArchive:
        """Return the archive itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._zip.close()

    def chunks(self, name: str) -> Iterator[bytes]:
        """Unpack a file piece by piece; its size and checksum hold once the iteration ends without an error."""
        info = self._members[name]
        found = 0
        with self._mapped(), self._zip.open(info) as source:
            while chunk := source.read(_CHUNK_BYTES):
                found += len(chunk)
                if found > info.file_size:
                    break
                yield chunk
        if found != info.file_size:
            self._refuse("has a member without the size that it claims")

    def read(self, name: str) -> bytes:
        """Unpack a small file into memory."""
        return b"".join(self.chunks(name))

    def _refuse(self, problem: str, cause: BaseException | None = None) -> NoReturn:
        msg = f"{self._path}: {problem}; wanted an ordinary zip archive, get or make it again"
        raise self._error(msg) from cause

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn everything that `zipfile` raises over a bad archive into the error asked for."""
        try:
            yield
        except FileNotFoundError as error:
            msg = f"{self._path}: does not exist; give the name of a zip archive"
            raise self._error(msg) from error
        except OSError as error:
            msg = f"{self._path}: cannot be read ({error.strerror or type(error).__name__}); check its permissions"
            raise self._error(msg) from error
        except _DAMAGE as error:
            self._refuse("is damaged, or no zip archive", error)


def _problems(infos: list[zipfile.ZipInfo]) -> Iterator[str]:
    """What is wrong with single members, which are counted rather than named: names may be patients'."""
    folded: set[str] = set()
    for number, info in enumerate(infos, 1):
        name = info.orig_filename
        parts = name.removesuffix("/").split("/")
        if any(part in ("", ".", "..") for part in parts) or set(name) & {"\\", ":"} or not name.isprintable():
            yield f"member {number} has a name that leads elsewhere"
        if name.rstrip("/").casefold() in folded:
            yield f"the name of member {number} occurs twice"
        folded.add(name.rstrip("/").casefold())
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            yield f"member {number} is a link or a device"
        if info.flag_bits & 1:
            yield f"member {number} is encrypted"
        if info.compress_type not in _METHODS:
            yield f"member {number} is packed by method {info.compress_type}, and only deflate is read"


def _problem_of_size(infos: list[zipfile.ZipInfo], packed: int, limits: ZipLimits) -> str | None:
    total = sum(info.file_size for info in infos)
    spans = sorted((info.header_offset, info.header_offset + _LOCAL_BYTES + info.compress_size) for info in infos)
    if len(infos) > limits.members:
        return f"holds {len(infos)} members, more than {limits.members}"
    if total > limits.total_bytes:
        return f"unpacks to {total} bytes, more than {limits.total_bytes}"
    if total > max(limits.free_bytes, packed * limits.ratio):
        return f"unpacks to {total} bytes, more than {limits.ratio} times its size"
    if any(start < end for (_, end), (start, _) in pairwise(spans)) or (spans and spans[-1][1] > packed):
        return "has members that overlap"
    return None


def _directory_bytes(file: BinaryIO) -> int:
    """Size of the list of members, which `zipfile` reads at once: found as `zipfile` finds it."""
    size = file.seek(0, os.SEEK_END)
    tail_bytes = min(size, _END.size + _LOCATOR_BYTES + 0xFFFF)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        msg = "no end record"
        raise zipfile.BadZipFile(msg)
    directory_bytes: int = _END.unpack_from(tail, place)[5]
    locator = tail[max(0, place - _LOCATOR_BYTES) : place]
    if len(locator) == _LOCATOR_BYTES and locator.startswith(b"PK\x06\x07"):
        file.seek(size - tail_bytes + place - _LOCATOR_BYTES - _END64.size)
        record = file.read(_END64.size)
        if len(record) == _END64.size and record.startswith(b"PK\x06\x06"):
            directory_bytes = max(directory_bytes if directory_bytes != 0xFFFFFFFF else 0, _END64.unpack(record)[8])
    return directory_bytes
