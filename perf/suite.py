"""Run rounds of tasks until they are done, time is over, or somebody presses Ctrl-C.

Knows tasks and a measurer; knows neither processes nor formats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from perf.cases import Case
from perf.plan import Configuration, Task, rounds
from perf.processes import OutOfTime
from perf.records import Stopped

__all__ = ["Measures", "Outcome", "Progress", "deadline", "run_suite"]


class Measures(Protocol):
    """What the suite needs of a measurer."""

    def prime(self, one: Configuration, cases: Sequence[Case]) -> None:
        """Prepare a configuration for its cases."""

    def run(self, task: Task) -> None:
        """Measure a task once."""


Progress = Callable[[str, int, int], None]
"""(what comes next, tasks done, tasks in all)"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of the suite ended."""

    rounds: int
    stopped: Stopped | None


def run_suite(
    measurer: Measures,
    chosen: Sequence[Configuration],
    cases: Sequence[Case],
    *,
    repeat: int,
    once: float | None = None,
    extras: Sequence[Task] = (),
    time_left: Callable[[], float] = lambda: float("inf"),
    progress: Progress | None = None,
    kept: Callable[[int], None] = lambda _rounds: None,
) -> Outcome:
    """Measure every task ``repeat`` times, then ``extras`` once; ``rounds`` of the outcome counts the complete ones.

    What took longer than ``once`` seconds is not measured again. ``kept`` is called after every round. Ctrl-C is not an
    error here: it ends the run, and what was measured before it stays with the measurer.
    """
    complete = done = 0
    slow: set[tuple[str, ...]] = set()
    every = list(rounds(chosen, cases, repeat))
    total = len(chosen) + sum(len(tasks) for tasks in every) + len(extras)
    tell = progress or (lambda _title, _done, _total: None)
    try:
        for one in chosen:
            tell(f"{one.name} prepare", done, total)
            measurer.prime(one, [case for case in cases if one.takes(case)])
            done += 1
        for number, tasks in enumerate([*every, list(extras)], start=1):
            for task in tasks:
                if time_left() <= 0:
                    return Outcome(complete, "time limit")
                tell(task.title(), done, total)
                if task.key() not in slow:
                    begun = time.monotonic()
                    measurer.run(task)
                    if once is not None and time.monotonic() - begun > once:
                        slow.add(task.key())
                done += 1
            complete = min(number, len(every))
            kept(complete)
    except KeyboardInterrupt:
        return Outcome(complete, "interrupted")
    except OutOfTime:
        return Outcome(complete, "time limit")
    return Outcome(complete, None)


def deadline(seconds: float | None) -> Callable[[], float]:
    """Seconds left of a limit that starts now; None is no limit."""
    if seconds is None:
        return lambda: float("inf")
    until = time.monotonic() + seconds
    return lambda: until - time.monotonic()
