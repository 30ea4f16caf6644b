"""Files that appear whole or not at all, alone or several together.

Knows the file system and the error tree; knows no format. Every writer of this package goes through
`atomic_file` or `atomic_files`.

A process that is killed leaves the old file, or the new one, under the final name; what it had begun keeps a hidden
name (``.NAME.HEX.part``) and is removed by the next one that writes the same name. A lock on the hidden file
tells what was left behind from what another process is writing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.errors import OutputError

__all__ = ["AtomicFiles", "atomic_file", "atomic_files", "check_writable"]

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_STEM_LENGTH = 60
"""Characters of the name kept in the temporary name, so that it does not grow past the file system's limit."""

# os.open rather than tempfile: the umask decides who may read the result, as with any program.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class AtomicFiles:
    """Files that get their names together, once all of them are complete.

    Each name is given in one step. A kill between two of these steps leaves some files new and the others as they
    were, every one of them whole.
    """

    def __init__(self) -> None:
        self._complete: list[tuple[BinaryIO, Path, Path]] = []

    @contextmanager
    def open(self, path: Path, *, protected: Iterable[Path] = ()) -> Iterator[BinaryIO]:
        """Open one of the files for writing; it is complete when the block ends.

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
        stream, temporary = _begin(path, protected)
        try:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        except BaseException as error:
            _remove(stream, temporary)
            if isinstance(error, OSError):
                raise _output_error(path, error) from error
            raise
        self._complete.append((stream, temporary, path))

    def publish(self) -> None:
        """Give every file its name."""
        while self._complete:
            stream, temporary, path = self._complete[0]
            try:
                if os.name == "nt":  # where an open file cannot be renamed; elsewhere its lock is kept until then
                    stream.close()
                temporary.replace(path)
            except OSError as error:
                raise _output_error(path, error) from error
            stream.close()
            del self._complete[0]

    def discard(self) -> None:
        """Remove what has not got its name."""
        for stream, temporary, _ in self._complete:
            _remove(stream, temporary)
        self._complete.clear()


@contextmanager
def atomic_files() -> Iterator[AtomicFiles]:
    """Write several files that appear together when the block ends, or not at all when it fails."""
    files = AtomicFiles()
    try:
        yield files
        files.publish()
    finally:
        files.discard()


@contextmanager
def atomic_file(path: Path, *, protected: Iterable[Path] = ()) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only once it is complete.

    The bytes go to a hidden file in the same folder, which is renamed when the block ends and removed
    when it fails, whatever the reason (Ctrl-C included). Parameters and errors are those of `AtomicFiles.open`.
    """
    with atomic_files() as files, files.open(path, protected=protected) as stream:
        yield stream


def check_writable(path: Path, *, protected: Iterable[Path] = ()) -> None:
    """Refuse now, with an OutputError, a name that could not be written later; nothing stays behind."""
    stream, temporary = _begin(path, protected)
    _remove(stream, temporary)


def _output_error(path: Path, error: OSError) -> OutputError:
    while error.errno is None and isinstance(error.__context__, OSError):  # as pydicom wraps what the disk said
        error = error.__context__
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


def _begin(path: Path, protected: Iterable[Path]) -> tuple[BinaryIO, Path]:
    """Open the hidden file that will become ``path``, once the name is known to be free for it."""
    try:
        _check_target(path, protected)
        _remove_leftovers(path)
        while True:
            temporary = path.with_name(f".{path.name[:_STEM_LENGTH]}.{secrets.token_hex(6)}.part")
            descriptor = os.open(temporary, _FLAGS, 0o666)
            _lock(descriptor)
            if os.name == "nt" or os.fstat(descriptor).st_nlink:
                return os.fdopen(descriptor, "w+b"), temporary
            os.close(descriptor)  # another process took it for a leftover before it was locked
    except OSError as error:
        raise _output_error(path, error) from error


def _remove(stream: BinaryIO, temporary: Path) -> None:
    with contextlib.suppress(OSError):
        stream.close()
    with contextlib.suppress(OSError):
        temporary.unlink()


def _lock(descriptor: int) -> bool:
    """Lock an open file for as long as it is open; whether that was possible."""
    try:
        import fcntl
    except ImportError:  # Windows, where nobody can remove an open file
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of this file."""
    ours = re.compile(rf"\.{re.escape(path.name[:_STEM_LENGTH])}\.[0-9a-f]{{12}}\.part")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for name in [entry.name for entry in entries if ours.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                _remove_unlocked(path.with_name(name))


def _remove_unlocked(leftover: Path) -> None:
    if os.name == "nt":
        leftover.unlink()
        return
    descriptor = os.open(leftover, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if _lock(descriptor):
            leftover.unlink()
    finally:
        os.close(descriptor)
