"""Rep-MedSAM: RepViT's merged convolutions against its branches, and the published facts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from published import LOOPS, manifest_of

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from tiny_family import randomised  # noqa: E402

from export.families import Graph, load_family  # noqa: E402
from export.families._repvit import (  # noqa: E402
    RepVit,
    RepVitStage,
    _Block,
    _ConvBn,
    _RepVggDw,
    _Residual,
    _SqueezeExcite,
)
from export.graph import write_onnx  # noqa: E402
from export.load import load_model, match, read_checkpoint  # noqa: E402
from runtime import transforms  # noqa: E402

TINY = (RepVitStage(8, 1, 1, (0,)), RepVitStage(16, 2, 2, (1,)), RepVitStage(24, 1, 2, ()), RepVitStage(32, 1, 1, ()))


def test_convolution_and_normalisation_are_one_convolution() -> None:
    layer = randomised(_ConvBn(6, 12, 3, stride=2, groups=3))
    assert isinstance(layer, _ConvBn)
    x = torch.randn(1, 6, 9, 9)
    torch.testing.assert_close(layer(x), layer.bn(layer.c(x)))


def test_the_three_branches_of_a_block_are_one_convolution() -> None:
    layer = randomised(_RepVggDw(5))
    assert isinstance(layer, _RepVggDw)
    x = torch.randn(1, 5, 8, 8)
    branches = layer.conv.bn(layer.conv.c(x)) + layer.conv1(x) + x
    torch.testing.assert_close(layer(x), layer.bn(branches), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("width", "hidden"), [(56, 16), (112, 32), (224, 56), (448, 112)])
def test_channels_are_weighed_through_a_quarter_of_them_in_steps_of_eight(width: int, hidden: int) -> None:
    layer = randomised(_SqueezeExcite(width))
    assert isinstance(layer, _SqueezeExcite)
    assert layer.fc1.out_channels == hidden
    x = torch.randn(1, width, 16, 16)
    squeezed = torch.relu(layer.fc1.weight[:, :, 0, 0] @ x.mean((0, 2, 3)) + layer.fc1.bias)
    gates = torch.sigmoid(layer.fc2.weight[:, :, 0, 0] @ squeezed + layer.fc2.bias)
    torch.testing.assert_close(layer(x), x * gates[:, None, None], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "stride", "adds"),
    [(8, 1, True), (16, 2, True), (16, 1, False)],
    ids=["same width", "smaller", "wider at the same size"],
)
def test_only_a_block_that_keeps_its_width_adds_what_came_in(outputs: int, stride: int, adds: bool) -> None:
    block = randomised(_Block(8, outputs, stride=stride, excite=False))
    assert isinstance(block, _Block)
    assert isinstance(block.channel_mixer, _Residual) is adds
    x = torch.randn(1, 8, 8, 8)
    mixed = block.token_mixer(x)
    mixer = block.channel_mixer.m if isinstance(block.channel_mixer, _Residual) else block.channel_mixer
    assert isinstance(mixer, torch.nn.Sequential)
    hidden = mixer[0](mixed)
    wanted = mixer[2](hidden * (1 + torch.erf(hidden / 2**0.5)) / 2) + (mixed if adds else 0)
    torch.testing.assert_close(block(x), wanted, atol=1e-5, rtol=1e-5)


def test_the_graph_holds_one_convolution_for_every_branch_and_normalisation(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = randomised(RepVit(TINY, outputs=16))
    image = torch.rand(1, 3, 64, 64)
    write_onnx(Graph(model, {"image": image}, ("image_embedding",)), tmp_path / "encoder.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "encoder.onnx").graph.node]
    assert "BatchNormalization" not in kinds
    assert "Pad" not in kinds  # the merged weights are constants
    shrinking, keeping, gates, around = 2 * 4, 3 * 3, 2 * 2, 2 + 2  # convolutions: a block's, a gate's, stem and neck
    assert kinds.count("Conv") == shrinking + keeping + gates + around
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy()})
    assert found.shape == (1, 16, 16, 16)
    np.testing.assert_allclose(found, model(image).numpy(), atol=1e-4)


def test_the_facts_are_those_that_the_goldens_were_replayed_with() -> None:
    facts, manifest = load_family("rep_medsam").facts, manifest_of("rep_medsam")
    assert facts.input == manifest.input
    assert facts.output == manifest.output
    assert facts.prompts == manifest.prompts
    assert facts.propagation.published == LOOPS["rep_medsam"]


@pytest.mark.slow
def test_the_torch_model_reproduces_the_goldens_with_pseudo_weights(conformance: Path, tmp_path: Path) -> None:
    folder, checkpoint = conformance / "rep_medsam", tmp_path / "rep_medsam.pth"
    maker = [sys.executable, conformance / "make_checkpoint.py", folder / "manifest.json", checkpoint]
    subprocess.run(maker, check=True, capture_output=True)
    family, state_dict = match(read_checkpoint(checkpoint), [load_family("rep_medsam")])
    graphs = family.graphs(load_model(family, state_dict))
    case = np.load(folder / "case_0.npz")
    frame = transforms.frame_of(manifest_of("rep_medsam"), case["image"].shape[:2])
    image = transforms.encoder_input(case["image"], family.facts.input, frame)
    np.testing.assert_array_equal(image, case["encoder_input"])
    embedding = graphs["encoder"].module(torch.from_numpy(image))
    sample = embedding.numpy().reshape(-1)[:: int(case["embedding_stride"])]
    np.testing.assert_allclose(sample, case["embedding_sample"], atol=1e-4, rtol=0)
    logits, scores = graphs["decoder"].module(embedding, torch.from_numpy(case["prompt_boxes"]))
    wanted = case["low_res_logits"]
    np.testing.assert_allclose(logits[:, 0].numpy(), wanted, atol=1e-4 * wanted.std(), rtol=0)
    np.testing.assert_allclose(scores[:, 0].numpy(), case["iou"], atol=1e-4)
