"""``lite-infer demo``: a real MR volume, segmented exactly as ``lite-infer FILE --box ...`` does it."""

from __future__ import annotations

import shlex
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import Runner, left_behind
from PIL import Image

FILES = ["demo_preview.png", "demo_segmentation.nii.gz"]
ENGINE = ("--bundle", "tiny", "--backend", "onnxruntime")


def test_the_demo_writes_into_the_current_folder_and_says_what_it_did(run: Runner, tmp_path: Path) -> None:
    done = run("demo", *ENGINE)
    assert (done.code, done.err) == (0, "")
    assert left_behind(tmp_path) == FILES
    first, *rest = done.out.splitlines()
    assert first.startswith("lite-infer ")
    assert "--volume 0 --box ventricles=" in first
    assert "demo_segmentation.nii.gz" in "\n".join(rest)
    assert "demo_preview.png" in "\n".join(rest)
    assert "encode" in "\n".join(rest)
    with Image.open("demo_preview.png") as picture:
        assert min(picture.size) > 90


def test_the_printed_command_does_the_same(run: Runner, tmp_path: Path) -> None:
    first = run("demo", *ENGINE).out.splitlines()[0]
    wanted = np.asarray(nibabel.load("demo_segmentation.nii.gz").dataobj)
    for name in FILES:
        Path(name).unlink()
    assert run(*shlex.split(first)[1:], *ENGINE, "--json").json["objects"][0]["name"] == "ventricles"
    np.testing.assert_array_equal(np.asarray(nibabel.load("demo_segmentation.nii.gz").dataobj), wanted)
    assert wanted.shape == (128, 96, 24)
    assert left_behind(tmp_path) == FILES


def test_quiet_and_json_print_no_command(run: Runner) -> None:
    assert run("demo", *ENGINE, "-q").out == ""
    assert run("demo", *ENGINE, "--json").json["objects"][0]["name"] == "ventricles"


def test_a_nibabel_without_its_test_data_is_said_so(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    done = run("demo", *ENGINE)
    assert done.code == 5
    assert "test data (example4d.nii.gz)" in done.err
    assert left_behind(tmp_path) == []
