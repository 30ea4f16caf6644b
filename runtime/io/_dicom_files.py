"""Where DICOM objects come from: files of a folder, or members of a zip archive, which is never unpacked to disk.

Knows paths, archives and their limits; knows nothing of what DICOM says.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from runtime._zip import ZipArchive, ZipLimits
from runtime.errors import ImageError
from runtime.io._reading import MAX_BYTES, BoundedFile, check_file

__all__ = ["MAX_FILES", "DicomFile", "ZipMember", "archive_of", "files_in", "head_of", "opened"]

MAX_FILES = 50_000
"""Most files of a folder or an archive that is read as a series."""

_HEAD_BYTES = 256


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One file of a zip archive.

    Attributes
    ----------
    archive : Path
    name : str
        Its name inside, which may be a patient's and is therefore never shown.
    number : int
        Its place in the archive, from 1, which is.
    """

    archive: Path
    name: str
    number: int

    def __str__(self) -> str:
        """Name the archive and the place in it."""
        return f"{self.archive} (file {self.number})"


DicomFile: TypeAlias = Path | ZipMember


@contextmanager
def archive_of(file: DicomFile | None) -> Iterator[ZipArchive | None]:
    """Archive that a file lies in, opened once for many reads; None for an ordinary file."""
    if not isinstance(file, ZipMember):
        yield None
        return
    with _archive(file.archive) as archive:
        yield archive


def _archive(path: Path) -> ZipArchive:
    return ZipArchive(path, limits=ZipLimits(members=MAX_FILES, total_bytes=MAX_BYTES), error=ImageError)


@contextmanager
def opened(file: DicomFile, archive: ZipArchive | None = None) -> Iterator[Any]:
    """Bytes of a file as a stream that can be searched; a member of an archive is unpacked into memory."""
    if isinstance(file, ZipMember):
        with _archive(file.archive) if archive is None else nullcontext(archive) as source:
            data = source.read(file.name)
        yield io.BytesIO(data)
        return
    check_file(file)
    with BoundedFile(file) as stream:
        yield stream


def head_of(file: DicomFile, archive: ZipArchive | None = None) -> bytes:
    """First bytes of a file, enough to tell what it is."""
    if isinstance(file, ZipMember):
        with _archive(file.archive) if archive is None else nullcontext(archive) as source:
            return next(source.chunks(file.name), b"")[:_HEAD_BYTES]
    try:
        with file.open("rb") as stream:
            return stream.read(_HEAD_BYTES)
    except OSError as error:
        msg = f"{file}: cannot be opened; check its permissions"
        raise ImageError(msg) from error


def files_in(place: Path) -> tuple[DicomFile, ...]:
    """Files of a folder (not of its subfolders) or of an archive (all of them), in the order of their names."""
    if not place.is_dir():
        with _archive(place) as archive:
            members = [ZipMember(place, name, number) for number, name in enumerate(archive.files, start=1)]
            return tuple(sorted(members, key=lambda member: member.name))
    try:
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
    except OSError as error:
        msg = f"{place}: the folder cannot be read; check its permissions"
        raise ImageError(msg) from error
    if len(names) > MAX_FILES:
        msg = f"{place}: holds {len(names)} files, the limit is {MAX_FILES}; put the series into a folder of its own"
        raise ImageError(msg)
    return tuple(place / name for name in names)
