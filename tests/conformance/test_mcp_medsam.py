"""MCP-MedSAM: checkpoint, with and without CLIP -> bundle -> what the authors' own code gave.

The parity table replays its goldens. Its decoder takes as long as its encoder, so what needs many calls is tested in
small by default (tests/unit/export) and here when slow tests are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="conversion needs the export extra")

from tiny_clip import clip_weights  # noqa: E402

import runtime  # noqa: E402
from export.convert import ConvertOptions, convert  # noqa: E402
from export.families import load_families, load_family  # noqa: E402
from export.families._clip import Clip, ClipVision  # noqa: E402
from export.families.mcp_medsam import MODALITIES, McpDecoder, McpMedSam, name_tokens  # noqa: E402
from export.golden import read_goldens  # noqa: E402
from export.load import load_extra, match, read_checkpoint  # noqa: E402
from export.verify import verify  # noqa: E402
from runtime.crops import crop_arrays  # noqa: E402
from runtime.errors import PromptError  # noqa: E402
from runtime.manifest import load_manifest  # noqa: E402
from runtime.transforms import encoder_input, frame_of  # noqa: E402

SYSTEM = "mcp_medsam"
ENGINES = ("openvino", "onnxruntime")
BOXES = np.array([[30, 20, 200, 150], [100, 3, 420, 178], [5, 90, 60, 170]])


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "pytorch_model.bin"
    torch.save(clip_weights(), path)
    return path


@pytest.fixture(scope="module")
def seeing(checkpoint_of: Callable[[str], Path], clip_file: Path) -> Path:
    """A bundle with CLIP inside."""
    return convert(checkpoint_of(SYSTEM), clip_file.parent / "bundle", options=ConvertOptions(extra=clip_file))


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    random = np.random.default_rng(5)
    return (random.random((181, 423, 3)) * np.linspace(40, 250, 423)[None, :, None]).astype(np.uint8)


def test_the_family_is_told_from_the_checkpoint_alone(checkpoint_of: Callable[[str], Path]) -> None:
    assert match(read_checkpoint(checkpoint_of(SYSTEM)), load_families())[0].name == SYSTEM


def test_the_facts_are_those_of_the_published_code(conformance: Path) -> None:
    facts = json.loads((conformance / SYSTEM / "manifest.json").read_text())
    family = load_family(SYSTEM)
    assert family.revision == facts["commit"]
    assert family.gflops == pytest.approx(
        (facts["cost"]["encoder_gflops"], facts["cost"]["decoder_gflops_per_box"]), 0.01
    )
    loop = family.facts.propagation.published
    assert loop is not None
    assert (loop.last_slice, loop.first_slice, loop.fallback_down) == ("excluded", "excluded", "unrounded")
    assert (loop.margin_px, loop.crop_margin_px) == (3, 3)
    assert facts["prompt"]["category"].startswith("CT 0, MR 1, Endoscopy 2, XRay/X-Ray 3, PET 4, Dermoscopy 5")
    assert family.facts.modalities[:6] == ("CT", "MR", "Endoscopy", "XRay", "PET", "Dermoscopy")
    assert family.facts.modalities[6:] == ("Mammography", "US", "OCT", "Fundus", "Microscopy")
    assert family.facts.prompts.vectors == {"clip_image": 512, "clip_text": 512}
    assert [crop.name for crop in family.facts.prompts.crops] == ["crops"]


@pytest.mark.slow
def test_the_vectors_and_the_modality_of_the_goldens_matter(bundle: Path, conformance: Path, tmp_path: Path) -> None:
    case = read_goldens(conformance / SYSTEM).images["case_0"]
    for name in ("clip_image", "clip_text", "category_idx"):
        np.savez(tmp_path / "case_0.npz", **{**case, name: case[name][::-1] + 1 if case[name].ndim else 1})
        checks = verify(bundle, tmp_path, backends=("onnxruntime",))
        assert "low_res_logits" in {check.stage for check in checks if not check.passed}, name


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_image_of_another_shape_agrees_with_torch_and_boxes_do_not_disturb_each_other(
    bundle: Path, model: McpMedSam, image: NDArray[np.uint8], engine: str
) -> None:
    random = np.random.default_rng(8)
    extra = {name: random.normal(0, 0.3, (3, 512)).astype(np.float32) for name in ("clip_image", "clip_text")}
    manifest = load_manifest(bundle)
    frame = frame_of(manifest, image.shape[:2])
    with torch.inference_mode():
        embedding = model.image_encoder(torch.from_numpy(encoder_input(image, manifest.input, frame)))
        inputs = (
            torch.from_numpy(frame.boxes_to_input(BOXES)),
            torch.tensor([manifest.modalities.index("US")]),
            torch.from_numpy(crop_arrays(manifest.prompts.crops[0], image, BOXES)),
            *map(torch.from_numpy, extra.values()),
        )
        logits, scores = McpDecoder(model)(embedding, *inputs)
    with runtime.Session(bundle, backend=engine, precision="fp32", cache=False) as session:
        encoded = session.encode(image)
        together = session.decode(encoded, boxes=BOXES, modality="us", extra=extra)
        deviation = float(logits.std())
        np.testing.assert_allclose(together.low_res_logits, logits[:, 0].numpy(), atol=1e-3 * deviation)
        np.testing.assert_allclose(together.scores, scores[:, 0].numpy(), atol=1e-3)
        for index, box in enumerate(BOXES):
            one = {name: rows[index] for name, rows in extra.items()}
            alone = session.decode(encoded, boxes=[box], modality="US", extra=one)
            np.testing.assert_allclose(alone.low_res_logits[0], together.low_res_logits[index], atol=1e-5 * deviation)
            np.testing.assert_allclose(alone.scores[0], together.scores[index], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_with_clip_inside_an_image_and_a_modality_are_all_that_is_asked_for(
    seeing: Path, model: McpMedSam, clip_file: Path, image: NDArray[np.uint8], engine: str
) -> None:
    manifest = load_manifest(seeing)
    assert manifest.prompts.vectors == {}
    assert "pubmed-clip" in (manifest.licence.notice or "")
    extra = load_family(SYSTEM).extra
    assert extra is not None
    clip = load_extra(extra, read_checkpoint(clip_file))
    assert isinstance(clip, Clip)
    frame = frame_of(manifest, image.shape[:2])
    with torch.inference_mode():
        embedding = model.image_encoder(torch.from_numpy(encoder_input(image, manifest.input, frame)))
        crops, seen = (torch.from_numpy(crop_arrays(crop, image, BOXES)) for crop in manifest.prompts.crops)
        text = clip.texts([name_tokens("Fundus")]).expand(3, -1)
        boxes = torch.from_numpy(frame.boxes_to_input(BOXES))
        index = torch.tensor([list(MODALITIES).index("Fundus")])
        logits, scores = McpDecoder(model)(embedding, boxes, index, crops, ClipVision(clip)(seen), text)
    with runtime.Session(seeing, backend=engine, precision="fp32", cache=False) as session:
        found = session.decode(session.encode(image), boxes=BOXES, modality="Fundus")
        np.testing.assert_allclose(found.low_res_logits, logits[:, 0].numpy(), atol=1e-3 * float(logits.std()))
        np.testing.assert_allclose(found.scores, scores[:, 0].numpy(), atol=1e-3)
        with pytest.raises(PromptError, match=r"no modality; bundle 'mcp-medsam' needs one of CT \(0\), MR \(1\)"):
            session.decode(session.encode(image), boxes=BOXES)
        labels = session.segment(image, boxes=BOXES.tolist(), modality="Fundus").label_map
        assert set(np.unique(labels)) <= {0, 1, 2, 3}
        assert labels.any()


@pytest.mark.slow
def test_the_graphs_hold_nothing_that_could_be_folded(bundle: Path, seeing: Path) -> None:
    import onnx

    files = (bundle / "encoder.onnx", bundle / "decoder.onnx", seeing / "decoder.onnx", seeing / "clip.onnx")
    for path in files:
        graph = onnx.load(path).graph
        constants = {one.name for one in graph.initializer}
        assert [node.name for node in graph.node if node.input and set(node.input) <= constants] == []
        kinds = {node.op_type for node in graph.node}
        assert not kinds & {"BatchNormalization", "ConvTranspose", "Constant", "Identity", "Resize", "Loop", "If"}
