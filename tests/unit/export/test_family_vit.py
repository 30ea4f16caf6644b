"""SAM's vision transformer against a formulation patch by patch, and the two systems that use it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from published import manifest_of

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from export.families import _vit, load_families, load_family  # noqa: E402
from export.families._sam_graphs import box_graphs  # noqa: E402
from export.families._vit import Attention, Vit, VitSize, vit_sam  # noqa: E402
from export.graph import write_onnx  # noqa: E402
from export.load import Checkpoint, StateDict, match  # noqa: E402
from runtime import transforms  # noqa: E402
from runtime._prompt_arrays import Given, prompt_arrays  # noqa: E402
from runtime.errors import CheckpointError  # noqa: E402

TINY = VitSize(image=64, patch=16, width=32, depth=2, heads=4, window=3, global_blocks=(1,), outputs=16)
SYSTEMS = ("medsam", "sam_vit_b")


def random_weights(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter, the biases and relative positions too, values that matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        scale = 0.3 if parameter.ndim < 2 else 2 * parameter[0].numel() ** -0.5
        parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    return model.eval().requires_grad_(False)


def softmax(row: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def attend_patch_by_patch(layer: Attention, patches: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Attention of (rows, columns, C) as published: zeros around the grid are patches like any other."""
    weights = {name: value.numpy().astype(np.float64) for name, value in layer.state_dict().items()}
    height, width, channels = patches.shape
    heads = layer.heads
    depth = channels // heads
    filled = np.zeros((-(-height // side) * side, -(-width // side) * side, channels))
    filled[:height, :width] = patches
    output = np.zeros_like(filled)
    for top in range(0, filled.shape[0], side):
        for left in range(0, filled.shape[1], side):
            window = filled[top : top + side, left : left + side].reshape(side * side, channels)
            qkv = (window @ weights["qkv.weight"].T + weights["qkv.bias"]).reshape(side * side, 3, heads, depth)
            seen = np.zeros((side * side, heads, depth))
            for head in range(heads):
                q, k, v = qkv[:, 0, head], qkv[:, 1, head], qkv[:, 2, head]
                for one in range(side * side):
                    row, column = divmod(one, side)
                    scores = np.array(
                        [
                            q[one] @ k[other] / np.sqrt(depth)
                            + q[one] @ weights["rel_pos_h"][row - other // side + side - 1]
                            + q[one] @ weights["rel_pos_w"][column - other % side + side - 1]
                            for other in range(side * side)
                        ]
                    )
                    seen[one, head] = softmax(scores) @ v
            out = seen.reshape(side * side, channels) @ weights["proj.weight"].T + weights["proj.bias"]
            output[top : top + side, left : left + side] = out.reshape(side, side, channels)
    return output[:height, :width]


@pytest.mark.parametrize("side", [2, 3, 4], ids=["windows that fit", "windows that stick out", "no windows"])
def test_attention_agrees_with_the_published_formula_patch_by_patch(side: int) -> None:
    layer = random_weights(Attention(TINY, side))
    assert isinstance(layer, Attention)
    patches = np.random.default_rng(side).standard_normal((4, 4, 32))
    found = layer(torch.from_numpy(patches.astype(np.float32)).reshape(1, 16, 32))
    wanted = attend_patch_by_patch(layer, patches, side)
    np.testing.assert_allclose(found.numpy().reshape(4, 4, 32), wanted, atol=1e-5)


@pytest.mark.parametrize("scores", [1, 3 * 4 * 4 * 4 * 4])
def test_the_result_does_not_depend_on_how_many_scores_are_computed_at_once(
    monkeypatch: pytest.MonkeyPatch, scores: int
) -> None:
    layer = random_weights(Attention(TINY, 4))
    patches = torch.randn(1, 16, 32)
    whole = layer(patches)
    monkeypatch.setattr(_vit, "_SCORES", scores)
    torch.testing.assert_close(layer(patches), whole, atol=1e-6, rtol=1e-6)


def test_the_encoder_is_its_blocks_one_after_the_other_between_patches_and_neck() -> None:
    model = random_weights(Vit(TINY))
    assert isinstance(model, Vit)
    image = torch.randn(1, 3, 64, 64)
    x = torch.nn.functional.conv2d(image, model.patch_embed.proj.weight, model.patch_embed.proj.bias, stride=16)
    x = x.permute(0, 2, 3, 1) + model.pos_embed
    for block, side in zip(model.blocks, (3, 4), strict=True):
        normed = torch.nn.functional.layer_norm(x, (32,), block.norm1.weight, block.norm1.bias, 1e-6)
        seen = attend_patch_by_patch(block.attn, normed[0].double().numpy(), side)
        x = x + torch.from_numpy(seen[None].astype(np.float32))
        normed = torch.nn.functional.layer_norm(x, (32,), block.norm2.weight, block.norm2.bias, 1e-6)
        hidden = normed @ block.mlp.lin1.weight.T + block.mlp.lin1.bias
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        x = x + hidden @ block.mlp.lin2.weight.T + block.mlp.lin2.bias
    wanted = model.neck(x.permute(0, 3, 1, 2))
    torch.testing.assert_close(model(image), wanted, atol=2e-4, rtol=1e-4)


def test_the_graph_computes_what_the_module_computes_and_holds_its_weights_once(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = vit_sam(TINY)
    random_weights(model)
    graph = box_graphs(model, input_size=(64, 64))["encoder"]
    write_onnx(graph, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).random((1, 3, 64, 64), np.float32)
    (found,) = session.run(["image_embedding"], {"image": image})
    np.testing.assert_allclose(found, graph.module(torch.from_numpy(image)).numpy(), atol=1e-4)
    weights = 4 * sum(parameter.numel() for parameter in model.image_encoder.parameters())
    assert (tmp_path / "encoder.onnx").stat().st_size < 1.5 * weights + 60_000  # 60 kB for the nodes


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_facts_are_those_that_the_goldens_were_replayed_with(system: str) -> None:
    facts, manifest = load_family(system).facts, manifest_of(system)
    assert facts.input == manifest.input
    assert facts.output == manifest.output
    assert facts.prompts == manifest.prompts


def vit_checkpoint() -> Checkpoint:
    layout = load_family("medsam").layout()
    tensors = {name: torch.empty(shape, device="meta") for name, shape in layout.items()}
    return Checkpoint(Path("vit.pth"), "0" * 64, (StateDict("", tensors),))


def test_a_checkpoint_that_fits_medsam_and_sam_alike_asks_which_it_is() -> None:
    with pytest.raises(CheckpointError, match=r"vit\.pth fits medsam and sam_vit_b alike; say which with --family"):
        match(vit_checkpoint(), load_families())


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_named_family_settles_which_of_two_equal_layouts_it_is(system: str) -> None:
    family, _ = match(vit_checkpoint(), load_families(), wanted=system)
    assert family.name == system


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_torch_model_reproduces_the_goldens_with_pseudo_weights(conformance: Path, system: str) -> None:
    family = load_family(system)
    model = family.build()
    model.load_state_dict({name: pseudo_weight(name, value) for name, value in model.state_dict().items()})
    graphs = family.graphs(model.eval().requires_grad_(False))
    case = np.load(conformance / system / "case_0.npz")
    manifest = manifest_of(system)
    frame = transforms.frame_of(manifest, case["image"].shape[:2])
    image = transforms.encoder_input(case["image"], manifest.input, frame)
    embedding = graphs["encoder"].module(torch.from_numpy(image))
    sample = embedding.numpy().reshape(-1)[:: int(case["embedding_stride"])]
    np.testing.assert_allclose(sample, case["embedding_sample"], atol=1e-3)
    prompts = prompt_arrays(manifest, frame, Given(boxes=case["boxes"]))
    np.testing.assert_array_equal(prompts["boxes"], case["prompt_boxes"])
    tensors = {"image_embedding": embedding, **{name: torch.from_numpy(values) for name, values in prompts.items()}}
    logits, scores = graphs["decoder"].module(*(tensors[name] for name in graphs["decoder"].inputs))
    wanted = case["low_res_logits"]
    np.testing.assert_allclose(logits[:, 0].numpy(), wanted, atol=1e-3 * wanted.std(), rtol=0)
    np.testing.assert_allclose(scores[:, 0].numpy(), case["iou"], atol=1e-3)


def pseudo_weight(name: str, like: torch.Tensor) -> torch.Tensor:
    """The value that the goldens were made with: a function of name and shape."""
    from hashlib import sha256

    shape = tuple(like.shape)
    normal = np.random.RandomState(int.from_bytes(sha256(name.encode()).digest()[:4], "little")).standard_normal
    if len(shape) <= 1:
        value = 1 + 0.1 * normal(shape) if name.endswith("weight") else 0.02 * normal(shape)
    elif "positional_encoding_gaussian_matrix" in name:
        value = normal(shape)
    elif any(part in name for part in ("pos_embed", "rel_pos")) or ("embed" in name and len(shape) == 2):
        value = 0.02 * normal(shape)
    else:
        value = normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(value).to(like.dtype)
