"""The graph for one box of a bundle that is quantised."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("nncf", reason="the export extra is not installed")

from conv_bundle import conv_bundle, graphs, picture
from engines import ENGINES

import runtime
from export import _int8
from export._calibration import Sample, divided, structure_boxes
from export._mask_drop import Masks, mean_dice
from export._qdq import quantised_nodes
from export.quantize import QuantizeOptions, quantize_folder
from runtime.errors import BundleError
from runtime.manifest import load_manifest

SAMPLES = [Sample(picture(seed), structure_boxes(picture(seed))) for seed in range(6)]


@pytest.fixture(autouse=True)
def _fast_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What real graphs take on a busy machine decides nothing here."""
    monkeypatch.setattr(_int8, "speed_ratio", lambda *_: 2.0)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_graph_for_one_box_follows_the_decoder(tmp_path: Path, precision: Any) -> None:
    source = conv_bundle(tmp_path / "conv", one_box=graphs()["one_box.onnx"])
    made = tmp_path / "made"
    shutil.copytree(source, made)
    report = quantize_folder(made, divided(SAMPLES), QuantizeOptions(precision=precision, max_drop=2.0))
    manifest = load_manifest(made)
    if precision == "int8":
        assert report.quantised == {"encoder": 2, "decoder": 2, "one_box": 2}
        assert manifest.graphs["int8"].one_box is not None
        assert len(quantised_nodes(onnx.load(made / "one_box_int8.onnx"))) == 2
    image, boxes = np.stack([picture(77).T] * 2, axis=2), structure_boxes(picture(77)).tolist()
    for backend in ENGINES:
        with runtime.Session(source, backend=backend, precision="fp32", cache=False) as session:
            wanted = session.segment(image, boxes=boxes).objects
        used = "int8" if precision == "int8" else "fp32"
        with runtime.Session(made, backend=backend, precision=used, cache=False) as session:
            found = session.segment(image, boxes=boxes).objects
        both = [tuple(np.stack([one.mask[..., 0] for one in objects]) for objects in (found, wanted))]
        assert both[0][1].any()
        assert mean_dice(*[Masks((masks,), ()) for masks in both[0]]) > 0.97


def test_what_the_graph_for_one_box_loses_counts() -> None:
    full, half = np.ones((1, 4, 4), np.bool_), np.eye(4, dtype=np.bool_)[None]
    assert mean_dice(Masks((full,), (), (half,)), Masks((full,), (), (full,))) == pytest.approx(2 * 4 / 20)


def test_a_graph_for_one_box_without_the_decoders_layers_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(graphs()["one_box.onnx"])
    for number, node in enumerate(model.graph.node):
        node.name = f"other {number}"
    folder = conv_bundle(tmp_path / "conv", one_box=model.SerializeToString())
    with pytest.raises(BundleError, match=r"one_box graph: it has no Conv_\d+_of_mixed, .*, as the decoder has"):
        quantize_folder(folder, divided(SAMPLES), QuantizeOptions(max_drop=2.0))
