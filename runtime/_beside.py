"""What an iterator yields, computed on a thread of its own beside the caller's work.

Knows iterators and threads, and nothing of what is computed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Beside"]

_T = TypeVar("_T")


class Beside(Generic[_T]):
    """Runs an iterator on another thread; its items come in order, and its error where they are taken.

    Use in a ``with`` block, which lets the iterator go on to its next item at most once it is left.

    Parameters
    ----------
    items : iterator
        Used by the other thread alone.
    """

    def __init__(self, items: Iterator[_T]) -> None:
        self._items = items
        self._found: queue.SimpleQueue[_T | _End] = queue.SimpleQueue()
        self._end: _End | None = None
        self._is_left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lite-infer walk")

    @property
    def is_over(self) -> bool:
        """Whether all items were taken."""
        return self._end is not None

    def ready(self) -> Iterator[_T]:
        """Yield the items that are there, and wait for none."""
        while not self._found.empty():
            yield from self._next()

    def rest(self) -> Iterator[_T]:
        """Yield all items to the last."""
        while self._end is None:
            yield from self._next()

    def _next(self) -> Iterator[_T]:
        item = self._found.get()
        if not isinstance(item, _End):
            yield item
            return
        self._end = item
        if item.error is not None:
            raise item.error

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                self._found.put(item)
                if self._is_left.is_set():
                    break
        except BaseException as raised:  # noqa: BLE001 - raised again where the items are taken
            error = raised
        self._found.put(_End(error))

    def __enter__(self) -> Beside[_T]:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the thread, which stops at its next item."""
        self._is_left.set()
        self._thread.join()


class _End:
    """No more items; the error, if that is why."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
