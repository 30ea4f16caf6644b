"""Run command lines in this process, on small files and a tiny bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Finished, Runner, scene_file
from PIL import Image
from tiny_bundle import disc, tiny_bundle
from tiny_prompts import content_bundle, finding_bundle, modality_bundle

from runtime.cli import main


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles: `tiny` (boxes), `clicks` (and points), `modality`, `finding` (no prompt), `content` (and vectors)."""
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle(folder / "tiny")
    tiny_bundle(folder / "clicks", clicks=True, name="clicks")
    modality_bundle(folder / "modality")
    finding_bundle(folder / "finding")
    content_bundle(folder / "content")
    return folder


@pytest.fixture
def run(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Run ``lite-infer`` in an empty folder; bundle and engine are chosen unless the words say otherwise."""
    monkeypatch.setenv("LITE_INFER_MODELS", str(models))
    monkeypatch.chdir(tmp_path)

    def runner(*words: object) -> Finished:
        arguments = [str(word) for word in words]
        if arguments and arguments[0] not in ("cache", "demo", "doctor", "models", "perf"):
            for option, value in (("--bundle", "tiny"), ("--backend", "onnxruntime")):
                arguments += [] if option in arguments else [option, value]
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return runner


@pytest.fixture
def volume_file(tmp_path: Path) -> Path:
    """The scene as an int16 NIfTI file."""
    return scene_file(tmp_path / "scan.nii.gz")


@pytest.fixture
def picture_file(tmp_path: Path) -> Path:
    """The disc as a grey PNG of 64 x 48."""
    image, _ = disc()
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"
