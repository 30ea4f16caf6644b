"""One process at a time: a lock on a file that the operating system gives back when its owner dies.

Knows files only.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import OutputError

__all__ = ["locked"]

_TAKEN = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK, errno.EWOULDBLOCK})


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock inside the block; OutputError if another process does, or the file cannot be made.

    File systems without locks (some network folders) are used without one, which the value yielded says: what two
    processes write at once is verified all the same.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        msg = f"{path.parent}: cannot be written ({error.strerror}); set LITE_INFER_HOME to a folder of yours"
        raise OutputError(msg) from error
    try:
        try:
            _take(descriptor)
            held = True
        except OSError as error:
            if error.errno in _TAKEN:
                msg = f"{path.parent}: another lite-infer is changing the models there; try again when it is done"
                raise OutputError(msg) from error
            held = False
        yield held
    finally:
        os.close(descriptor)  # which gives the lock back


def _take(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
