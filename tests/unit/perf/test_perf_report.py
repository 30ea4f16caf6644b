"""From samples to the JSON file and the table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from perf_fakes import TRUTH, FakeLaunch, configuration, machine

from perf.cases import Case
from perf.measure import Measurer
from perf.plan import Configuration, Task
from perf.records import PERF_VERSION, Report, decode_report, encode_report
from perf.report import Context, build_report, check_writable, write_text
from perf.suite import Outcome, run_suite
from perf.table import format_report
from runtime.errors import OutputError

AUTO, FP32 = configuration(), configuration("openvino fp32", "fp32")
CHOSEN = (AUTO, FP32)


def report_of(
    measurer: Measurer, case: Case, outcome: Outcome | None = None, chosen: tuple[Configuration, ...] = CHOSEN
) -> Report:
    context = Context(machine(), chosen, [case], {"repeat": 2}, [("/data/Doe.nii", "file-1")])
    return build_report(measurer.recorder, context, outcome or Outcome(2, None), 12.34)


@pytest.fixture
def report(measurer: Measurer, fake: FakeLaunch, tiny_case: Case) -> Report:
    """Two rounds of two configurations of different precision."""
    fake.precision = "bf16"
    run_suite(measurer, CHOSEN, [tiny_case], repeat=2)
    return report_of(measurer, tiny_case)


def test_the_json_file_reads_back_as_it_was_written(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_text(path, encode_report(report))
    assert decode_report(path.read_text(encoding="utf-8")) == report
    assert [each.name for each in tmp_path.glob("*out*")] == ["out.json"]


def test_the_json_has_the_documented_layout(report: Report) -> None:
    data = json.loads(encode_report(report))
    assert data["perf_version"] == PERF_VERSION == 2
    assert set(data) == set(Report.__struct_fields__)
    assert set(data["floor"]) == {"interpreter", "import", "floor"}
    first = data["configurations"][0]
    assert (first["precision"], first["precision_used"], first["threads"], first["threads_used"]) == (
        "auto",
        "bf16",
        None,
        2,
    )
    assert first["start"]["warm"]["start_ms"] == {"median": 1.5, "min": 1.5, "max": 1.5, "n": 2, "samples": [1.5, 1.5]}
    (case,) = first["cases"]
    assert case["status"] == "ok"
    assert set(case["processes"]) == {"cold", "warm", "stored", "second"}
    assert case["stages"]["encode_per_slice_ms"]["median"] == 4.0
    assert case["stages"]["encode_per_slice_ms"]["n"] == 4
    assert case["counts"] == {"slices_encoded": 3.0, "prompts_decoded": 4.0}


def test_every_field_of_the_layout_is_in_the_documentation() -> None:
    from perf import records

    text = (Path(records.__file__).parent / "README.md").read_text(encoding="utf-8")
    structs = [each for each in vars(records).values() if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    names = {name for struct in structs if struct is not msgspec.Struct for name in struct.__struct_fields__}
    assert len(names) > 40
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_answers_are_compared_with_float32_and_with_the_truth(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    fake.precision = "bf16"
    measurer.prime(AUTO)
    measurer.prime(FP32)
    smaller = np.where(np.arange(5)[:, None] == 1, 0, TRUTH).astype(np.uint8)  # two of three rows: Dice 0.8
    for one, label_map in ((AUTO, smaller), (FP32, TRUTH)):
        fake.label_map = label_map
        measurer.run(Task("processes", configuration=one, case=tiny_case))
    auto, fp32 = (one.cases[0].answer for one in report_of(measurer, tiny_case).configurations)
    assert auto is not None
    assert fp32 is not None
    assert auto.to_fp32 is not None
    assert (auto.to_fp32.reference, auto.to_fp32.dice_mean, auto.to_fp32.dice_min) == ("openvino fp32", 0.8, 0.8)
    assert fp32.to_fp32 is not None
    assert fp32.to_fp32.dice_min == 1.0
    assert auto.to_truth is not None
    assert auto.to_truth.dice_mean == 0.8


def test_without_a_float32_run_of_the_same_bundle_there_is_nothing_to_compare_with(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    fake.precision = "bf16"
    run_suite(measurer, [AUTO], [tiny_case], repeat=1)
    answer = report_of(measurer, tiny_case, chosen=(AUTO,)).configurations[0].cases[0].answer
    assert answer is not None
    assert answer.to_fp32 is None


def test_an_interrupted_run_makes_a_report_of_what_there_is(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    def interrupt(command: list[str]) -> str | None:
        if "--json" in command and sum("--json" in each for each in fake.commands) > 2:
            raise KeyboardInterrupt
        return None

    fake.refuse, fake.precision = interrupt, "bf16"
    outcome = run_suite(measurer, CHOSEN, [tiny_case], repeat=2)
    report = report_of(measurer, tiny_case, outcome)
    assert (report.stopped, report.rounds) == ("interrupted", 0)
    auto, fp32 = report.configurations
    assert (auto.status, auto.cases[0].status, set(auto.cases[0].processes)) == ("partial", "partial", {"cold", "warm"})
    assert (fp32.status, fp32.cases[0].status) == ("not measured", "not measured")
    text = format_report(report)
    assert "Stopped by Ctrl-C; - was not measured." in text
    assert decode_report(encode_report(report)) == report


def test_a_report_of_nothing_at_all_is_still_a_report(measurer: Measurer, tiny_case: Case) -> None:
    report = report_of(measurer, tiny_case, Outcome(0, "interrupted"))
    assert [one.status for one in report.configurations] == ["not measured", "not measured"]
    assert "0 complete rounds" in format_report(report)


def test_a_failing_case_is_reported_beside_the_others_and_without_the_user_s_paths(
    measurer: Measurer, fake: FakeLaunch, tiny_case: Case
) -> None:
    message = f"/data/Doe.nii: cannot be opened in {Path.home()}/scans"
    fake.refuse = lambda command: message if "--json" in command and "fp32" in command else None
    fake.precision = "bf16"
    run_suite(measurer, CHOSEN, [tiny_case], repeat=1)
    report = report_of(measurer, tiny_case)
    auto, fp32 = report.configurations
    assert auto.cases[0].status == "ok"
    assert (fp32.status, fp32.cases[0].status) == ("failed", "failed")
    assert fp32.cases[0].error == "file-1: cannot be opened in ~/scans"
    assert "openvino fp32, tiny: FAILED: file-1: cannot be opened in ~/scans" in format_report(report)


def test_a_duplicate_is_named_and_has_no_figures(measurer: Measurer, tiny_case: Case) -> None:
    run_suite(measurer, CHOSEN, [tiny_case], repeat=1)
    report = report_of(measurer, tiny_case)
    assert [one.status for one in report.configurations] == ["ok", "duplicate"]
    assert report.configurations[1].cases == ()
    assert "openvino fp32: the same as openvino auto here (fp32), measured once." in format_report(report)


def test_columns_of_the_table_are_aligned_and_hold_median_and_range(report: Report) -> None:
    lines = format_report(report).splitlines()
    head = next(at for at, line in enumerate(lines) if line.startswith("  whole process, s"))
    rows = lines[head : head + 3]
    assert len({len(row) for row in rows}) == 1
    end = rows[0].index("warm") + len("warm")
    assert re.search(r" \d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)$", rows[1][:end])
    assert rows[1].startswith("  openvino auto (bf16)")
    assert rows[2].startswith("  openvino fp32 ")


def test_one_sample_has_no_range(measurer: Measurer, tiny_case: Case) -> None:
    run_suite(measurer, [AUTO], [tiny_case], repeat=1)
    text = format_report(report_of(measurer, tiny_case, chosen=(AUTO,)))
    floor = next(line for line in text.splitlines() if line.startswith("  bare Python"))
    assert "(" not in floor


@pytest.mark.parametrize(("load", "shown"), [(3.9, True), (0.5, False), (None, False)])
def test_a_busy_machine_is_pointed_out(load: float | None, shown: bool, report: Report) -> None:
    busy = msgspec.structs.replace(report, machine=machine(load_average=load))
    assert ("do not compare these figures" in format_report(busy)) is shown


def test_a_folder_that_cannot_be_written_is_noticed_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="give --output FILE"):
        check_writable(tmp_path / "missing" / "out.json")
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable(tmp_path)
    check_writable(tmp_path / "out.json")


def test_a_file_that_cannot_be_replaced_is_a_clear_error_and_leaves_nothing(report: Report, tmp_path: Path) -> None:
    (tmp_path / "out.json").mkdir()
    with pytest.raises(OutputError, match="give --output FILE elsewhere"):
        write_text(tmp_path / "out.json", encode_report(report))
    assert not list(tmp_path.glob("*.tmp"))
