"""What all loaders share: named limits and the seam where foreign errors become `ImageError`.

Knows shapes, paths and the error tree; knows no format.
"""

from __future__ import annotations

import io
import logging
import math
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import ImageError, LiteInferError

__all__ = [
    "LOGGER",
    "MAX_BYTES",
    "MAX_RATIO",
    "MAX_VOXELS",
    "BoundedFile",
    "SeveralVolumes",
    "check_file",
    "check_size",
    "choose_volume",
    "foreign",
    "named",
    "read_into",
]

LOGGER = logging.getLogger("lite_infer")
"""Says what was guessed or ignored; never a name, a UID or a path."""

MAX_VOXELS = 2**31
"""Most voxels (channels not counted) of an image: eight times a 512 x 512 x 1000 scan."""

MAX_BYTES = 2**33
"""Most bytes that the decoded image may take."""

MAX_RATIO = 1040
"""Deflate cannot shrink by more than about 1032; a file that claims more lies about its size."""

_CHUNK = 1 << 22


class SeveralVolumes(ImageError):
    """A file holds several volumes and none was chosen; ``count`` says how many."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


@contextmanager
def foreign(path: object, wanted: str) -> Iterator[None]:
    """Turn whatever a format library raises into an `ImageError` that names the file.

    Wrap calls of the library and nothing else, or our own mistakes would look like broken files.
    """
    try:
        yield
    except LiteInferError:
        raise
    except MemoryError as error:
        msg = f"{path}: not enough memory to read it; close other programs or use a machine with more"
        raise ImageError(msg) from error
    except Exception as error:
        # Damaged files make the libraries raise nearly anything: struct.error, KeyError, RecursionError ...
        # Only the kind of error is quoted, its text may hold values of the header.
        msg = f"{path}: is not {wanted} that can be read ({type(error).__name__}); check that the file is complete"
        raise ImageError(msg) from error


@contextmanager
def named(path: object) -> Iterator[None]:
    """Put the file's name in front of an `ImageError` that comes from code which does not know it."""
    try:
        yield
    except SeveralVolumes as error:
        msg = f"{path}: {error}"
        raise SeveralVolumes(msg, error.count) from error
    except ImageError as error:
        msg = f"{path}: {error}"
        raise ImageError(msg) from error


class BoundedFile(io.BufferedReader):
    """A file that is never asked for more than it holds.

    pydicom and Pillow believe the length of every element, and Python reserves what it is asked to read: a
    damaged length of gigabytes would be allocated for a file of a few bytes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "rb"))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes."""
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            size = min(size, max(0, self._size - self.tell()))
        return super().read(size)


def check_file(path: Path) -> int:
    """Size in bytes of an ordinary, readable, non-empty file; `ImageError` for anything else."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else "cannot be opened"
        msg = f"{path}: {reason}; check the name and the permissions"
        raise ImageError(msg) from error
    if not stat.S_ISREG(status.st_mode):
        msg = f"{path}: is not an ordinary file; give the path of an image"
        raise ImageError(msg)
    if status.st_size == 0:
        msg = f"{path}: the file is empty; copy or download it again"
        raise ImageError(msg)
    return status.st_size


def check_size(path: object, shape: Sequence[int], itemsize: int) -> int:
    """Bytes that an array takes, once its shape is known to be sane and within the limits."""
    if not shape or min(shape) < 1:
        msg = f"{path}: the image has size {'x'.join(map(str, shape))}, so it holds no voxels"
        raise ImageError(msg)
    voxels = math.prod(shape)  # Python integers: no overflow
    if voxels > MAX_VOXELS or voxels * itemsize > MAX_BYTES:
        msg = (
            f"{path}: the header claims {'x'.join(map(str, shape))} voxels of {itemsize} bytes, "
            f"more than the limits of {MAX_VOXELS} voxels and {MAX_BYTES >> 30} GiB; crop or resample the image"
        )
        raise ImageError(msg)
    return voxels * itemsize


def choose_volume(count: int, volume: int | None, what: str) -> int:
    """Index of the volume to read of ``count`` that a file holds; the messages do not name the file."""
    if volume is None and count > 1:
        msg = f"holds {count} {what}, not one volume; choose one with volume=0 .. {count - 1} (--volume N)"
        raise SeveralVolumes(msg, count)
    index = volume or 0
    if not 0 <= index < count:
        msg = f"there is no volume {index}, it holds {count}; choose 0 .. {count - 1}"
        raise ImageError(msg)
    return index


def read_into(stream: Any, view: memoryview) -> int:
    """Fill a byte view from a binary stream, piece by piece; the number of bytes that came."""
    position = 0
    while position < len(view):
        count = stream.readinto(view[position : position + _CHUNK])
        if not count:
            break
        position += count
    return position
