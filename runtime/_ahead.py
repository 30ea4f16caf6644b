"""Slices of one segmentation through the encoder, the next one while the decoder is busy with this one.

Knows positions and a function that encodes one; knows no image, no prompt and no order of its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Ahead"]

_LEAST_KEPT = 2
"""Values that are kept whatever their size: that of a slice and of the one before it."""

_T = TypeVar("_T")


class Ahead(Generic[_T]):
    """Values by position: computed ahead on another thread, and kept for the next who asks, within a number of bytes.

    Used by one thread; `make` runs on that thread or on another, one call at a time.

    Parameters
    ----------
    make : callable
        Position -> value; safe to call from another thread.
    size : callable
        Bytes of a value.
    limit_bytes : int
        What is kept at most, the values used last.
    """

    def __init__(self, make: Callable[[int], _T], size: Callable[[_T], int], limit_bytes: int) -> None:
        self._make = make
        self._size = size
        self._limit = limit_bytes
        self._kept: OrderedDict[int, _T] = OrderedDict()
        self._bytes = 0
        self._task: _Task[_T] | None = None

    def get(self, position: int) -> _T:
        """Value of a position: a kept one, the one that is being computed, or computed now; its error is raised."""
        task = self._task
        if task is not None and task.position == position:
            self._task = None
            return self._keep(position, task.result())
        if position in self._kept:
            self._kept.move_to_end(position)
            return self._kept[position]
        self.wait()
        return self._keep(position, self._make(position))

    def start(self, position: int) -> None:
        """Begin to compute the value of a position, unless it is kept or another one is being computed."""
        if self._task is None and position not in self._kept:
            self._task = _Task(self._make, position)
            self._task.start()

    def wait(self) -> None:
        """Let what is being computed end; its value is kept for later, its error belongs to nobody."""
        task, self._task = self._task, None
        if task is not None:
            task.join()
            if task.error is None:
                self._keep(task.position, task.result())

    def _keep(self, position: int, value: _T) -> _T:
        self._kept[position] = value
        self._bytes += self._size(value)
        while self._bytes > self._limit and len(self._kept) > _LEAST_KEPT:
            self._bytes -= self._size(self._kept.popitem(last=False)[1])
        return value


class _Task(threading.Thread, Generic[_T]):
    """One value, computed on a thread of its own: a slice takes milliseconds, a thread microseconds."""

    def __init__(self, make: Callable[[int], _T], position: int) -> None:
        super().__init__(name="lite-infer encoder")
        self.position = position
        self.error: BaseException | None = None
        self._compute = make
        self._value: list[_T] = []

    def run(self) -> None:
        """Compute; an error waits for `result`."""
        try:
            self._value.append(self._compute(self.position))
        except BaseException as error:  # noqa: BLE001 - raised again where the value is asked for
            self.error = error

    def result(self) -> _T:
        """Wait for the value, or raise what went wrong."""
        self.join()
        if self.error is not None:
            raise self.error
        return self._value[0]
