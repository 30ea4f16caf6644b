"""Slices of one segmentation through the encoder: each once, whoever asks, or ahead of that on a thread of its own.

Knows positions and a function that encodes one; knows no image, no prompt and no order of its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Ahead"]

_LEAST_KEPT = 4
"""Values that are kept whatever their size: those of a slice and of the one before it, in either direction."""

_T = TypeVar("_T")


class Ahead(Generic[_T]):
    """Values by position: computed once, ahead or when asked for, and kept for the next who asks, within some bytes.

    Safe to use from several threads.

    Parameters
    ----------
    make : callable
        Position -> value; called from any thread, for different positions at once.
    size : callable
        Bytes of a value.
    limit_bytes : int
        What is kept at most, the values used last.
    """

    def __init__(self, make: Callable[[int], _T], size: Callable[[_T], int], limit_bytes: int) -> None:
        self._make = make
        self._size = size
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, _T] = OrderedDict()
        self._bytes = 0
        self._at_work: dict[int, _Value[_T]] = {}
        self._thread: threading.Thread | None = None

    def get(self, position: int) -> _T:
        """Value of a position: a kept one, the one that is being computed, or computed now; its error is raised."""
        with self._lock:
            if position in self._kept:
                self._kept.move_to_end(position)
                return self._kept[position]
            value = self._at_work.get(position)
            is_mine = value is None
            if value is None:
                value = self._at_work[position] = _Value()
        if is_mine:
            self._compute(position, value)
        return value.result()

    def start(self, position: int) -> None:
        """Begin to compute the value of a position, unless it is there or another one was begun and is not done."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._lock:
            if position in self._kept or position in self._at_work:
                return
            value = self._at_work[position] = _Value()
        # A thread of its own: a slice takes milliseconds, a thread microseconds.
        self._thread = threading.Thread(target=self._compute, args=(position, value), name="lite-infer encoder")
        self._thread.start()

    def wait(self) -> None:
        """Let what was begun end; its value is kept for later, its error belongs to nobody."""
        if self._thread is not None:
            self._thread.join()

    def _compute(self, position: int, value: _Value[_T]) -> None:
        value.compute(self._make, position)
        with self._lock:
            del self._at_work[position]
            if value.error is not None:
                return
            self._kept[position] = value.result()
            self._bytes += self._size(value.result())
            while self._bytes > self._limit and len(self._kept) > _LEAST_KEPT:
                self._bytes -= self._size(self._kept.popitem(last=False)[1])


class _Value(Generic[_T]):
    """One value, or the error that came instead, that others may wait for."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._found: list[_T] = []
        self._is_done = threading.Event()

    def compute(self, make: Callable[[int], _T], position: int) -> None:
        """Compute; an error waits for `result`."""
        try:
            self._found.append(make(position))
        except BaseException as error:  # noqa: BLE001 - raised again where the value is asked for
            self.error = error
        finally:
            self._is_done.set()

    def result(self) -> _T:
        """Wait for the value, or raise what went wrong."""
        self._is_done.wait()
        if self.error is not None:
            raise self.error
        return self._found[0]
