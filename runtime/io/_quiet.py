"""Silence the warnings and logs of the format libraries while we call them.

They quote values of the header, which may name a person, and tell the user nothing that our own errors do
not. Safe from several threads, which plain `warnings.catch_warnings` is not: the filters are set by the first
thread that enters and restored by the last one that leaves.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["quiet"]

_LIBRARIES = "pydicom|PIL|openjpeg|pylibjpeg|jpeg_ls|nrrd|highdicom"
_OLD_ARRAY = r"Reading `\.npy` or `\.npz` file required additional header parsing"
"""Numpy's words on an array of Python 2, said in the name of whoever called it."""
_LOGGERS = (
    "pydicom",
    "pydicom.pixels.decoders.base",
    "pydicom.encaps",
    "PIL.TiffImagePlugin",
    "PIL.PngImagePlugin",
    "highdicom.base",
    "highdicom.image",
    "highdicom.seg.sop",
    "highdicom.spatial",
)


class _Silence:
    """Counts who is inside; the outermost sets and restores the filters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._restore = ExitStack()
        self._threads: dict[int, int] = {}

    def enter(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._restore.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=_LIBRARIES)
                warnings.filterwarnings("ignore", message=_OLD_ARRAY)
                for name in _LOGGERS:
                    logger = logging.getLogger(name)
                    logger.addFilter(self._other_threads_only)
                    self._restore.callback(logger.removeFilter, self._other_threads_only)
            self._depth += 1
            me = threading.get_ident()
            self._threads[me] = self._threads.get(me, 0) + 1

    def leave(self) -> None:
        with self._lock:
            self._depth -= 1
            me = threading.get_ident()
            self._threads[me] -= 1
            if self._threads[me] == 0:
                del self._threads[me]
            if self._depth == 0:
                self._restore.close()

    def _other_threads_only(self, record: logging.LogRecord) -> bool:
        return record.thread not in self._threads


_SILENCE = _Silence()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the format libraries silent inside the block. Do not yield out of it."""
    _SILENCE.enter()
    try:
        yield
    finally:
        _SILENCE.leave()
