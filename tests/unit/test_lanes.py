"""Iterators on one lane or two: order, groups, errors, being left early."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from runtime._lanes import Lanes


def nothing(_: int = 0) -> None:
    """Take no notice."""


def test_one_lane_takes_groups_in_order_and_what_they_add_first() -> None:
    told: list[object] = []
    lanes: Lanes[int] = Lanes(1)

    def more() -> None:
        told.append("end of the first")
        lanes.add([iter([10, 11]), iter([20])], told.append, lambda: told.append("end of both"), soon=True)

    lanes.add([iter([1, 2])], told.append, more)
    lanes.add([iter([30])], told.append, lambda: told.append("end of the last"))
    lanes.run()
    assert told == [1, 2, "end of the first", 10, 11, 20, "end of both", 30, "end of the last"]


@pytest.mark.parametrize("count", [1, 2])
def test_every_item_is_told_in_its_order_on_the_callers_thread(count: int) -> None:
    told: dict[int, list[int]] = {number: [] for number in range(20)}
    threads: set[int] = set()
    ends: list[int] = []
    lanes: Lanes[int] = Lanes(count)

    def take(number: int) -> Callable[[int], None]:
        def one(item: int) -> None:
            threads.add(threading.get_ident())
            told[number].append(item)

        return one

    for number in range(0, 20, 2):
        pair = [iter(range(100)), iter(range(100, 150))]
        lanes.add(pair, take(number), lambda number=number: ends.append(number))  # type: ignore[misc]
    lanes.run()
    assert threads == {threading.get_ident()}
    assert sorted(ends) == list(range(0, 20, 2))
    for number in range(0, 20, 2):
        assert [item for item in told[number] if item < 100] == list(range(100))
        assert [item for item in told[number] if item >= 100] == list(range(100, 150))


def test_two_lanes_work_at_once() -> None:
    """Each waits for the other, which one lane alone could not."""
    meeting = threading.Barrier(2)
    idle: list[bool] = []
    lanes: Lanes[int] = Lanes(2)

    def items() -> Iterator[int]:
        meeting.wait(10)
        idle.append(lanes.has_idle)
        meeting.wait(10)
        yield 1

    taken: list[int] = []
    lanes.add([items(), items()], taken.append, nothing)
    assert lanes.has_idle
    lanes.run()
    assert taken == [1, 1]
    assert idle == [False, False]
    assert lanes.has_idle


def test_the_other_lane_goes_on_with_the_next_group() -> None:
    """While one walk of a group takes long, whoever is free does the next group."""
    is_done = threading.Event()
    lanes: Lanes[str] = Lanes(2)
    told: list[str] = []

    def long() -> Iterator[str]:
        assert is_done.wait(10)
        yield "long"

    def short() -> Iterator[str]:
        is_done.set()
        yield "short"

    lanes.add([long()], told.append, nothing)
    lanes.add([short()], told.append, nothing)
    lanes.run()
    assert sorted(told) == ["long", "short"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_reaches_the_caller(count: int) -> None:
    def items() -> Iterator[int]:
        yield 1
        msg = "no such slice"
        raise ValueError(msg)

    lanes: Lanes[int] = Lanes(count)
    lanes.add([items(), items()], nothing, nothing)
    with pytest.raises(ValueError, match="no such slice"):
        lanes.run()
    assert not [one for one in threading.enumerate() if one.name == "lite-infer walk"]


def test_an_error_of_what_is_told_stops_the_other_lane_at_its_next_item() -> None:
    made: list[int] = []
    started = threading.Event()

    def endless() -> Iterator[int]:
        for item in range(10**9):
            made.append(item)
            started.set()
            yield item

    def one() -> Iterator[int]:
        started.wait(10)
        yield -1

    def take(item: int) -> None:
        if item < 0:
            raise ZeroDivisionError("from the caller")

    lanes: Lanes[int] = Lanes(2)
    lanes.add([endless()], take, nothing)
    lanes.add([one()], take, nothing)
    with pytest.raises(ZeroDivisionError, match="from the caller"):
        lanes.run()
    count = len(made)
    assert count < 10**9
    assert len(made) == count, "it goes on"


def test_an_interrupt_while_the_other_lane_starts_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    lanes: Lanes[int] = Lanes(2)
    lanes.add([iter([1])], nothing, nothing)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lanes.run()
    assert not [one for one in threading.enumerate() if one.name == "lite-infer walk"]
