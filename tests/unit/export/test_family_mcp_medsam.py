"""MCP-MedSAM in small: with and without CLIP, on both engines; what CLIP's towers compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the export extra is not installed")

import tiny_family  # noqa: E402
from tiny_clip import SMALL, clip_weights  # noqa: E402

import export.convert  # noqa: E402
import runtime  # noqa: E402
from export.convert import ConvertOptions, convert  # noqa: E402
from export.families import Family  # noqa: E402
from export.families._clip import Clip, ClipSize, ClipVision  # noqa: E402
from export.families._content import ContentDecoder, ContentEncoder  # noqa: E402
from export.families.mcp_medsam import FAMILY, MODALITIES, McpDecoder, McpMedSam, name_tokens  # noqa: E402
from export.load import load_extra, read_checkpoint  # noqa: E402
from runtime.crops import crop_arrays  # noqa: E402
from runtime.errors import CheckpointError  # noqa: E402
from runtime.manifest import Crop, EmbeddingTensor, Manifest, Output, load_manifest  # noqa: E402
from runtime.transforms import encoder_input, frame_of  # noqa: E402

SIDE, WIDTH, GRID = tiny_family.SIDE, tiny_family.WIDTH, tiny_family.GRID
SIZE = (61, 90)
BOXES = np.array([[12, 8, 60, 50], [40, 2, 89, 60], [5, 30, 20, 45]])


def build() -> McpMedSam:
    count = len(MODALITIES)
    prompts = ContentEncoder(WIDTH, embedding_size=GRID, input_size=(SIDE, SIDE), modalities=count, vector=512)
    decoder = ContentDecoder(WIDTH, modalities=count, heads=2, hidden=32)
    return McpMedSam(tiny_family.build().image_encoder, prompts, decoder)


def _small(crops: tuple[Crop, ...]) -> tuple[Crop, ...]:
    return tuple(crop if crop.graph else msgspec.structs.replace(crop, size=GRID) for crop in crops)


def tiny() -> Family:
    """The published facts, with fewer pixels and channels."""
    assert FAMILY.extra is not None
    assert FAMILY.extra.facts is not None
    sizes = {
        "input": msgspec.structs.replace(FAMILY.facts.input, size=(SIDE, SIDE)),
        "embedding": (EmbeddingTensor(name="image_embedding", shape=(1, WIDTH, *GRID)),),
        "output": Output(low_res_size=(SIDE, SIDE)),
    }
    with_clip, without = (
        replace(facts, **sizes, prompts=msgspec.structs.replace(facts.prompts, crops=_small(facts.prompts.crops)))
        for facts in (FAMILY.extra.facts, FAMILY.facts)
    )
    return replace(FAMILY, build=build, facts=without, extra=replace(FAMILY.extra, facts=with_clip))


@pytest.fixture(scope="module")
def model() -> McpMedSam:
    """Weights and statistics away from their initial values."""
    return tiny_family.randomised(build())


@pytest.fixture(scope="module")
def bundles(model: McpMedSam, tmp_path_factory: pytest.TempPathFactory) -> Mapping[bool, Path]:
    """Bundles with and without CLIP."""
    folder = tmp_path_factory.mktemp("mcp")
    checkpoint = tiny_family.saved({"model": model.state_dict()}, folder / "mcp.pth")
    clip = tiny_family.saved(clip_weights(), folder / "pytorch_model.bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.convert, "load_families", lambda: (tiny(),))
        return {
            extra is not None: convert(checkpoint, folder / str(extra is None), options=ConvertOptions(extra=extra))
            for extra in (None, clip)
        }


@pytest.fixture(scope="module")
def clip() -> Clip:
    weights = clip_weights()
    loaded = Clip(SMALL).eval().requires_grad_(False)
    loaded.load_state_dict({name: weights[name] for name in loaded.state_dict()})
    return loaded


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(6).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def decoded(model: McpMedSam, manifest: Manifest, image: NDArray[np.uint8], *vectors: object) -> tuple[NDArray, ...]:
    """Logits (N, h, w) and scores (N,) that torch computes for ultrasound."""
    frame = frame_of(manifest, SIZE)
    inputs = (
        torch.from_numpy(frame.boxes_to_input(BOXES)),
        torch.tensor([manifest.modalities.index("US")]),
        torch.from_numpy(crop_arrays(manifest.prompts.crops[0], image, BOXES)),
    )
    with torch.inference_mode():
        embedding = model.image_encoder(torch.from_numpy(encoder_input(image, manifest.input, frame)))
        logits, scores = McpDecoder(model)(embedding, *inputs, *vectors)
    return logits[:, 0].numpy(), scores[:, 0].numpy()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_with_the_callers_vectors_sessions_compute_what_torch_computes(
    model: McpMedSam, bundles: Mapping[bool, Path], image: NDArray[np.uint8], engine: str
) -> None:
    random = np.random.default_rng(8)
    extra = {name: random.normal(0, 0.3, (3, 512)).astype(np.float32) for name in ("clip_image", "clip_text")}
    manifest = load_manifest(bundles[False])
    logits, scores = decoded(model, manifest, image, *map(torch.from_numpy, extra.values()))
    with runtime.Session(bundles[False], backend=engine, precision="fp32", cache=False) as session:
        encoded = session.encode(image)
        together = session.decode(encoded, boxes=BOXES, modality="us", extra=extra)
        alone = [
            session.decode(encoded, boxes=[box], modality="US", extra={name: rows[row] for name, rows in extra.items()})
            for row, box in enumerate(BOXES)
        ]
        other = session.decode(encoded, boxes=BOXES, modality="CT", extra=extra)
    np.testing.assert_allclose(together.low_res_logits, logits, atol=1e-4 * logits.std())
    np.testing.assert_allclose(together.scores, scores, atol=1e-4)
    for row, one in enumerate(alone):
        np.testing.assert_allclose(one.low_res_logits[0], together.low_res_logits[row], atol=1e-5 * logits.std())
        np.testing.assert_allclose(one.scores[0], together.scores[row], atol=1e-5)
    assert np.abs(other.low_res_logits - together.low_res_logits).max() > 1e-3 * logits.std()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_with_clip_inside_the_modality_is_all_that_is_asked_for(
    model: McpMedSam, bundles: Mapping[bool, Path], clip: Clip, image: NDArray[np.uint8], engine: str
) -> None:
    manifest = load_manifest(bundles[True])
    assert manifest.prompts.vectors == {}
    assert manifest.licence.notice == f"{FAMILY.extra.title}: MIT, {FAMILY.extra.licence.url}"
    with torch.inference_mode():
        seen = ClipVision(clip)(torch.from_numpy(crop_arrays(manifest.prompts.crops[1], image, BOXES)))
        text = clip.texts([name_tokens("US")]).expand(3, -1)
    logits, scores = decoded(model, manifest, image, seen, text)
    with runtime.Session(bundles[True], backend=engine, precision="fp32", cache=False) as session:
        encoded = session.encode(image)
        found = session.decode(encoded, boxes=BOXES, modality="US")
        alone = [session.decode(encoded, boxes=[box], modality="US").low_res_logits[0] for box in BOXES]
        given = session.decode(encoded, boxes=BOXES, modality="US", extra={"clip_image": seen.numpy()})
        labels = session.segment(image, boxes=BOXES.tolist(), modality="US").label_map
    np.testing.assert_allclose(found.low_res_logits, logits, atol=1e-4 * logits.std())
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    np.testing.assert_allclose(np.stack(alone), found.low_res_logits, atol=1e-5 * logits.std())
    np.testing.assert_allclose(given.low_res_logits, found.low_res_logits, atol=1e-4 * logits.std())
    painted = np.zeros(SIZE, np.uint8)
    for label, mask in enumerate(found.masks, 1):
        painted[mask] = label
    np.testing.assert_array_equal(labels, painted)


@pytest.mark.parametrize("has_clip", [False, True])
def test_the_graphs_hold_nothing_that_could_be_folded(bundles: Mapping[bool, Path], has_clip: bool) -> None:
    import onnx

    for name in ("decoder.onnx", *(["clip.onnx"] if has_clip else [])):
        graph = onnx.load(bundles[has_clip] / name).graph
        constants = {one.name for one in graph.initializer}
        assert [node.name for node in graph.node if node.input and set(node.input) <= constants] == []
        kinds = {node.op_type for node in graph.node}
        assert not kinds & {"BatchNormalization", "ConvTranspose", "Constant", "Identity", "Resize", "Loop", "If"}


# CLIP


def test_the_size_of_a_clip_is_read_from_its_entries() -> None:
    with torch.device("meta"):
        for size in (SMALL, ClipSize(), replace(ClipSize(), patch=16, positions=197, text_positions=40, words=100)):
            entries = Clip(size).state_dict()
            assert ClipSize.of({name: tuple(value.shape) for name, value in entries.items()}) == size
    assert ClipSize.of({}) == ClipSize()
    assert Clip(SMALL).side == 224


def test_both_towers_give_what_transformers_gives(clip: Clip) -> None:
    images = torch.from_numpy(np.random.RandomState(3).rand(2, 3, 224, 224).astype(np.float32))
    with torch.inference_mode():
        seen, read = ClipVision(clip)(images), clip.texts([name_tokens("PET"), name_tokens("Dermoscopy")])
    # CLIPModel of transformers 5.18 with these weights: get_image_features, and get_text_features of "PET Image" and
    # "Dermoscopy Image" padded to 77 tokens
    wanted = [0.92020, 0.20987, -0.37993, -1.53518, 0.56257, -0.48430, 0.17800, 0.19254]
    np.testing.assert_allclose(seen[1, ::64], wanted, atol=2e-5)
    texts = [[1.12566, 0.38719, 0.53287, 0.71994], [-1.63229, 0.36367, 0.30775, 1.27745]]
    np.testing.assert_allclose(read[:, ::128], texts, atol=2e-5)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (replace(SMALL, positions=10), r"position_embedding.weight \(10, 64\) instead of \(50, 64\)"),
        (replace(SMALL, outputs=256), r"visual_projection.weight \(256, 64\) instead of \(512, 64\)"),
    ],
)
def test_a_clip_of_other_images_or_vectors_is_refused(tmp_path: Path, size: ClipSize, text: str) -> None:
    assert FAMILY.extra is not None
    file = tiny_family.saved(clip_weights(size), tmp_path / "clip.bin")
    with pytest.raises(CheckpointError, match=rf"is not CLIP .*of another shape .*{text}"):
        load_extra(FAMILY.extra, read_checkpoint(file))


def test_a_vision_tower_alone_is_not_enough(tmp_path: Path) -> None:
    assert FAMILY.extra is not None
    towers = {name: value for name, value in clip_weights().items() if not name.startswith("text")}
    file = tiny_family.saved(towers, tmp_path / "clip.bin")
    with pytest.raises(CheckpointError, match=r"is not CLIP .*: missing text_model.embeddings.token_embedding.weight"):
        load_extra(FAMILY.extra, read_checkpoint(file))
