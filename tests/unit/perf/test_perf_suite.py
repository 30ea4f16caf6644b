"""Rounds, their order, and how they end."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from perf_fakes import configuration

from perf.cases import Case
from perf.plan import FLOOR, Configuration, Task, configurations, rounds
from perf.suite import Outcome, deadline, run_suite


@dataclass
class Notes:
    """Notes what it is asked to measure, and may be interrupted."""

    interrupt_at: int | None = None
    primed: list[str] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)

    def prime(self, one: Configuration) -> None:
        self.primed.append(one.name)

    def run(self, task: Task) -> None:
        if len(self.tasks) == self.interrupt_at:
            raise KeyboardInterrupt
        self.tasks.append(task)


TASKS_A_ROUND = len(FLOOR) + 2 + 2


def test_every_round_measures_every_task_once_and_alternate_rounds_run_backwards(tiny_case: Case) -> None:
    first, second, third = rounds([configuration()], [tiny_case], 3)
    assert len(first) == TASKS_A_ROUND
    assert len({(task.kind, task.name) for task in first}) == TASKS_A_ROUND
    assert second == first[::-1]
    assert third == first


def test_rounds_are_interleaved_rather_than_repeats_of_one_task(tiny_case: Case) -> None:
    notes = Notes()
    outcome = run_suite(notes, [configuration()], [tiny_case], repeat=3)
    assert outcome == Outcome(3, None)
    assert notes.primed == ["openvino auto"]
    positions = [at for at, task in enumerate(notes.tasks) if task.kind == "stages"]
    assert len(positions) == 3
    assert positions[1] - positions[0] == 1  # last of the first round, first of the second
    assert positions[2] - positions[1] > 1


def test_ctrl_c_ends_the_run_and_keeps_what_was_measured(tiny_case: Case) -> None:
    notes = Notes(interrupt_at=TASKS_A_ROUND + 2)
    assert run_suite(notes, [configuration()], [tiny_case], repeat=3) == Outcome(1, "interrupted")
    assert len(notes.tasks) == TASKS_A_ROUND + 2


def test_no_measurement_begins_when_time_is_over(tiny_case: Case) -> None:
    left = iter([5.0, 4.0, 0.0])
    notes = Notes()
    outcome = run_suite(notes, [configuration()], [tiny_case], repeat=3, time_left=lambda: next(left))
    assert outcome == Outcome(0, "time limit")
    assert len(notes.tasks) == 2


def test_a_limit_of_zero_seconds_is_over_at_once_and_no_limit_never_is() -> None:
    assert deadline(0)() <= 0
    assert deadline(None)() == float("inf")


def test_progress_counts_up_to_the_number_of_tasks(tiny_case: Case) -> None:
    told: list[tuple[int, int]] = []
    run_suite(
        Notes(),
        [configuration()],
        [tiny_case],
        repeat=2,
        progress=lambda _title, done, total: told.append((done, total)),
    )
    total = 1 + 2 * TASKS_A_ROUND
    assert told == [(done, total) for done in range(total)]


def test_configurations_are_all_combinations_under_different_names_without_paths() -> None:
    made = configurations(["/home/doe/bundle", None], ("openvino", "onnxruntime"), ("auto", "fp32"), (1, 2))
    assert len({one.name for one in made}) == 16
    assert not any("/" in one.name for one in made)
    assert "openvino fp32 b1 t2" in {one.name for one in made}


def test_defaults_are_left_to_the_program() -> None:
    (one,) = configurations([None], ("openvino",), ("auto",), (None,))
    assert one.name == "openvino auto"
    assert one.arguments() == ["--backend", "openvino", "--precision", "auto"]


@pytest.mark.parametrize(("bundle", "threads"), [("lite_medsam", 3)])
def test_a_bundle_and_a_number_of_threads_are_passed_on(bundle: str, threads: int) -> None:
    (one,) = configurations([bundle], ("openvino",), ("auto",), (threads,))
    assert one.arguments()[-4:] == ["--bundle", bundle, "--threads", "3"]
