"""Options, exit codes, and one real run with a tiny bundle."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from perf_fakes import FakeLaunch

import runtime.cli
from perf import cases, cli
from perf.budget import GOALS
from perf.cases import UserFile
from perf.options import parse_options
from perf.records import decode_report
from perf.synthetic import grey_image


@pytest.fixture
def quick_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "grey_image", lambda: grey_image((64, 48)))


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick_cases: None, fake: FakeLaunch) -> FakeLaunch:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "launch", fake)
    fake.precision = "bf16"
    fake.label_map = np.ones((48, 64), np.uint8)
    return fake


ARGUMENTS = ["perf", "--cases", "grey-1-npz", "--repeat", "2", "--output", "out.json"]


def test_a_run_prints_the_table_and_writes_the_file(
    faked: FakeLaunch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime.cli.main(ARGUMENTS) == 0
    report = decode_report((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [one.name for one in report.configurations] == [
        *("reference", "reference fp32"),
        *("openvino auto", "openvino fp32", "onnxruntime auto", "onnxruntime fp32"),
    ]
    assert (report.rounds, report.stopped) == (2, None)
    output = capsys.readouterr()
    assert "grey-1-npz: drawn grey image 512x512, 1 box, challenge NPZ" in output.out
    assert output.out.endswith("written   out.json, out.html\n")
    assert output.err == ""


def test_json_goes_to_standard_output_when_asked_for(faked: FakeLaunch, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime.cli.main([*ARGUMENTS, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["perf_version"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_writes_what_was_measured_and_exits_with_130(
    number: signal.Signals,
    faked: FakeLaunch,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(command: list[str]) -> str | None:
        if len(faked.commands) > 12:
            signal.raise_signal(number)
        return None

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = signal.getsignal(number)
    faked.refuse = interrupt
    assert runtime.cli.main(ARGUMENTS) == 130
    report = decode_report((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert report.stopped == "interrupted"
    assert report.floor["interpreter"].wall_s.n == 1
    assert "Stopped by Ctrl-C" in capsys.readouterr().out
    assert not list(scratch.iterdir())
    assert signal.getsignal(number) == before


def test_what_cannot_be_measured_is_reported_and_exits_with_1(
    faked: FakeLaunch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faked.refuse = lambda command: "onnxruntime is not installed" if '"onnxruntime"' in command[-1] else None
    assert runtime.cli.main(ARGUMENTS) == 1
    assert "onnxruntime auto: FAILED: onnxruntime is not installed" in capsys.readouterr().out


def test_scratch_folders_are_removed(faked: FakeLaunch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert runtime.cli.main(ARGUMENTS) == 0
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "mri"], "case mri: wanted some of sample"),
        (["--backends", "torch"], "torch: wanted some of openvino, onnxruntime"),
        (["--backends", ""], "nothing: wanted some of openvino"),
        (["--precisions", "fp64"], "fp64: wanted some of auto"),
        (["--threads", "1,0"], "'0': wanted a whole number from 1"),
        (["--repeat", "none"], "'none': wanted a whole number from 1"),
        (["--box", "1,2,3,4"], "--box belongs to a file; give --file before it"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime.cli.main(["perf", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_file_that_cannot_be_read_or_written_ends_at_once_with_its_own_exit_code(
    faked: FakeLaunch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime.cli.main(["perf", "--file", "none.nii", "--box", "1,2,3,4"]) == 3
    assert runtime.cli.main(["perf", "--output", "missing/out.json"]) == 6
    assert not faked.commands
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_boxes_and_time_points_belong_to_the_file_before_them() -> None:
    text = "--file a.nii --box 1,2,3,4 --volume 1 --file b.npz --file c.nii --box 5,6,7,8 --box 9,9,9,9"
    options = parse_options(text.split())
    assert options.files == [
        UserFile(Path("a.nii"), ("1,2,3,4",), 1),
        UserFile(Path("b.npz")),
        UserFile(Path("c.nii"), ("5,6,7,8", "9,9,9,9")),
    ]
    assert options.cases == ()


def test_files_of_one_call_do_not_stay_for_the_next() -> None:
    parse_options(["--file", "a.nii"])
    assert parse_options([]).files == []


def test_quick_means_fewer_cases_one_engine_and_a_limit() -> None:
    quick, full = parse_options(["--quick"]), parse_options([])
    assert len(quick.cases) < len(full.cases)
    assert (quick.backends, full.backends) == (("openvino",), ("openvino", "onnxruntime"))
    assert (quick.references, full.references) == (("default",), ("default", "fp32"))
    assert quick.limit < 60
    assert full.limit is None
    assert parse_options(["--quick", "--limit", "10"]).limit == 10


def test_help_names_cases_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runtime.cli.main(["perf", "-h"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for expected in (*cases.CASE_NAMES, "--quick", "exit codes", "--file"):
        assert expected in text


@pytest.mark.usefixtures("quick_cases")
def test_a_real_run_with_a_tiny_bundle_measures_every_figure(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    monkeypatch.chdir(tmp_path)
    arguments = ["--cases", "grey-1", "--backends", "onnxruntime", "--precisions", "fp32", "--repeat", "1"]
    assert runtime.cli.main(["perf", *arguments, "--bundle", str(tiny_bundle)]) == 0
    text = (tmp_path / "lite-infer-perf.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert str(tiny_bundle) not in text
    report = decode_report(text)
    (one,) = report.configurations
    (case,) = one.cases
    assert (one.status, one.bundle.name if one.bundle else None, one.precision_used) == ("ok", "tiny", "fp32")
    assert all(figures.peak_rss_bytes is not None for figures in case.processes.values())
    assert case.counts == {"slices_encoded": 1.0, "prompts_decoded": 1.0, "second_prompts_decoded": 1.0}
    wanted = {"read_ms", "window_ms", "encode_per_slice_ms", "decode_per_box_ms", "propagate_ms", "write_ms"}
    assert wanted | {"import_ms", "start_ms", "stored_propagate_ms", "rest_ms"} <= set(case.stages)
    assert case.answer is not None
    assert case.answer.to_truth is not None
    assert case.answer.to_truth.dice_mean > 0.5


def test_a_missed_budget_is_shown_and_exits_with_1_and_a_met_one_with_0(
    faked: FakeLaunch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime.cli.main([*ARGUMENTS, "--budget", "grey-1-npz=1000"]) == 0
    assert runtime.cli.main([*ARGUMENTS, "--budget", "grey-1-npz=0.001", "--budget", "grey-1-npz=1000"]) == 1
    assert "MISSED" in capsys.readouterr().out
    report = decode_report((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [budget.met for budget in report.budgets] == [False, True]


def test_goals_are_shown_and_change_no_exit_code(
    faked: FakeLaunch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime.cli.main([*ARGUMENTS, "--goals"]) == 0
    report = decode_report((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert len(report.budgets) == len(GOALS)
    assert not any(budget.asked for budget in report.budgets)
    assert [budget.case for budget in report.budgets if budget.value is not None] == ["grey-1-npz"]
    assert "daft, ct-1-npz, warm <= reference x 0.667" in capsys.readouterr().out  # though it was not measured


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "ct-9=0.5"], "case ct-9 is not measured"),
        (["--budget", "grey-1-npz:hot=0.5"], "wanted [BUNDLE/]CASE"),
        (["--cases", "ct-1", "--budget", "ct-1=0.5"], "no reference is measured on ct-1"),
        (["--cases", "ct-1-npz", "--no-reference", "--budget", "ct-1-npz=0.5"], "no reference is measured"),
        (["--budget", "ct-1-npz=0.5*theirs"], "there is no peer theirs; give --peer theirs=COMMAND"),
        (["--skip", "nothing/*"], "skip 'nothing/*': nothing of that name is measured"),
        (["--isa", "AVX1024"], "AVX1024: wanted some of NATIVE"),
        (["--bundle", "default", "--plain", "default", "--plain", "default"], "2 bundles for the reference, but 1"),
    ],
)
def test_budgets_and_limits_that_cannot_be_are_refused_before_anything_is_measured(
    arguments: list[str], message: str, faked: FakeLaunch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime.cli.main(["perf", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not faked.commands


def test_a_peer_s_program_is_measured_beside_the_others_and_only_its_name_is_written(
    faked: FakeLaunch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "secret" / "theirs.py"
    peer = f"theirs='{sys.executable}' --weights='{program.parent / 'weights'}' '{program}' {{input}} {{output}}"
    arguments = [*ARGUMENTS, "--peer", peer, "--budget", "grey-1-npz=1*theirs"]
    assert runtime.cli.main(arguments) == 0
    report = decode_report((tmp_path / "out.json").read_text(encoding="utf-8"))
    (theirs,) = [one for one in report.configurations if one.backend == "peer"]
    assert (theirs.name, theirs.status, theirs.bundle, report.options["peers"]) == ("theirs", "ok", None, ["theirs"])
    assert theirs.cases[0].processes["warm"].wall_s.samples == (100.0, 100.0)
    assert theirs.cases[0].answer is not None
    assert [budget.against for budget in report.budgets] == ["theirs"]

    def fail(command: list[str]) -> str | None:
        return f"{program}: no {program.parent / 'weights'}" if str(program) in command else None

    faked.refuse = fail
    assert runtime.cli.main(arguments) == 1
    assert "theirs: FAILED: theirs: no theirs" in capsys.readouterr().out
    texts = [(tmp_path / name).read_text(encoding="utf-8") for name in ("out.json", "out.html")]
    assert not any(hidden in text for text in texts for hidden in ("secret", "weights", sys.executable))


def test_the_file_is_whole_after_every_round(faked: FakeLaunch, tmp_path: Path) -> None:
    seen: list[tuple[int, str | None]] = []

    def look(command: list[str]) -> str | None:
        if (tmp_path / "out.json").is_file():
            report = decode_report((tmp_path / "out.json").read_text(encoding="utf-8"))
            seen.append((report.rounds, report.stopped))
        return None

    faked.refuse = look
    assert runtime.cli.main(ARGUMENTS) == 0
    assert set(seen) == {(1, "interrupted")}  # of two rounds, the second finds what the first left


def test_everything_means_series_roofline_and_goals() -> None:
    full = parse_options(["--full"])
    assert set(cases.SCALING_CASES) <= set(full.cases)
    assert (full.roofline, full.goals) == (True, True)
    assert full.html == Path("lite-infer-perf.html")
