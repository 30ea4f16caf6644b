"""A checkpoint becomes a bundle that lite-infer runs to the same numbers, in 2-D and in 3-D."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from export.pretrain.__main__ import main  # noqa: E402
from export.pretrain.checkpoint import write_checkpoint  # noqa: E402
from export.pretrain.config import ModelConfig, TrainConfig  # noqa: E402
from export.pretrain.evaluate_volumes import evaluate_volumes  # noqa: E402
from export.pretrain.model import Network  # noqa: E402
from export.pretrain.predictors import BundlePredictor, CheckpointPredictor  # noqa: E402
from runtime import Embedding, Session  # noqa: E402
from runtime.manifest import load_manifest  # noqa: E402

_SMALL = ModelConfig(widths=(4, 8, 8, 12, 16), blocks=(0, 1, 1, 1, 1), embedding=(8, 8, 12))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    config = TrainConfig(model=_SMALL)
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    write_checkpoint(path, {"config": config.to_json(), "ema": Network(_SMALL).state_dict(), "images": 8, "step": 1})
    return path


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    figures = folder / "figures.json"
    figures.write_text(json.dumps({"protocols": {"box": {"mean": 0.87654, "cases": 29}}}))
    arguments = ["export", "--checkpoint", str(checkpoint), "--output", str(folder), "--figures", str(figures)]
    assert main([*arguments, "--dataset", "some folder"]) == 0
    return folder


@pytest.fixture
def session(bundle: Path) -> Iterator[Session]:
    with Session(bundle, backend="onnxruntime", precision="fp32", threads=1, cache=False) as opened:
        yield opened


def test_the_manifest_states_the_graphs_and_the_figures(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert [tensor.name for tensor in manifest.embedding] == ["level_4", "level_8", "level_16", "pixels"]
    assert [tensor.stored_dtype for tensor in manifest.embedding] == ["float16"] * 3 + ["uint8"]
    assert manifest.propagation.chain.mask_prompt
    assert [(metric.name, metric.value, metric.dataset) for metric in manifest.metrics] == [
        ("dice_box", 0.8765, "some folder")
    ]
    assert set(manifest.files) == {"encoder.onnx", "decoder.onnx", "one_box.onnx", "MODEL_CARD.md"}


@pytest.mark.parametrize("shape", [(120, 200), (300, 180, 3)])
def test_a_bundle_answers_as_its_checkpoint(checkpoint: Path, session: Session, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    boxes = np.array([[20.0, 30.0, 79.0, 90.0], [100.0, 10.0, 150.0, 60.0]])
    clicks = [[(40.0, 50.0, 1), (70.0, 85.0, 0)], [(120.0, 30.0, 1)]]
    answers = []
    for predictor in (CheckpointPredictor.from_file(checkpoint), BundlePredictor(session)):
        embedding = predictor.encode(image)  # type: ignore[attr-defined]
        if isinstance(embedding, Embedding):
            embedding = replace(embedding, pixels=None)  # a checkpoint does not look from closer
        first = predictor.decode(embedding, boxes)  # type: ignore[attr-defined]
        answers.append([first, predictor.decode(embedding, boxes, clicks, first.low_res_logits)])  # type: ignore[attr-defined]
    for torch_answer, bundle_answer in zip(*answers, strict=True):
        np.testing.assert_allclose(bundle_answer.low_res_logits, torch_answer.low_res_logits, atol=1e-2)
        np.testing.assert_allclose(bundle_answer.scores, torch_answer.scores, atol=1e-3)
        assert np.mean(bundle_answer.masks != torch_answer.masks) < 1e-3


def test_volumes_are_evaluated_with_every_kind_of_prompt(session: Session, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    label = np.zeros((40, 30, 6), np.uint8)
    label[10:30, 8:20, 1:5] = 1
    nibabel.save(nibabel.Nifti1Image(label * 90, np.eye(4)), tmp_path / "image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), tmp_path / "label.nii.gz")
    item = {"label": 1, "name": "block", "z": 1, "box2d": [10, 8, 29, 19], "window": [0, 90, "lo/hi"]}
    case = {"image": "image.nii.gz", "label": "label.nii.gz", "modality": "MR", "shape": [40, 30, 6]}
    prompts = {"cases": {"one": {**case, "objects": [item], "small_objects": [{**item, "label": 2}]}}}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    figures = evaluate_volumes(session, tmp_path)
    bounded = ("box_3d", "slice_range", "three_boxes", "every_slice")
    assert set(figures.values) == {
        *bounded,
        "slice_only",
        *(f"{kind}_{name}" for kind in ("filled", "ellipse") for name in bounded),
    }
    for name in bounded:
        assert figures.values[f"filled_{name}"]["one"] == [1.0], "the object is a block"
        assert 0.8 < figures.values[f"ellipse_{name}"]["one"][0] < 0.95
    assert all(0 <= figures.values[name]["one"][0] <= 1 for name in figures.values)
    assert len(figures.objects) == 1  # an object that is on no slice is left out


def test_volumes_cannot_be_evaluated_from_a_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", ".", "--checkpoint", str(checkpoint), "--volumes"]) == 2
    assert "export the checkpoint" in capsys.readouterr().err


def test_the_baseline_of_several_boxes_interpolates_their_sides(session: Session, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    label = np.zeros((60, 50, 13), np.uint8)
    for k in range(1, 13):  # grows by two voxels a slice, one a side
        label[30 - 2 * k : 31 + 2 * k, 25 - k : 26 + k, k] = 1
    nibabel.save(nibabel.Nifti1Image(label * 90, np.eye(4)), tmp_path / "image.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, np.eye(4)), tmp_path / "label.nii.gz")
    item = {"label": 1, "name": "pyramid", "z": 12, "box2d": [6, 13, 54, 37], "window": [0, 90, "lo/hi"]}
    case = {"image": "image.nii.gz", "label": "label.nii.gz", "modality": "MR", "shape": [60, 50, 13]}
    (tmp_path / "prompts.json").write_text(
        json.dumps({"cases": {"one": {**case, "objects": [item], "small_objects": []}}})
    )
    values = evaluate_volumes(session, tmp_path).values
    # Boxes on slices 3, 7 and 11: what lies between is exact, slices 1, 2 and 12 take the nearest box.
    sizes = {k: (4 * k + 1) * (2 * k + 1) for k in range(1, 13)}
    wrong = (sizes[3] - sizes[1]) + (sizes[3] - sizes[2]) - (sizes[12] - sizes[11])
    shared = sum(sizes.values()) - (sizes[12] - sizes[11])
    assert values["filled_three_boxes"]["one"] == [pytest.approx(2 * shared / (2 * sum(sizes.values()) + wrong))]
    assert values["filled_every_slice"]["one"] == [1.0]
