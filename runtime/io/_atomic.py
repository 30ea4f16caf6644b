"""Files that appear whole or not at all.

Knows the file system and the error tree; knows no format. Every writer of this package goes through
`atomic_file`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.errors import OutputError

__all__ = ["atomic_file"]

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_STEM_LENGTH = 60
"""Characters of the name kept in the temporary name, so that it does not grow past the file system's limit."""


def _output_error(path: Path, error: OSError) -> OutputError:
    if error.errno in _NO_SPACE:
        return OutputError(f"{path}: no space left while writing; free some or choose another folder")
    if error.errno in _NOT_ALLOWED:
        return OutputError(f"{path}: writing is not permitted there; choose another folder")
    reason = error.strerror or type(error).__name__
    return OutputError(f"{path}: cannot be written ({reason}); choose another name or folder")


def _check_target(path: Path, protected: Iterable[Path]) -> None:
    if not path.name:
        msg = f"{path}: is not a file name; give the name of a file to write"
        raise OutputError(msg)
    if not path.parent.is_dir():
        msg = f"{path}: the folder {path.parent} does not exist; create it or choose another one"
        raise OutputError(msg)
    if not path.exists():
        return
    if not path.is_file():
        # A rename would replace the folder, or the device (/dev/null), by an ordinary file.
        msg = f"{path}: exists and is not an ordinary file; choose another name"
        raise OutputError(msg)
    for source in protected:
        if source.exists() and path.samefile(source):
            msg = f"{path}: is the input itself, which is never overwritten; choose another name"
            raise OutputError(msg)


@contextmanager
def atomic_file(path: Path, *, protected: Iterable[Path] = ()) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only once it is complete.

    The bytes go to a hidden file in the same folder, which is renamed when the block ends and removed
    when it fails, whatever the reason (Ctrl-C included).

    Parameters
    ----------
    path : Path
        The final name. An existing ordinary file is replaced.
    protected : iterable of Path
        Files that must not be replaced: the input.

    Yields
    ------
    stream : binary file, writable and seekable

    Raises
    ------
    OutputError
        If the folder is missing, the name is taken by something that is no file or by a protected file,
        the folder is not writable or the disk is full.
    """
    temporary = path.with_name(f".{path.name[:_STEM_LENGTH]}.{secrets.token_hex(6)}.part")
    try:
        _check_target(path, protected)
        # os.open rather than tempfile: the umask decides who may read the result, as with any program.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        raise _output_error(path, error) from error
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _output_error(path, error) from error
        raise
