"""ESP-MedSAM: its additions to TinyViT, the prompt that it makes itself, and a tiny one from checkpoint to session."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from tiny_family import randomised  # noqa: E402
from torch.nn import functional  # noqa: E402

import export.convert  # noqa: E402
import runtime  # noqa: E402
from export.convert import convert  # noqa: E402
from export.families import load_families, load_family  # noqa: E402
from export.families._tiny_vit import TinyVitSize  # noqa: E402
from export.families.esp_medsam import (  # noqa: E402
    EspDecoder,
    EspEncoder,
    EspMedSam,
    _AdaptedBlock,
    _TokenAttention,
    graphs,
)
from export.load import Checkpoint, StateDict, match  # noqa: E402
from runtime.manifest import EmbeddingTensor  # noqa: E402
from runtime.transforms import encoder_input, frame_of  # noqa: E402

SYSTEM = "esp_medsam"
TINY = TinyVitSize(
    widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), windows=(7, 7, 3, 3), outputs=16, stem=2
)
GRID = (4, 4)


def tiny() -> EspMedSam:
    model = randomised(EspMedSam(TINY, grid=GRID, heads=2, hidden=32, mask_channels=4))
    assert isinstance(model, EspMedSam)
    return model


def test_a_learned_token_is_one_more_key_and_its_own_value() -> None:
    layer = randomised(_TokenAttention(12, 3, 4))
    assert isinstance(layer, _TokenAttention)
    x = torch.randn(2, 16, 12)
    normed, heads = layer.norm(x), []
    for head in range(3):
        rows = slice(head * 12, head * 12 + 12)
        q, k, v = (normed @ layer.qkv.weight[rows].T + layer.qkv.bias[rows]).split(4, dim=-1)
        token = layer.deep_QKV_embeddings_med[head]
        near = q @ k.transpose(-1, -2) / 2 + layer.attention_biases[head][layer.offsets]
        weights = torch.softmax(torch.cat([near, q @ token.T / 2 + layer.med_attention_biases], dim=-1), dim=-1)
        heads.append(weights[..., :-1] @ v + weights[..., -1:] * token[0])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(heads, dim=-1)), atol=1e-5, rtol=1e-5)


def test_two_feed_forward_layers_are_one_of_twice_the_width() -> None:
    block = randomised(_AdaptedBlock(12, 3, 4))
    assert isinstance(block, _AdaptedBlock)
    x = torch.randn(1, 20, 12)
    torch.testing.assert_close(block.feed(x), block.mlp(x) + block.med_dah(x), atol=1e-5, rtol=1e-5)


def test_the_decoder_adds_the_patches_that_it_found_and_takes_the_row_of_the_modality() -> None:
    model = tiny()
    embedding, patches = torch.randn(1, 16, *GRID), torch.tensor([[[[1.2, -0.7], [-2.0, 0.4]]]])
    found = torch.sigmoid(patches) >= 0.5
    assert 0 < found.sum() < 4
    dense = model.dense_prompter(functional.interpolate(found.float(), scale_factor=2))
    pixels = (embedding + dense).flatten(2).transpose(1, 2)
    tokens, pixels = model.mask_decoder.transformer(model.mask_query.weight[None], pixels, model.prompt_encoder.grid())
    maps = model.mask_decoder.output_upscaling(pixels.transpose(1, 2).reshape(1, 16, *GRID))
    for index in range(6):
        weights = model.mask_decoder.output_hypernetworks_mlps[0](tokens[:, index])
        logits = EspDecoder(model)(embedding, patches, torch.tensor([index]))
        torch.testing.assert_close(logits[0, 0], (maps[0] * weights[0, :, None, None]).sum(0), atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundle of `tiny`, converted with the facts of the published system but for the sizes."""
    family, folder = load_family(SYSTEM), tmp_path_factory.mktemp("esp")
    facts = dataclasses.replace(
        family.facts,
        input=msgspec.structs.replace(family.facts.input, size=(64, 64)),
        embedding=(
            EmbeddingTensor(name="image_embedding", shape=(1, 16, *GRID)),
            EmbeddingTensor(name="patch_map", shape=(1, 1, 2, 2)),
        ),
        output=msgspec.structs.replace(family.facts.output, low_res_size=(16, 16)),
    )
    small = dataclasses.replace(family, facts=facts, build=tiny, graphs=graphs)
    torch.save(tiny().state_dict(), folder / "tiny.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.convert, "load_families", lambda: (small,))
        yield convert(folder / "tiny.pth", folder / "bundle")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_bundle_needs_no_prompt_and_agrees_with_torch(bundle: Path, engine: str) -> None:
    model = tiny()
    image = np.random.default_rng(4).integers(0, 255, (37, 90, 3), dtype=np.uint8)
    with runtime.Session(bundle, backend=engine, precision="fp32", cache=False) as session:
        manifest = session.manifest
        assert (manifest.prompts.finds_alone, manifest.modalities[3]) == (True, "fundus")
        pixels = torch.from_numpy(encoder_input(image, manifest.input, frame_of(manifest, (37, 90))))
        found = session.decode(session.encode(image), modality="Fundus")
        logits = EspDecoder(model)(*EspEncoder(model)(pixels), torch.tensor([3]))
        np.testing.assert_allclose(found.low_res_logits, logits[0].numpy(), atol=1e-3 * float(logits.std()))
        at_input = functional.interpolate(logits, (64, 64), mode="bilinear")
        mask = functional.interpolate(at_input, (37, 90), mode="bilinear")[0, 0].numpy() >= 0
        assert np.mean(found.masks[0] != mask) <= 1e-3
        auto = session.segment(image, auto=True, modality="fundus")
        np.testing.assert_array_equal(auto.label_map.astype(bool), found.masks[0])
        cut = session.segment(image, box=(20, 10, 60, 30), modality="fundus")
        wanted = np.zeros_like(mask)
        wanted[10:31, 20:61] = found.masks[0][10:31, 20:61]
        np.testing.assert_array_equal(cut.label_map.astype(bool), wanted)


def test_the_published_layout_is_this_family_alone(conformance: Path) -> None:
    entries = json.loads((conformance / SYSTEM / "manifest.json").read_text())["checkpoint"]["tensors"]
    layout = {name: tuple(shape) for name, shape, *_ in entries if not name.endswith("num_batches_tracked")}
    assert load_family(SYSTEM).layout() == layout
    tensors = {f"module.{name}": torch.empty(shape, device="meta") for name, shape in layout.items()}
    inner = {name.removeprefix("module."): value for name, value in tensors.items()}
    checkpoint = Checkpoint(Path("esp.pth"), "0" * 64, (StateDict("", tensors), StateDict("module", inner)))
    family, state_dict = match(checkpoint, load_families())
    assert (family.name, state_dict.where) == (SYSTEM, "module")


def test_the_facts_are_the_published_ones(conformance: Path) -> None:
    facts = json.loads((conformance / SYSTEM / "manifest.json").read_text())
    family = load_family(SYSTEM)
    assert facts["repository"] in family.repository
    assert family.revision == facts["commit"]
    assert family.facts.input.size == (facts["hyper"]["image_encoder"][1]["img_size"],) * 2
    assert family.facts.input.normalise.mean == family.facts.input.normalise.std == (123.675, 116.28, 103.53)
    assert len(family.facts.modalities) == 6
    for index, name in enumerate(family.facts.modalities):
        assert f"{index} {name}" in facts["prompt"]["domain_seq"]
