"""Two runs side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from perf_fakes import case_figures, configuration_figures, machine, processes, report

import runtime.cli
from perf.compare import compare
from perf.records import Report, encode_report


def run(*walls: float, subject: str = "tiny", **changes: object) -> Report:
    own = configuration_figures("openvino auto", "openvino", [case_figures("ct-1", warm=walls)], subject=subject)
    return report([own], floor=processes(floor=(0.4, 0.41, 0.4)), **changes)


def test_ratios_come_with_medians_intervals_and_a_verdict() -> None:
    text = compare(run(2.0, 2.1, 2.2), run(1.0, 1.1, 1.05))
    (line,) = [line for line in text.splitlines() if "warm, wall" in line]
    assert line.split()[-6:] == ["2.1", "1.05", "0.500", "0.455-0.550", "B", "less"]
    (line,) = [line for line in text.splitlines() if line.startswith("floor / floor")]
    assert "1.000" in line
    assert "B" not in line


def test_a_difference_within_the_noise_has_no_verdict() -> None:
    text = compare(run(1.0, 1.2, 1.4), run(1.1, 1.3, 1.2))
    (line,) = [line for line in text.splitlines() if "warm, wall" in line]
    assert not line.endswith(("less", "more"))


def test_a_single_sample_has_a_ratio_and_no_interval() -> None:
    text = compare(run(1.0), run(3.0))
    (line,) = [line for line in text.splitlines() if "warm, wall" in line]
    assert line.split()[-2:] == ["3.000", "-"]


def test_other_bundles_and_other_images_are_not_compared() -> None:
    assert "warm, wall" not in compare(run(1.0), run(1.0, subject="other"))
    assert "warm, wall" not in compare(run(1.0), run(1.0, sha256="cd" * 32))


def test_differences_of_machine_and_software_are_said() -> None:
    other = run(1.0, machine_=machine(cpu="B CPU", packages={"numpy": "2.1"}, environment={"OMP_NUM_THREADS": "1"}))
    text = compare(run(1.0), other)
    assert "not the same: numpy 2.0 -> 2.1, variables none -> {'OMP_NUM_THREADS': '1'}" in text
    assert "different machines" in text
    assert "different machines" not in compare(run(1.0), run(1.0))


def test_the_command_reads_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, one in (("a.json", run(2.0)), ("b.json", run(1.0))):
        (tmp_path / name).write_text(encode_report(one), encoding="utf-8")
    assert runtime.cli.main(["perf", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "0.500" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{}", "no JSON", "\x00"])
def test_a_file_that_is_no_report_is_refused_in_one_line(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert runtime.cli.main(["perf", "compare", str(path), str(path)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "wanted a JSON file" in line
