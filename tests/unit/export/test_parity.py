"""The table of all systems: which are in it, how it is laid out, and that what falls short is not passed over."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

import export.parity
from export import cli
from export.families import FAMILIES
from export.parity import Outcome, systems_of, table_rows
from export.parity_command import summary_lines
from export.verify import Check
from runtime.errors import BundleError, CheckpointError


def folder_of(path: Path, *systems: str) -> Path:
    for system in systems:
        (path / system).mkdir(parents=True)
        (path / system / "case_0.npz").write_bytes(b"")
    (path / "make_checkpoint.py").write_text("")
    return path


def checks(worst: float = 1e-6) -> tuple[Check, ...]:
    return (
        Check("case_0", "-", "encoder_input", 0.0, 0.0),
        Check("loop_3d", "-", "segs", 0.0, 0.0),
        Check("case_0", "openvino", "embedding", 2e-6, 1e-3),
        Check("case_0", "onnxruntime", "embedding", worst, 1e-3),
    )


def test_systems_come_in_the_order_of_the_families_large_ones_when_asked_and_unknown_ones_last(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "unheard_of", "rep_medsam", "medsam", "lite_medsam")
    assert systems_of(folder) == ["lite_medsam", "rep_medsam", "unheard_of"]
    assert systems_of(folder, large=True) == ["lite_medsam", "medsam", "rep_medsam", "unheard_of"]
    assert systems_of(folder, wanted=["medsam", "medsam"]) == ["medsam"]
    with pytest.raises(BundleError, match="has no goldens of daft; it has those of lite_medsam, medsam"):
        systems_of(folder, wanted=["daft"])


def test_every_family_has_goldens(conformance: Path) -> None:
    assert set(FAMILIES) <= set(systems_of(conformance, large=True))


def test_a_folder_without_goldens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"wanted make_checkpoint\.py and a folder with manifest\.json and case_0\.npz"
    ):
        systems_of(tmp_path)


def test_backends_stand_side_by_side() -> None:
    rows = table_rows(Outcome("lite_medsam", checks(5e-2)))
    assert [(row.case, row.stage, row.found, row.passed) for row in rows] == [
        ("case_0", "encoder_input", {"-": 0.0}, True),
        ("case_0", "embedding", {"openvino": 2e-6, "onnxruntime": 5e-2}, False),
        ("loop_3d", "segs", {"-": 0.0}, True),
    ]


def test_the_summary_shows_the_worst_and_what_is_no_number() -> None:
    lines = summary_lines([Outcome("a", checks(3e-4)), Outcome("b", checks(math.nan)), Outcome("c", (), "no family")])
    assert lines[2].startswith("| a | 0 | 3.0e-04 |")
    assert lines[2].endswith("| 0 | 4 of 4 |")
    assert lines[3].startswith("| b | 0 | nan |")
    assert lines[3].endswith("| 3 of 4 |")
    assert lines[4].endswith("| does not convert |")


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Goldens of two systems; the bundle of one passes, that of the other cannot be made."""

    def make(folder: Path, system: str, work: Path, **_: object) -> Path:
        assert work.is_dir()
        if system == "daft":
            msg = "daft does not fit"
            raise CheckpointError(msg)
        return work / system

    monkeypatch.setattr(export.parity, "make_bundle", make)
    monkeypatch.setattr(export.parity, "verify", lambda bundle, goldens, backends: checks())
    return folder_of(tmp_path / "goldens", "lite_medsam", "daft")


def test_the_command_prints_every_row_and_fails_when_a_system_does(
    replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["parity", str(replayed), "--markdown", str(tmp_path / "table.md")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["system", "case", "stage", "limit", "no", "engine", "openvino", "onnxruntime"]
    assert lines[2].split() == ["lite_medsam", "case_0", "embedding", "1.0e-03", "2.0e-06", "1.0e-06", "ok"]
    assert lines[4].split()[:2] == ["daft", "FAILED"]
    assert lines[4].endswith("daft does not fit")
    text = (tmp_path / "table.md").read_text()
    assert "| lite_medsam | case_0 | embedding | 1.0e-03 |  | 2.0e-06 | 1.0e-06 | ok |" in text
    assert "does not convert" in text
    assert cli.main(["parity", str(replayed), "--system", "lite_medsam"]) == 0


def test_json_holds_the_rows_and_the_failures(replayed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["parity", str(replayed), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["failures"] == {"daft": "daft does not fit"}
    assert len(told["rows"]) == 3
    assert told["passed"] is False
