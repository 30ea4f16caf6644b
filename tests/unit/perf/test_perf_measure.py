"""Tasks: which processes they start in which cache folders, how answers are checked and errors kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from perf_fakes import SUBJECT, TRUTH, FakeLaunch, configuration

from perf.cases import Case
from perf.extras import extra_tasks
from perf.measure import Measurer
from perf.plan import REFERENCE, Configuration, Subject, Task, configurations

ONE = configuration()


def measured(measurer: Measurer, *tasks: Task) -> None:
    measurer.prime(ONE)
    for task in tasks:
        measurer.run(task)


def test_cold_runs_have_an_empty_cache_warm_ones_compiled_graphs_and_stored_ones_the_warm_run_s(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case))
    assert fake.cold == [True, True, False, False, False]  # prime, cold, warm, stored, second
    names = [key[3] for key in measurer.recorder.samples if key[-1] == "wall_s"]
    assert names == ["cold", "warm", "stored", "second"]


def test_a_cold_start_has_an_empty_cache_and_a_warm_one_has_not(measurer: Measurer, fake: FakeLaunch) -> None:
    measured(measurer, Task("start", "cold", ONE), Task("start", "warm", ONE))
    assert fake.cold == [True, True, False]
    assert measurer.recorder.samples["openvino auto", "", "start", "warm", "compile_ms"] == [1.5]


def test_no_cache_folder_of_a_measurement_is_left_behind(measurer: Measurer, tiny_case: Case) -> None:
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case), Task("floor", "floor"))
    assert not list(measurer.folder.glob("cache-*"))


def test_the_command_line_is_given_case_and_configuration(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case))
    arguments = fake.commands[1][3:]  # after the interpreter, -c and its text
    assert arguments[:3] == [str(tiny_case.path), "--box", "1,1,1,2,3,2"]
    assert arguments[3:8] == ["--backend", "openvino", "--precision", "auto", "--json"]


def test_what_a_process_cost_is_noted_per_kind_and_round(measurer: Measurer, tiny_case: Case) -> None:
    task = Task("processes", configuration=ONE, case=tiny_case)
    measured(measurer, task, task)
    samples = measurer.recorder.samples
    assert samples["openvino auto", "tiny", "process", "warm", "wall_s"] == [3.0, 7.0]
    assert samples["openvino auto", "tiny", "process", "warm", "cpu_s"] == [1.5, 3.5]
    assert samples["openvino auto", "tiny", "process", "warm", "peak_rss_bytes"] == [3000, 7000]


def test_all_samples_of_the_stages_are_kept(measurer: Measurer, tiny_case: Case) -> None:
    measured(measurer, Task("stages", configuration=ONE, case=tiny_case))
    assert measurer.recorder.samples["openvino auto", "tiny", "stage", "propagate_ms"] == [20.0, 30.0]
    assert measurer.recorder.counts["openvino auto", "tiny"] == {"slices_encoded": 3.0, "prompts_decoded": 4.0}


def test_equal_answers_pass_and_the_first_one_is_kept(measurer: Measurer, tiny_case: Case) -> None:
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case), Task("stages", "", ONE, tiny_case))
    answer = measurer.recorder.answers["openvino auto", "tiny"]
    assert answer.path.is_file()
    assert answer.voxels == {"1": int(TRUTH.sum())}
    assert not measurer.recorder.errors


def test_a_run_with_another_answer_fails_the_case_and_ends_its_measuring(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case))
    fake.label_map = np.where(np.arange(5)[:, None] == 1, 0, TRUTH).astype(np.uint8)
    stages = Task("stages", configuration=ONE, case=tiny_case)
    measurer.run(stages)
    message = measurer.recorder.errors["openvino auto", "tiny"]
    assert message == "two runs gave different label maps (smallest Dice between them 0.8000)"
    started = len(fake.commands)
    measurer.run(stages)
    assert len(fake.commands) == started


def test_a_configuration_that_does_not_open_fails_with_its_message_and_is_not_measured(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    fake.refuse = lambda command: "bundle 'tiny' has no INT8 graphs" if "perf.worker" in command else None
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case), Task("start", "cold", ONE))
    assert measurer.recorder.errors == {("openvino auto", ""): "bundle 'tiny' has no INT8 graphs"}
    assert len(fake.commands) == 1


def test_a_case_that_fails_leaves_the_other_cases_of_the_configuration_alone(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    fake.refuse = lambda command: "out of memory" if "--json" in command else None
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case), Task("start", "cold", ONE))
    assert measurer.recorder.errors == {("openvino auto", "tiny"): "out of memory"}
    assert ("openvino auto", "", "start", "cold", "start_ms") in measurer.recorder.samples


def test_a_missing_engine_leaves_the_floor_out_and_the_rest_in(measurer: Measurer, fake: FakeLaunch) -> None:
    fake.refuse = lambda command: "No module named 'openvino'" if "openvino" in command[-1] else None
    for _ in range(2):
        measurer.run(Task("floor", "interpreter"))
        measurer.run(Task("floor", "floor"))
    assert measurer.recorder.errors == {("", "floor"): "No module named 'openvino'"}
    assert [key[3] for key in measurer.recorder.samples if key[-1] == "wall_s"] == ["interpreter"]
    assert measurer.capabilities() is None


def test_a_precision_that_auto_stands_for_is_measured_once(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    same = configuration("openvino fp32", "fp32")
    measured(measurer)
    measurer.prime(same)
    assert measurer.recorder.same_as == {"openvino fp32": "openvino auto"}
    started = len(fake.commands)
    measurer.run(Task("processes", configuration=same, case=tiny_case))
    assert len(fake.commands) == started


def test_the_second_box_is_asked_for_where_the_warm_run_stored_its_embeddings(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case))
    assert [command[command.index("--box") + 1] for command in fake.commands[1:]] == ["1,1,1,2,3,2"] * 3 + [
        "1,1,1,2,2,2"
    ]
    assert set(measurer.recorder.answers) == {("openvino auto", "tiny"), ("openvino auto", "tiny second")}


def test_the_reference_is_prepared_once_and_runs_cold_and_warm_on_its_own_file_format(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    reference = Configuration(SUBJECT, REFERENCE, "default", None, "reference")
    measurer.prime(reference)
    measurer.run(Task("processes", configuration=reference, case=tiny_case))
    assert [("--prepare" in command, "--box" in command) for command in fake.commands] == [(True, False)] + [
        (False, False)
    ] * 2
    assert fake.cold == [True, True, False]
    assert measurer.recorder.samples["reference", "tiny", "stage", "encode_per_slice_ms"] == [9.0]
    assert measurer.recorder.opened["reference"].precision == "bf16"
    assert not measurer.recorder.errors


def test_a_limit_of_instructions_reaches_the_process_and_makes_another_configuration(
    measurer: Measurer, fake: FakeLaunch
) -> None:
    limited = Configuration(SUBJECT, "openvino", "auto", None, "openvino auto AVX2", "AVX2")
    measured(measurer)
    measurer.prime(limited)
    assert not measurer.recorder.same_as
    assert [variables.get("ONEDNN_MAX_CPU_ISA") for variables in fake.variables] == [None, "AVX2"]


def test_the_caches_of_the_user_are_never_used(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case, cache_folder: Path
) -> None:
    measured(measurer, Task("processes", configuration=ONE, case=tiny_case), Task("floor", "import"))
    assert not cache_folder.exists()


def test_extras_are_asked_of_their_workers_and_noted(
    measurer: Measurer, fake: FakeLaunch, tiny_bundle: Path, tmp_path: Path
) -> None:
    subject = Subject("tiny", str(tiny_bundle), tiny_bundle, tiny_bundle)
    (one,) = configurations([subject], ("openvino",), ("fp32",))
    measurer.labelled = tmp_path
    measurer.prime(one)
    for task in extra_tasks([one], roofline=True, labelled=True):
        measurer.run(task)
    assert not measurer.recorder.errors
    assert measurer.recorder.peaks == measurer.recorder.baselines == {"worker": "found this"}
    assert set(measurer.recorder.graphs) == {("openvino fp32", "encoder"), ("openvino fp32", "decoder")}
    graphs = [json.loads(command[-1])["graph"] for command in fake.commands if "graph" in command[-1]]
    assert graphs == [str(tiny_bundle / "encoder.onnx"), str(tiny_bundle / "decoder.onnx")]
    assert list(measurer.recorder.labelled) == ["openvino fp32"]


def test_an_extra_that_fails_is_noted_and_the_rest_goes_on(measurer: Measurer, fake: FakeLaunch) -> None:
    fake.refuse = lambda command: "no such folder" if "perf.labelled_worker" in command else None
    measured(measurer, Task("labelled", configuration=ONE), Task("peaks"))
    assert measurer.recorder.errors == {("openvino auto", "labelled"): "no such folder"}
    assert measurer.recorder.peaks is not None
