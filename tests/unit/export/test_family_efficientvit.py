"""EfficientViT-SAM's attention, neck and layout, and the four systems that use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from published import LOOPS, manifest_of

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from export.families import Graph, load_families, load_family  # noqa: E402
from export.families._efficientvit import (  # noqa: E402
    L0,
    _ActivatedConv,
    _AttentionBlock,
    _Backbone,
    _LiteMla,
    _Sequence,
    _Upsample,
    efficientvit_sam,
)
from export.families._sam import LayerNorm2d  # noqa: E402
from export.graph import write_onnx  # noqa: E402
from export.load import Checkpoint, StateDict, load_model, match, read_checkpoint  # noqa: E402
from runtime import transforms  # noqa: E402
from runtime.errors import CheckpointError  # noqa: E402

SYSTEMS = ("medficientsam_l0", "medficientsam_l1", "medficientsam_l2", "daft")
HEAD = 32


def randomised(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every weight, and every statistic of batch normalisation, a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif "weights" not in name:
            value.copy_(torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5)
    return model.eval().requires_grad_(False)


def attend_head_by_head(qkv: NDArray[np.float64]) -> NDArray[np.float64]:
    """The published formula on (groups * 3 * 32, H * W): each group is one head's queries, keys and values."""
    outputs = []
    for group in qkv.reshape(-1, 3 * HEAD, qkv.shape[1]):
        q, k, v = np.maximum(group[:HEAD], 0), np.maximum(group[HEAD : 2 * HEAD], 0), group[2 * HEAD :]
        agreement = q.T @ k  # of each pixel's query with every pixel's key
        outputs.append((agreement @ v.T / (agreement.sum(1, keepdims=True) + 1e-15)).T)
    return np.concatenate(outputs)


def test_attention_agrees_with_the_published_formula_pixel_by_pixel() -> None:
    layer = randomised(_LiteMla(64))
    assert isinstance(layer, _LiteMla)
    x = torch.randn(1, 64, 6, 5)
    qkv = layer.qkv(x)
    both = torch.cat([qkv, layer.aggreg[0](qkv)], dim=1)[0].flatten(1)
    attended = torch.from_numpy(attend_head_by_head(both.double().numpy()).astype(np.float32))
    torch.testing.assert_close(layer(x), layer.proj(attended.reshape(1, 128, 6, 5)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_query_that_no_key_agrees_with_sees_nothing_in_any_precision(precision: torch.dtype) -> None:
    layer = randomised(_LiteMla(64))
    assert isinstance(layer, _LiteMla)
    layer.qkv.conv.weight.zero_()
    layer.to(precision)
    nothing = layer.proj(torch.zeros(1, 128, 3, 3, dtype=precision))
    torch.testing.assert_close(layer(torch.ones(1, 64, 3, 3, dtype=precision)), nothing)


@pytest.mark.parametrize("old", [8, 16, 32])
def test_upsampling_by_matrices_is_bicubic_interpolation(old: int) -> None:
    x = torch.randn(1, 3, old, old)
    wanted = torch.nn.functional.interpolate(x, size=(64, 64), mode="bicubic", align_corners=False)
    torch.testing.assert_close(_Upsample(old, 64)(x), wanted, atol=1e-5, rtol=1e-5)


def test_a_map_that_has_the_size_already_is_passed_on() -> None:
    x = torch.randn(1, 3, 64, 64)
    assert _Upsample(64, 64)(x) is x


def test_gelu_is_the_approximation_by_tanh() -> None:
    layer = randomised(_ActivatedConv(4, 4))
    assert isinstance(layer, _ActivatedConv)
    x = torch.randn(1, 4, 5, 5)
    y = layer.norm(layer.conv(x))
    wanted = y / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
    torch.testing.assert_close(layer(x), wanted, atol=1e-6, rtol=1e-5)


def test_every_normalisation_has_the_epsilon_of_the_published_systems() -> None:
    with torch.device("meta"):
        model = efficientvit_sam(L0, 256)
    kinds = (torch.nn.BatchNorm2d, torch.nn.LayerNorm, LayerNorm2d)
    found = {name: module.eps for name, module in model.named_modules() if isinstance(module, kinds)}
    assert {name.split(".")[0] for name in found} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert set(found.values()) == {1e-6}


def test_the_neck_is_given_the_last_three_stages_the_smallest_first() -> None:
    with torch.device("meta"):
        maps = _Backbone(L0.depths)(torch.empty(1, 3, 256, 256))
    assert [tuple(one.shape[1:]) for one in maps] == [(512, 8, 8), (256, 16, 16), (128, 32, 32)]


def test_the_graph_needs_no_normalisation_and_no_cubic_resize(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = randomised(_Sequence([_AttentionBlock(64, 2), _Upsample(8, 16)]))
    x = torch.randn(1, 64, 8, 8)
    write_onnx(Graph(model, {"x": x}, ("y",)), tmp_path / "block.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "block.onnx").graph.node}
    assert not kinds & {"BatchNormalization", "Resize"}
    session = onnxruntime.InferenceSession(tmp_path / "block.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], model(x).numpy(), atol=1e-4)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_facts_are_those_that_the_goldens_were_replayed_with(system: str) -> None:
    facts, manifest = load_family(system).facts, manifest_of(system)
    assert facts.input == manifest.input
    assert facts.output == manifest.output
    assert facts.prompts == manifest.prompts
    assert facts.propagation.published == LOOPS[system]


def test_a_checkpoint_that_fits_two_input_sizes_alike_asks_which_it_is() -> None:
    layout = load_family("daft").layout()
    tensors = {name: torch.empty(shape, device="meta") for name, shape in layout.items()}
    checkpoint = Checkpoint(Path("general.pth"), "0" * 64, (StateDict("", tensors),))
    with pytest.raises(CheckpointError, match=r"fits daft and medficientsam_l0 alike; say which with --family"):
        match(checkpoint, load_families())
    assert match(checkpoint, load_families(), wanted="daft")[0].name == "daft"


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_torch_model_reproduces_the_goldens_with_pseudo_weights(
    conformance: Path, tmp_path: Path, system: str
) -> None:
    folder, path = conformance / system, tmp_path / f"{system}.pth"
    maker = [sys.executable, conformance / "make_checkpoint.py", folder / "manifest.json", path]
    subprocess.run(maker, check=True, capture_output=True)
    family, state_dict = match(read_checkpoint(path), [load_family(system)])
    graphs = family.graphs(load_model(family, state_dict))
    case = np.load(folder / "case_0.npz")
    frame = transforms.frame_of(manifest_of(system), case["image"].shape[:2])
    image = transforms.encoder_input(case["image"], family.facts.input, frame)
    embedding = graphs["encoder"].module(torch.from_numpy(image))
    sample = embedding.numpy().reshape(-1)[:: int(case["embedding_stride"])]
    np.testing.assert_allclose(sample, case["embedding_sample"], atol=1e-4, rtol=0)
    logits, scores = graphs["decoder"].module(embedding, torch.from_numpy(case["prompt_boxes"]))
    wanted = case["low_res_logits"]
    np.testing.assert_allclose(logits[:, 0].numpy(), wanted, atol=1e-4 * wanted.std(), rtol=0)
    np.testing.assert_allclose(scores[:, 0].numpy(), case["iou"], atol=1e-4)
