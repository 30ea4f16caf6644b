"""INT8 of a published system of 10 M parameters, from the pseudo-weights: the mechanics, in minutes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("nncf", reason="the export extra is not installed")

from conv_bundle import picture
from PIL import Image

import runtime
from export.cli import main
from runtime.manifest import load_manifest


@pytest.mark.slow
def test_lite_medsam_converts_to_int8(conformance: Path, tmp_path: Path) -> None:
    """Masks of pseudo-weights hang on single logits, so that the drop is no figure of merit here."""
    checkpoint, folder, images = tmp_path / "lite.pth", tmp_path / "bundle", tmp_path / "images"
    script = [conformance / "make_checkpoint.py", conformance / "lite_medsam" / "manifest.json", checkpoint]
    subprocess.run([sys.executable, *map(str, script)], check=True, capture_output=True)
    images.mkdir()
    for number in range(12):
        Image.fromarray(picture(number, (256, 256))).save(images / f"{number}.png")
    arguments = ["convert", "--checkpoint", str(checkpoint), "--output", str(folder), "--precision", "int8"]
    assert main([*arguments, "--calibration", str(images), "--max-drop", "60"]) == 0
    manifest = load_manifest(folder)
    assert manifest.family == "lite_medsam"
    assert set(manifest.graphs) == {"float", "int8"}
    image = picture(99, (200, 180))
    embeddings = {}
    for precision in ("fp32", "int8"):
        with runtime.Session(folder, backend="openvino", precision=precision, cache=False) as session:
            embeddings[precision] = session.encode(image).tensors["image_embedding"]
            assert np.isfinite(embeddings[precision]).all()
    difference = np.sqrt(np.square(embeddings["int8"] - embeddings["fp32"]).mean())
    assert 0 < difference < 0.2 * np.sqrt(np.square(embeddings["fp32"]).mean())
