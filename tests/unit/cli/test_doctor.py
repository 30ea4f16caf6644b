"""lite-infer doctor: what a bug report needs, nothing that names anybody, and what is broken said in words."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

import runtime
from runtime import _doctor, bundle
from runtime._cli_doctor import doctor_report
from runtime.backends import ov
from runtime.cli import main
from runtime.errors import BackendUnavailable
from runtime.io import decoders


def _found(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["doctor", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of jdoe on DOE-LAPTOP, whose models are on a share named after the computer."""
    home = tmp_path / "home" / "jdoe"
    share = tmp_path / "DOE-LAPTOP" / "models"
    (share / "miller_case").mkdir(parents=True)
    (share / "miller_case" / "manifest.json").write_text("{}")
    home.mkdir(parents=True)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(home))
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "jdoe")
    monkeypatch.setattr("platform.node", lambda: "DOE-LAPTOP")
    monkeypatch.setenv("LITE_INFER_CACHE", str(home / "cache"))
    monkeypatch.setenv("LITE_INFER_MODELS", str(share))
    return home


def test_everything_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    found = _found(capsys)
    assert found["doctor_version"] == 1
    assert found["lite_infer"] == runtime.__version__
    assert found["extension"] is True
    assert found["default_bundle"]["intact"] is True
    assert {one["name"] for one in found["backends"]} == {"openvino", "onnxruntime"}
    for one in found["backends"]:
        assert one["version"] is None or ("fp32" in one["precisions"] and one["auto"] in ("fp32", "bf16", "int8"))
    readable = {one["name"]: one["readable"] for one in found["decoders"]}
    assert len(readable) >= 16
    assert readable["Explicit VR Little Endian"]
    assert found["cpu"]["threads"] >= 1
    assert found["packages"]["numpy"]
    assert found["problems"] == []


def test_the_report_says_what_the_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    found = _found(capsys)
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert report.startswith(f"lite-infer {runtime.__version__}, ")
    assert report.rstrip().endswith("no problem found")
    for one in found["decoders"]:
        assert f"{one['uid']} {one['name']}: " in report
    for one in found["backends"]:
        assert f"backend     {one['name']}" in report
    assert found["cache"]["directory"] in report


@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--json")])
def test_nobody_is_named_and_nothing_written(
    person: Path, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(list(words)) == 0
    out, err = capsys.readouterr()
    for secret in ("jdoe", "doe-laptop", "miller", str(person).lower()):
        assert secret not in (out + err).lower()
    assert re.search(r"~[\\/]+cache", out)
    assert re.search(r"HOST[\\/]+models", out)
    assert sorted(tmp_path.rglob("*")) == before


def test_bundles_of_the_user_are_counted(person: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first, *_) = _found(capsys)["models"]
    assert first["exists"] is True
    assert first["bundles"] == 1


def test_what_only_looks_like_a_private_name_stays(person: Path) -> None:
    names = _doctor._private_names()
    for text in ("jdoes/x", "numpy 2.0", f"{person}x/y", f"x{person}"):
        assert "~" not in str(_doctor._without(text, names))
    assert _doctor._without([f"({person})"], names) == ["(~)"]


def test_a_missing_extension_is_a_problem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "runtime._kernels", None)
    found = _found(capsys, 1)
    assert found["extension"] is False
    assert "extension does not load" in found["problems"][0]


def test_an_engine_that_does_not_load_is_a_problem_and_the_rest_is_still_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> frozenset[str]:
        raise BackendUnavailable("backend openvino does not load (no library)")

    monkeypatch.setattr(ov, "capabilities", broken)
    monkeypatch.setattr(_doctor, "installed_backends", lambda: ("openvino", "onnxruntime"))
    monkeypatch.setattr(_doctor, "_version", lambda name: "1.0")
    found = _found(capsys, 1)
    assert found["problems"] == ["backend openvino does not load (no library)"]
    assert found["backends"][0]["precisions"] == []
    assert found["backends"][1]["precisions"] == ["fp32", "int8"]
    report = doctor_report(found)
    assert "backend     openvino 1.0: does not work" in report
    assert "PROBLEM     backend openvino does not load (no library)" in report


def test_no_engine_at_all_is_a_problem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_doctor, "installed_backends", lambda: ())
    assert "pip install openvino" in _found(capsys, 1)["problems"][0]


def test_a_damaged_default_bundle_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "models" / "default"
    shutil.copytree(Path(bundle.__file__).parent / "models" / "default", copy)
    with (copy / "encoder.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xaa\x55\xaa\x55")
    monkeypatch.setattr(bundle, "_packaged_folder", lambda: tmp_path / "models")
    found = _found(capsys, 1)
    assert found["default_bundle"]["intact"] is False
    assert "encoder.onnx: sha256" in found["problems"][0]


def test_a_cache_that_cannot_be_written_or_found_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LITE_INFER_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot be written" in _found(capsys, 1)["problems"][0]
    monkeypatch.setenv("LITE_INFER_CACHE", "~nobody_of_that_name/cache")
    found = _found(capsys, 1)
    assert found["cache"] is None
    assert "home folder is unknown" in found["problems"][0]


def test_a_decoder_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    lacking = {each.name: each.package for each in decoders.transfer_syntaxes() if not each.readable}
    assert "JPEG Extended (Process 2 and 4), 12 bits" in lacking
    assert set(lacking.values()) == {"imagecodecs"}


def test_packages_are_those_that_the_distribution_asks_for() -> None:
    lines = [
        "numpy>=1.26",
        "torch>=2.7; extra == 'export'",
        'pyjpegls>=1.4 ; extra == "dicom"',
        "lite-infer[dicom]; extra == 'test'",
        "pytest>=8.0; extra == 'test'",
        'tomli; python_version < "3.11" and extra == "merge"',
    ]
    assert _doctor.wanted_packages(lines) == ["numpy", "pyjpegls", "tomli", "torch"]


def test_installed_packages_have_their_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_doctor.importlib.metadata, "requires", lambda name: ["numpy>=1", "absent; extra == 'x'"])
    assert _found(capsys)["packages"] == {"absent": None, "numpy": numpy.__version__}
