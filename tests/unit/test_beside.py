"""An iterator on a thread of its own: order, errors, being left early."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runtime._beside import Beside


def test_items_come_in_order_from_another_thread() -> None:
    names: list[str] = []

    def items() -> Iterator[int]:
        for item in range(100):
            names.append(threading.current_thread().name)
            yield item

    with Beside(items()) as beside:
        taken = list(beside.ready())
        taken += beside.rest()
        assert beside.is_over
        assert list(beside.ready()) == list(beside.rest()) == []
    assert taken == list(range(100))
    assert set(names) == {"lite-infer walk"}


def test_what_is_ready_is_not_waited_for() -> None:
    may_go_on = threading.Event()

    def items() -> Iterator[int]:
        may_go_on.wait(10)
        yield 1

    with Beside(items()) as beside:
        assert list(beside.ready()) == []
        assert not beside.is_over
        may_go_on.set()
        assert list(beside.rest()) == [1]


def test_an_error_is_raised_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        msg = "no such slice"
        raise ValueError(msg)

    with Beside(items()) as beside:
        found = beside.rest()
        assert next(found) == 1
        with pytest.raises(ValueError, match="no such slice"):
            next(found)


def test_who_leaves_early_stops_it_at_its_next_item() -> None:
    started = threading.Event()
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10**9):
            made.append(item)
            started.set()
            yield item

    with Beside(items()):
        started.wait(10)
    count = len(made)
    assert count < 10**9
    assert len(made) == count, "it goes on"
