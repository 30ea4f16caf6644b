"""Values computed ahead: once each, on another thread, kept within a number of bytes."""

from __future__ import annotations

import threading

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
    ahead, calls = made()
    ahead.start(1)
    ahead.start(2)  # one at a time
    assert (ahead.get(1), ahead.get(1), ahead.get(2)) == (10, 10, 20)
    assert calls == [(1, "lite-infer encoder"), (2, "MainThread")]


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


def test_values_used_last_are_kept_within_the_limit_and_two_whatever_their_size() -> None:
    ahead, calls = made(limit_bytes=60)
    for position in (1, 2, 3):
        ahead.get(position)
    ahead.get(1)
    ahead.get(4)  # 10 + 20 + 30 + 40: 2 and 3, used longest ago, go
    assert [ahead.get(1), ahead.get(4)] == [10, 40]
    ahead.get(3)
    assert [position for position, _ in calls] == [1, 2, 3, 4, 3]
    ahead.get(50)
    ahead.get(60)
    assert (ahead.get(50), ahead.get(60), len(calls)) == (500, 600, 7)
