"""How the command line starts: its session opens while the image is read, and nibabel comes without pydicom.

Inflating a file and loading an engine share no work. Knows threads, imports and the public API.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Literal

from runtime.errors import LiteInferError
from runtime.session import Session

__all__ = ["SessionAhead", "without_pydicom"]


class SessionAhead:
    """A session that another thread opens, and whose graphs it loads as long as nobody waits for it.

    Use in a ``with`` block, which closes the session.

    Parameters
    ----------
    open_session : callable
        Opens it.
    what : {"image", "volume"}
        What will probably be segmented: graphs for that are loaded.
    """

    def __init__(self, open_session: Callable[[], Session], what: Literal["image", "volume"] = "volume") -> None:
        self._open = open_session
        self._what = what
        self._opened: list[Session] = []
        self._error: BaseException | None = None
        self._is_open = threading.Event()
        self._is_wanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lite-infer start")
        self._thread.start()

    def result(self) -> Session:
        """Wait for the session, or raise what kept it from being opened."""
        self._is_wanted.set()
        self._is_open.wait()
        if self._error is not None:
            raise self._error
        (session,) = self._opened
        return session

    def _run(self) -> None:
        try:
            self._opened.append(self._open())
        except BaseException as error:  # noqa: BLE001 - raised again where the session is asked for
            self._error = error
        self._is_open.set()
        for session in self._opened:
            # Who needs a graph gets the same error, from the same call, on the thread that can report it.
            with suppress(LiteInferError):
                session.warm_up(self._what, until=self._is_wanted.is_set)

    def __enter__(self) -> SessionAhead:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session, however far it came."""
        self._is_wanted.set()
        self._thread.join()
        for session in self._opened:
            session.close()


@contextmanager
def without_pydicom() -> Iterator[None]:
    """Keep nibabel, if it is imported inside, from importing pydicom, which takes twice as long as nibabel itself.

    nibabel does without it (it decodes header extensions that nobody reads here). Only for a process of our own, and
    for work on files that are not DICOM; where either package is loaded already, nothing is kept from anybody.
    """
    if {"nibabel", "pydicom"} & set(sys.modules):
        yield
        return
    sys.modules["pydicom"] = None  # type: ignore[assignment] # documented: such an import raises ImportError
    try:
        yield
    finally:
        del sys.modules["pydicom"]
