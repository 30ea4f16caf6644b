"""Iterators worked off on the caller's thread and, if wanted, on one beside it; what they yield goes to the caller.

Knows iterators and threads, and nothing of what is computed.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Lanes"]

_T = TypeVar("_T")


class Lanes(Generic[_T]):
    """One or two lanes on which groups of iterators are worked off.

    Each iterator is used by one thread alone; which one is left open. Of groups, those added first are begun first.
    Everything that is told is told on the caller's thread, between two items of its own.

    Parameters
    ----------
    count : int
        1 for the caller's thread alone, 2 for another one beside it.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: deque[_Job[_T]] = deque()
        self._found: queue.SimpleQueue[tuple[_Group[_T], _T | _End]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._is_left = False
        self._groups = 0
        self._working = 0

    @property
    def has_idle(self) -> bool:
        """Whether a lane has nothing to do."""
        return self._working < self._count

    def add(
        self,
        iterators: Sequence[Iterator[_T]],
        take: Callable[[_T], None],
        end: Callable[[], None],
        *,
        soon: bool = False,
    ) -> None:
        """Add a group of iterators; to be called before `run`, and from what `run` calls.

        Parameters
        ----------
        iterators : sequence of iterator
            At least one.
        take : callable
            Is told each item; those of one iterator in their order.
        end : callable
            Is called once all of them are at their end.
        soon : bool
            Whether to begin with them before those that wait already.
        """
        group = _Group(take, end, len(iterators))
        jobs = [(items, group) for items in iterators]
        self._groups += 1
        with self._changed:
            if soon:
                self._waiting.extendleft(reversed(jobs))
            else:
                self._waiting.extend(jobs)
            self._changed.notify()

    def run(self) -> None:
        """Work until nothing is left; an error of an iterator or a callable ends both lanes, at their next items."""
        beside = threading.Thread(target=self._work, name="lite-infer walk")
        try:
            if self._count > 1:
                beside.start()  # in here: Ctrl-C in it must end the thread too, which may run already
            while self._groups:
                job = self._begun()
                if job is None:
                    self._tell(*self._found.get())  # there is something under way on the other lane
                    continue
                items, group = job
                for item in items:
                    self._tell(group, item)
                    self._tell_ready()
                self._ended()
                self._tell(group, _End(None))
                self._tell_ready()
        finally:
            with self._changed:
                self._is_left = True
                self._changed.notify()
            if beside.is_alive():
                beside.join()

    def _work(self) -> None:
        """The other lane."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_left)
                if self._is_left:
                    return
                items, group = self._waiting.popleft()
                self._working += 1
            error: BaseException | None = None
            try:
                for item in items:
                    self._found.put((group, item))
                    if self._is_left:
                        return
            except BaseException as raised:  # noqa: BLE001 - raised again on the caller's thread
                error = raised
            self._ended()
            self._found.put((group, _End(error)))

    def _begun(self) -> _Job[_T] | None:
        with self._changed:
            if not self._waiting:
                return None
            self._working += 1
            return self._waiting.popleft()

    def _ended(self) -> None:
        with self._changed:
            self._working -= 1

    def _tell_ready(self) -> None:
        """Tell what the other lane has found, and wait for nothing."""
        while not self._found.empty():
            self._tell(*self._found.get())

    def _tell(self, group: _Group[_T], item: _T | _End) -> None:
        if not isinstance(item, _End):
            group.take(item)
            return
        if item.error is not None:
            raise item.error
        group.left -= 1
        if not group.left:
            group.end()
            self._groups -= 1  # only now: what its end has added counts already


class _End(NamedTuple):
    """No more items; the error, if that is why."""

    error: BaseException | None


class _Group(Generic[_T]):
    """Iterators that are one thing to the caller."""

    def __init__(self, take: Callable[[_T], None], end: Callable[[], None], left: int) -> None:
        self.take = take
        self.end = end
        self.left = left


_Job = tuple[Iterator[_T], _Group[_T]]
