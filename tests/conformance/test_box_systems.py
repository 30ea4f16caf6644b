"""LiteMedSAM's successors with other encoders: checkpoint -> bundle -> what the authors' own code gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="conversion needs the export extra")

import runtime  # noqa: E402
from export.families import load_family  # noqa: E402
from export.families._sam import Sam  # noqa: E402
from export.families._sam_graphs import BoxDecoder  # noqa: E402
from export.load import load_model, match, read_checkpoint  # noqa: E402
from export.verify import verify  # noqa: E402
from runtime.manifest import load_manifest  # noqa: E402
from runtime.transforms import encoder_input, frame_of  # noqa: E402

ENGINES = ("openvino", "onnxruntime")
SYSTEMS = (
    "rep_medsam",
    "daft",
    pytest.param("medficientsam_l0", marks=pytest.mark.slow),
    pytest.param("medficientsam_l1", marks=pytest.mark.slow),
    pytest.param("medficientsam_l2", marks=pytest.mark.slow),
)
BIG = tuple(pytest.param(name, marks=pytest.mark.slow) for name in ("medsam", "sam_vit_b"))
UNFOLDED = {"BatchNormalization", "ConvTranspose", "Constant", "Identity", "Pad", "Resize", "Loop", "If"}


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bundle(system: str, bundle_of: Callable[[str], Path]) -> Path:
    return bundle_of(system)


def test_the_manifest_names_the_published_code(system: str, bundle: Path, conformance: Path) -> None:
    facts = json.loads((conformance / system / "manifest.json").read_text(encoding="utf-8"))
    source = load_manifest(bundle).source
    assert facts["repository"] in (source.repository or "")
    assert source.revision == facts["commit"]


def test_image_box_and_loop_are_exact(system: str, bundle: Path, conformance: Path) -> None:
    checks = list(verify(bundle, conformance / system, backends=()))
    assert [(check.case, check.stage) for check in checks] == [
        *((case, stage) for case in ("case_0", "case_1") for stage in ("encoder_input", "prompt_boxes")),
        ("loop_3d", "prompt_boxes"),
        ("loop_3d", "segs"),
    ]
    assert [(check.found, check.limit) for check in checks] == [(0, 0)] * len(checks)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("system", [*SYSTEMS, *BIG])
def test_an_image_of_another_shape_agrees_with_torch_and_boxes_do_not_disturb_each_other(
    system: str, bundle: Path, checkpoint_of: Callable[[str], Path], engine: str
) -> None:
    model = load_model(*match(read_checkpoint(checkpoint_of(system)), [load_family(system)]))
    assert isinstance(model, Sam)
    manifest, random = load_manifest(bundle), np.random.default_rng(5)
    image = (random.random((181, 423, 3)) * np.linspace(40, 250, 423)[None, :, None]).astype(np.uint8)
    boxes = np.array([[30, 20, 200, 150], [100, 3, 420, 178], [5, 90, 60, 170]])
    frame = frame_of(manifest, (181, 423))
    with torch.inference_mode():
        embedding = model.image_encoder(torch.from_numpy(encoder_input(image, manifest.input, frame)))
        logits, scores = BoxDecoder(model)(embedding, torch.from_numpy(frame.boxes_to_input(boxes)))
    with runtime.Session(bundle, backend=engine, precision="fp32", cache=False) as session:
        encoded = session.encode(image)
        np.testing.assert_allclose(encoded.tensors["image_embedding"], embedding.numpy(), atol=1e-3)
        together = session.decode(encoded, boxes=boxes)
        deviation = float(logits.std())
        np.testing.assert_allclose(together.low_res_logits, logits[:, 0].numpy(), atol=1e-3 * deviation)
        np.testing.assert_allclose(together.scores, scores[:, 0].numpy(), atol=1e-3)
        for index, box in enumerate(boxes):
            alone = session.decode(encoded, boxes=[box])
            np.testing.assert_allclose(alone.low_res_logits[0], together.low_res_logits[index], atol=1e-5 * deviation)
            np.testing.assert_allclose(alone.scores[0], together.scores[index], atol=1e-5)


def test_the_graphs_hold_nothing_that_could_be_folded(system: str, bundle: Path) -> None:
    import onnx

    for name in ("encoder.onnx", "decoder.onnx"):
        graph = onnx.load(bundle / name).graph
        constants = {one.name for one in graph.initializer}
        assert [node.name for node in graph.node if node.input and set(node.input) <= constants] == []
        kinds = {node.op_type for node in graph.node}
        assert not kinds & UNFOLDED
