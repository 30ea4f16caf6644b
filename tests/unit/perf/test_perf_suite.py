"""Rounds, their order, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from perf_fakes import SUBJECT, configuration

from perf.cases import Case
from perf.peers import Peer
from perf.plan import FLOOR, Configuration, Subject, Task, check_patterns, configurations, rounds
from perf.processes import OutOfTime
from perf.suite import Outcome, deadline, run_suite
from runtime.errors import PromptError


@dataclass
class Notes:
    """Notes what it is asked to measure, and may be interrupted."""

    interrupt_at: int | None = None
    reason: type[BaseException] = KeyboardInterrupt
    primed: list[str] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)

    def prime(self, one: Configuration, cases: Sequence[Case]) -> None:
        self.primed.append(one.name)

    def run(self, task: Task) -> None:
        if len(self.tasks) == self.interrupt_at:
            raise self.reason
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


def test_a_process_that_is_out_of_time_ends_the_run_and_keeps_what_was_measured(tiny_case: Case) -> None:
    notes = Notes(interrupt_at=TASKS_A_ROUND + 2, reason=OutOfTime)
    assert run_suite(notes, [configuration()], [tiny_case], repeat=3) == Outcome(1, "time limit")


def test_extras_follow_the_rounds_and_the_file_is_kept_after_each(tiny_case: Case) -> None:
    notes, kept = Notes(), []
    outcome = run_suite(notes, [configuration()], [tiny_case], repeat=2, extras=[Task("peaks")], kept=kept.append)
    assert outcome == Outcome(2, None)
    assert notes.tasks[-1] == Task("peaks")
    assert kept == [1, 2, 2]


def test_what_takes_longer_than_asked_for_is_measured_once(tiny_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    now, slow = [0.0], "stages"
    monkeypatch.setattr("perf.suite.time.monotonic", lambda: now[0])

    class Slow(Notes):
        def run(self, task: Task) -> None:
            super().run(task)
            now[0] += 7.0 if task.kind == slow else 5.0

    notes = Slow()
    assert run_suite(notes, [configuration()], [tiny_case], repeat=3, once=6.0) == Outcome(3, None)
    kinds = [task.kind for task in notes.tasks]
    assert (kinds.count(slow), kinds.count("processes"), kinds.count("start")) == (1, 3, 6)


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


def test_configurations_are_all_combinations_under_different_names_each_bundle_after_its_references() -> None:
    subjects = [Subject("one", None, Path("a"), Path("a")), Subject("two", "/home/doe/bundle", Path("b"), Path("b"))]
    kinds = (("openvino", "onnxruntime"), ("auto", "fp32"), (1, 2), (None, "AVX2"))
    made = configurations(subjects, *kinds, references=("default", "fp32"))
    assert len({one.name for one in made}) == len(made) == 2 * (3 + 16)
    assert not any("/" in one.name for one in made)
    assert [one.name for one in made[:4]] == [
        *("reference one", "reference fp32 one", "reference fp32 one AVX2", "openvino auto one t1"),
    ]
    assert "openvino fp32 two t2 AVX2" in {one.name for one in made}


def test_defaults_are_left_to_the_program() -> None:
    (one,) = configurations([SUBJECT], ("openvino",), ("auto",))
    assert one.name == "openvino auto"
    assert one.arguments() == ["--backend", "openvino", "--precision", "auto"]
    assert one.variables() == {}


def test_bundle_modality_threads_and_limit_are_passed_on() -> None:
    subject = Subject("daft", "bundles/daft", Path("daft"), Path("daft"), "CT")
    (one,) = configurations([subject], ("openvino",), ("auto",), (3,), ("AVX2",))
    assert one.arguments()[-6:] == ["--bundle", "bundles/daft", "--modality", "CT", "--threads", "3"]
    assert one.variables() == {"ONEDNN_MAX_CPU_ISA": "AVX2"}


def test_the_reference_gets_no_start_no_stages_and_only_the_files_it_reads(tiny_case: Case) -> None:
    other = replace(tiny_case, path=Path("ct.nii.gz"))
    chosen = configurations([SUBJECT], ("openvino",), ("auto",), references=("default", "fp32"))
    (tasks,) = rounds(chosen, [tiny_case, other], 1)
    mine = [task for task in tasks if task.configuration is not None and task.configuration.is_reference]
    assert [(task.kind, task.case) for task in mine] == [("processes", tiny_case)] * 2


def test_a_peer_gets_one_process_a_case_of_the_files_it_reads_and_no_start(tiny_case: Case) -> None:
    other = replace(tiny_case, path=Path("ct.nii.gz"))
    chosen = configurations([SUBJECT], ("openvino",), ("auto",), peers=[Peer("theirs", ("a", "{input}", "{output}"))])
    (tasks,) = rounds(chosen, [tiny_case, other], 1)
    mine = [task for task in tasks if task.configuration is not None and task.configuration.peer is not None]
    assert [(task.kind, task.case, task.title()) for task in mine] == [
        ("processes", tiny_case, "theirs tiny processes"),
    ]


def test_patterns_leave_out_cases_and_parts_of_configurations(tiny_case: Case) -> None:
    skip = ["reference*/tiny", "openvino fp32/start", "openvino auto/t*y"]
    chosen = configurations([SUBJECT], ("openvino",), ("auto", "fp32"), references=("default", "fp32"), skip=skip)
    check_patterns(skip, chosen, [tiny_case.name])
    (tasks,) = rounds(chosen, [tiny_case], 1)
    mine = [(task.configuration.name, task.kind) for task in tasks if task.configuration is not None]
    assert mine == [
        *(("openvino auto", "start"), ("openvino auto", "start")),
        *(("openvino fp32", "processes"), ("openvino fp32", "stages")),
    ]
    with pytest.raises(PromptError, match=r"skip 'openvino bf16/\*': nothing of that name .* like 'reference/tiny'"):
        check_patterns(["openvino bf16/*"], chosen, [tiny_case.name])
