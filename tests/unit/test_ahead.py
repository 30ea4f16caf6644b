"""Values computed ahead: once each, on another thread, kept within a number of bytes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime._ahead import Ahead


def made(limit_bytes: int = 100) -> tuple[Ahead[int], list[tuple[int, str]]]:
    calls: list[tuple[int, str]] = []

    def make(position: int) -> int:
        calls.append((position, threading.current_thread().name))
        if position < 0:
            msg = "no such slice"
            raise ValueError(msg)
        return position * 10

    return Ahead(make, lambda value: value, limit_bytes), calls


def test_a_value_that_was_begun_is_waited_for_and_not_computed_twice() -> None:
    may_go_on = threading.Event()
    calls: list[tuple[int, str]] = []

    def make(position: int) -> int:
        calls.append((position, threading.current_thread().name))
        if position == 1:
            may_go_on.wait(10)
        return position * 10

    ahead = Ahead(make, lambda value: value, 100)
    ahead.start(1)
    ahead.start(2)  # one at a time
    assert ahead.get(2) == 20
    may_go_on.set()
    assert (ahead.get(1), ahead.get(1), ahead.get(2)) == (10, 10, 20)
    assert calls == [(1, "lite-infer encoder"), (2, "MainThread")]


def test_threads_that_ask_for_one_value_wait_for_who_was_first() -> None:
    calls: list[int] = []

    def make(position: int) -> int:
        calls.append(position)
        time.sleep(0.01)
        if position < 0:
            msg = "no such slice"
            raise ValueError(msg)
        return position * 10

    ahead = Ahead(make, lambda value: value, 10**6)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ahead.get, [*range(20)] * 4)) == [position * 10 for position in range(20)] * 4
        assert sorted(calls) == list(range(20))
        failed = [pool.submit(ahead.get, -1) for _ in range(8)]
    assert all(isinstance(one.exception(), ValueError) for one in failed)


def test_asking_for_another_value_loses_none() -> None:
    ahead, calls = made()
    ahead.start(1)
    assert (ahead.get(2), ahead.get(1)) == (20, 10)
    assert [position for position, _ in calls] == [1, 2]


def test_an_error_is_raised_where_the_value_is_asked_for_and_nowhere_else() -> None:
    ahead, _ = made()
    ahead.start(-1)
    with pytest.raises(ValueError, match="no such slice"):
        ahead.get(-1)
    ahead.start(-1)
    assert ahead.get(1) == 10
    ahead.start(-2)
    ahead.wait()


def test_values_used_last_are_kept_within_the_limit_and_four_whatever_their_size() -> None:
    ahead, calls = made(limit_bytes=150)
    for position in (1, 2, 3, 4):
        ahead.get(position)
    ahead.get(1)
    ahead.get(6)  # 10 + 20 + 30 + 40 + 60: 2, used longest ago, goes
    assert [ahead.get(position) for position in (1, 3, 4, 6)] == [10, 30, 40, 60]
    ahead.get(2)
    assert [position for position, _ in calls] == [1, 2, 3, 4, 6, 2]
    large = (50, 60, 70, 80)
    for position in large:
        ahead.get(position)
    assert [ahead.get(position) for position in large] == [500, 600, 700, 800]
    assert len(calls) == 10
