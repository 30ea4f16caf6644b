"""``lite-infer-export``: exit codes, one-line errors, tables and JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from export import cli
from export.families import FAMILIES


def run(*arguments: str | Path) -> int:
    return cli.main([str(argument) for argument in arguments])


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output"], "the following arguments are required: COMMAND"),
        (["convert"], "--checkpoint"),
        (["convert", "--checkpoint", "a", "--output", "b", "--family", "sam9"], "invalid choice: 'sam9'"),
        (["convert", "--checkpoint", "a", "--output", "b", "--precision", "int4"], "invalid choice: 'int4'"),
        (["verify", "b", "--goldens", "g", "--backend", "tensorrt"], "invalid choice: 'tensorrt'"),
        (["distil"], "invalid choice: 'distil'"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == 2
    assert message in error_of(capsys)


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        run()
    assert "usage: lite-infer-export" in capsys.readouterr().out


def test_a_missing_checkpoint_is_exit_code_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert run("convert", "--checkpoint", tmp_path / "absent.pth", "--output", tmp_path / "bundle") == 4
    assert "absent.pth: cannot be read" in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_exit_code_6(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert run("convert", "--checkpoint", tmp_path / "any.pth", "--output", tmp_path) == 6
    assert "exists; choose another folder, or replace it with --force" in error_of(capsys)


def test_a_missing_bundle_is_exit_code_4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("verify", tmp_path / "absent", "--goldens", tmp_path) == 4
    assert error_of(capsys).startswith("lite-infer-export: error: ")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(cli.errors.LiteInferError):
        run("verify", tmp_path / "absent", "--goldens", tmp_path, "--debug")


def test_families_are_listed_with_paper_licence_and_where_the_weights_are(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert run("families") == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].split() == ["family", "system", "input", "prompts", "GFLOPs", "a", "slice", "licence"]
    assert lines[1].split() == [
        "lite_medsam",
        "LiteMedSAM",
        "256x256",
        "box",
        *["74.9", "+", "3.6", "a", "prompt"],
        "Apache-2.0",
    ]
    assert any(
        line.split()[:6] == ["swin_litemedsam", "Swin-LiteMedSAM", "256x256", "box,", "points,", "scribble"]
        for line in lines
    )
    assert text.count("  paper    https://") == text.count("  weights  https://") == len(FAMILIES)
    assert run("families", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(FAMILIES)
    assert {"paper", "repository", "licence", "weights", "input", "prompts", "encoder_gflops"} <= set(rows[0])
    prompts = {row["name"]: row["prompts"] for row in rows}
    assert prompts["lite_medsam"] == prompts["imedsam"] == ["box"]
    assert prompts["esp_medsam"] == ["auto", "modality"]


def test_without_torch_the_error_names_the_extra(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from export.cli import main; sys.exit(main(sys.argv[1:]))"
    for arguments in (["families"], ["convert", "--checkpoint", "a", "--output", str(tmp_path / "b")]):
        ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 5
        assert ran.stderr == (
            "lite-infer-export: error: torch is not installed; install it with: pip install 'lite-infer[export]'\n"
        )


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys; from export.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def check(found: float) -> object:
    from export.verify import Check

    return Check("case_0", "openvino", "embedding", found, 1e-3)


@pytest.mark.parametrize(
    ("found", "code", "verdict"), [(2e-6, 0, "ok"), (0.5, 1, "FAILED"), (float("nan"), 1, "FAILED")]
)
def test_the_exit_code_of_verify_tells_whether_all_passed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: float, code: int, verdict: str
) -> None:
    import export.verify

    asked = []

    def verify(*arguments: object, backends: tuple[str, ...]) -> list[object]:
        asked.append(backends)
        return [check(1e-9), check(found)]

    monkeypatch.setattr(export.verify, "verify", verify)
    assert run("verify", "bundle", "--goldens", "goldens") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith(verdict)
    assert lines[-1] == f"{2 - code} of 2 checks passed"
    assert run("verify", "bundle", "--goldens", "goldens", "--json", "--backend", "onnxruntime") == code
    result = json.loads(capsys.readouterr().out)
    assert result["passed"] is (code == 0)
    assert result["checks"][1]["passed"] is (code == 0)
    assert asked == [("openvino", "onnxruntime"), ("onnxruntime",)]


def test_convert_hands_over_every_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import export.convert

    asked = {}
    monkeypatch.setattr(
        export.convert,
        "convert",
        lambda *paths, family, options: asked.update(paths=paths, family=family, options=options),
    )
    line = "convert --checkpoint a.pth -o b --family lite_medsam --precision fp16 --format both --name n --force -q"
    assert run(*line.split(), "--unsafe-pickle", "--extra", "second.bin") == 0
    assert asked["paths"] == (Path("a.pth"), Path("b"))
    assert asked["family"] == "lite_medsam"
    options = asked["options"]
    assert (options.precision, options.formats, options.name) == ("fp16", ("onnx", "openvino"), "n")
    assert options.force
    assert options.unsafe_pickle
    assert options.extra == Path("second.bin")


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import export.convert

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export.convert, "convert", interrupt)
    assert run("convert", "--checkpoint", "a", "--output", "b") == 130
    assert "interrupted; nothing was written" in error_of(capsys)
