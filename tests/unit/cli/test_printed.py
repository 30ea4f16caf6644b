"""``lite-infer FILE --box ...``: what is printed, for a program and for a person."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from command_line import Runner
from tiny_bundle import BOX, FLAT, SCENE_SHAPE, ball

import runtime
from runtime.command import run_command

SOLID = ",".join(map(str, BOX))
FLAT_TEXT = ",".join(map(str, FLAT))
WINDOW = ("--window", "127.5,255")
"""Pixels of the scene are 0 to 255: this window changes none of them."""


KEYS = {
    "summary_version": int,
    "lite_infer": str,
    "output": str,
    "outputs": list,
    "statistics": (str, type(None)),
    "preview": (str, type(None)),
    "bundle": str,
    "backend": str,
    "precision": str,
    "shape": list,
    "slice_axis": int,
    "window": (dict, type(None)),
    "warnings": list,
    "objects": list,
    "timings": dict,
}
OBJECT_KEYS = {"label", "name", "voxels", "volume_ml", "score", "slices"}
SLICE_KEYS = {"slice", "score", "area", "stop"}
TIMING_KEYS = {
    *(f"{stage}_ms" for stage in ("read", "start", "window", "encode", "decode", "segment", "write", "total")),
    "slices_encoded",
    "slices_cached",
    "prompts_decoded",
}


def test_the_json_summary_keeps_its_schema(run: Runner, volume_file: Path) -> None:
    done = run(volume_file, "--box", f"ball={FLAT_TEXT}", *WINDOW, "--json")
    data = done.json
    assert done.err == ""
    assert set(data) == set(KEYS)
    assert all(isinstance(data[key], kinds) for key, kinds in KEYS.items())
    assert (data["summary_version"], data["lite_infer"]) == (1, runtime.__version__)
    assert (data["bundle"], data["backend"], data["precision"]) == ("tiny 1.0", "onnxruntime", "fp32")
    assert data["output"] == str(volume_file.parent / "scan_seg.nii.gz")
    assert data["preview"] is None
    assert data["shape"] == list(SCENE_SHAPE)
    assert data["window"] == {"level": 127.5, "width": 255, "lower": 0, "upper": 255, "origin": "explicit"}
    (one,) = data["objects"]
    assert set(one) == OBJECT_KEYS
    assert (one["label"], one["name"], one["voxels"], one["score"]) == (1, "ball", ball().sum(), None)
    assert one["volume_ml"] == pytest.approx(ball().sum() * 0.75 * 1.25 * 4 / 1000, abs=1e-3)
    assert all(set(each) == SLICE_KEYS for each in one["slices"])
    assert [each["area"] for each in one["slices"]] == ball().sum(axis=(0, 1)).tolist()
    assert [each["stop"] for each in one["slices"]] == ["empty", *[None] * 7, "empty"]
    assert set(data["timings"]) == TIMING_KEYS
    stages = sum(data["timings"][f"{stage}_ms"] for stage in ("read", "start", "segment", "write"))
    assert 0 < stages <= data["timings"]["total_ms"]


def test_the_documentation_of_the_summary_names_every_key() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "json-summary.md"
    words = set(re.findall(r"`([^`]+)`", page.read_text(encoding="utf-8")))
    for key in (*KEYS, *TIMING_KEYS, *SLICE_KEYS):
        assert key in words, key
    for key in OBJECT_KEYS - {"label"}:
        assert f"objects[].{key}" in words or f".{key}" in words, key


def test_a_picture_has_no_volume_and_uint8_no_window(run: Runner, picture_file: Path) -> None:
    data = run(picture_file, "--box", "15,8,45,32", "--json", "--bundle", "clicks").json
    assert data["window"] is None
    assert data["objects"][0]["volume_ml"] is None
    assert data["objects"][0]["score"] == pytest.approx(0.8)
    assert data["shape"] == [64, 48]
    assert Path(data["preview"]).name == "photo_seg_overlay.png"


def test_a_person_reads_the_same_in_a_few_lines(run: Runner, volume_file: Path) -> None:
    out = run(volume_file, "--box", f"ball={FLAT_TEXT}", *WINDOW, "-p").out
    assert "tiny 1.0 on onnxruntime fp32, window 127.5,255 (explicit)" in out
    assert f"ball: {ball().sum()} voxels = {ball().sum() * 0.00375:.2f} ml, slices 1 to 7, stopped by empty" in out
    assert "encode" in out
    assert str(volume_file.parent / "scan_seg.nii.gz") in out
    assert str(volume_file.parent / "scan_seg_preview.png") in out
    assert len(out.splitlines()) <= 6


def test_an_object_that_is_not_found_is_said_so(run: Runner, volume_file: Path) -> None:
    assert "object 1: 0 voxels = 0.00 ml, nothing found" in run(volume_file, "--box", "40,2,46,8", *WINDOW).out


@pytest.mark.parametrize("quiet", ["-q", "--quiet"])
def test_quiet_prints_nothing(run: Runner, volume_file: Path, quiet: str) -> None:
    done = run(volume_file, "--box", SOLID, quiet)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (volume_file.parent / "scan_seg.nii.gz").is_file()


def test_help_and_version_are_printed(run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    for word, text in (("--version", runtime.__version__), ("--help", "--box")):
        with pytest.raises(SystemExit) as left:
            run(word)
        assert left.value.code == 0
        assert text in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_the_output_cannot_encode_are_printed_with_escapes(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))

    def command(words: list[str]) -> int:
        sys.stdout.write(f"written {words[0]}\n")
        sys.stdout.flush()
        return 0

    assert run_command("lite-infer", command, ["肝_\udcff.nii"]) == 0
    name = "肝" if encoding == "utf-8" else r"\u809d"
    assert written.getvalue().decode(encoding) == rf"written {name}_\udcff.nii" + "\n"
