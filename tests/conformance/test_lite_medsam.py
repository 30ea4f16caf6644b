"""LiteMedSAM: checkpoint -> bundle -> what the authors' own code gave, on both engines and through the public API."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="conversion needs the export extra")

import runtime  # noqa: E402
from export.families import load_families  # noqa: E402
from export.families._sam import Sam  # noqa: E402
from export.families._sam_graphs import BoxDecoder  # noqa: E402
from export.golden import read_goldens  # noqa: E402
from export.load import match, read_checkpoint  # noqa: E402
from export.verify import verify  # noqa: E402
from runtime.manifest import load_manifest  # noqa: E402
from runtime.transforms import encoder_input, frame_of  # noqa: E402

SYSTEM = "lite_medsam"
ENGINES = ("openvino", "onnxruntime")
UNSEEN = ((97, 401), (640, 200), (256, 256))


def test_the_family_is_told_from_the_checkpoint_alone(checkpoint_of: Callable[[str], Path]) -> None:
    family, state_dict = match(read_checkpoint(checkpoint_of(SYSTEM)), load_families())
    assert family.name == SYSTEM
    assert state_dict.where == ""


def test_the_manifest_states_what_was_published(bundle: Path, conformance: Path) -> None:
    facts = json.loads((conformance / SYSTEM / "manifest.json").read_text())
    manifest = load_manifest(bundle)
    assert facts["repository"] in (manifest.source.repository or "")
    assert manifest.source.revision == facts["commit"]
    published = manifest.propagation.published
    assert published is not None
    assert (published.box_from, published.label_dtype, published.margin_px) == ("resized_label", "uint8", 3)
    assert (published.last_slice, published.first_slice, published.fallback_down) == ("included", "included", "rounded")


def test_image_box_and_loop_are_exact(bundle: Path, conformance: Path) -> None:
    checks = list(verify(bundle, conformance / SYSTEM, backends=()))
    assert [(check.case, check.stage) for check in checks] == [
        ("case_0", "encoder_input"),
        ("case_0", "prompt_boxes"),
        ("case_1", "encoder_input"),
        ("case_1", "prompt_boxes"),
        ("loop_3d", "prompt_boxes"),
        ("loop_3d", "segs"),
    ]
    assert [(check.found, check.limit) for check in checks] == [(0, 0)] * len(checks)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_stage_is_met_with_half_weights_within_their_rounding(
    bundle_of: Callable[..., Path], conformance: Path, engine: str
) -> None:
    checks = list(verify(bundle_of(SYSTEM, "fp16"), conformance / SYSTEM, backends=(engine,)))
    assert [check for check in checks if not check.passed] == []
    assert max(check.found for check in checks if check.stage == "embedding") > 1e-3, "these weights are not halved"


def test_an_altered_loop_is_noticed(bundle: Path, conformance: Path, tmp_path: Path) -> None:
    goldens = read_goldens(conformance / SYSTEM)
    assert goldens.loop is not None
    boxes = goldens.loop["call_prompt_boxes"].copy()
    boxes[5, 2] += 1
    np.savez(tmp_path / "case_0.npz", **goldens.images["case_0"])
    np.savez(tmp_path / "loop_3d.npz", **{**goldens.loop, "call_prompt_boxes": boxes})
    failed = [check for check in verify(bundle, tmp_path, backends=()) if not check.passed]
    assert [(check.case, check.stage) for check in failed] == [("loop_3d", "prompt_boxes")]


@pytest.fixture(scope="module")
def unseen(model: Sam, bundle: Path) -> list[tuple[np.ndarray, ...]]:
    """Images of other shapes than the goldens', with boxes, and what torch makes of them."""
    manifest, random = load_manifest(bundle), np.random.default_rng(9)
    found = []
    for index, (height, width) in enumerate(UNSEEN):
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin((x * (3 + channel) + y * 5) / (20 + 7 * index)) for channel in range(3)]
        image = (
            (127 + 80 * np.stack(waves, -1) + random.normal(0, 20, (height, width, 3))).clip(0, 255).astype(np.uint8)
        )
        corners = np.sort(random.random((5, 2, 2)), axis=1) * [width - 1, height - 1]
        boxes = corners.reshape(5, 4).astype(int)
        frame = frame_of(manifest, (height, width))
        with torch.inference_mode():
            embedding = model.image_encoder(torch.from_numpy(encoder_input(image, manifest.input, frame)))
            logits, scores = BoxDecoder(model)(embedding, torch.from_numpy(frame.boxes_to_input(boxes)))
        found.append((image, boxes, embedding.numpy(), logits[:, 0].numpy(), scores[:, 0].numpy()))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_images_of_other_shapes_agree_with_torch_and_boxes_do_not_disturb_each_other(
    bundle: Path, unseen: list[tuple[np.ndarray, ...]], engine: str
) -> None:
    with runtime.Session(bundle, backend=engine, precision="fp32", cache=False) as session:
        for image, boxes, embedding, logits, scores in unseen:
            encoded = session.encode(image)
            np.testing.assert_allclose(encoded.tensors["image_embedding"], embedding, atol=1e-3)
            together = session.decode(encoded, boxes=boxes)
            np.testing.assert_allclose(together.low_res_logits, logits, atol=1e-3 * logits.std())
            np.testing.assert_allclose(together.scores, scores, atol=1e-3)
            for index, box in enumerate(boxes):
                alone = session.decode(encoded, boxes=[box])
                np.testing.assert_allclose(
                    alone.low_res_logits[0], together.low_res_logits[index], atol=1e-5 * logits.std()
                )
                np.testing.assert_allclose(alone.scores[0], together.scores[index], atol=1e-5)


def test_the_graphs_hold_nothing_that_could_be_folded(bundle: Path) -> None:
    import onnx

    for name, limit in (("encoder.onnx", 28e6), ("decoder.onnx", 26e6)):
        graph = onnx.load(bundle / name).graph
        constants = {one.name for one in graph.initializer}
        assert [node.name for node in graph.node if node.input and set(node.input) <= constants] == []
        kinds = {node.op_type for node in graph.node}
        assert not kinds & {"BatchNormalization", "ConvTranspose", "Constant", "Identity", "Loop", "If"}
        assert (bundle / name).stat().st_size < limit
