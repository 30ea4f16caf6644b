"""The network's window arithmetic, its folded form, and the same numbers in both backends."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export.pretrain.config import ModelConfig  # noqa: E402
from export.pretrain.graphs import DECODER_INPUTS, ENCODER_OUTPUTS, DecoderGraph, fold, write_graphs  # noqa: E402
from export.pretrain.model import OUTSIDE, Network  # noqa: E402

_SMALL = ModelConfig(widths=(4, 8, 8, 12, 16), blocks=(0, 1, 1, 1, 1), embedding=(8, 8, 12), candidates=2)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    made = Network(_SMALL)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics and weights that a fold cannot ignore
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    return made.eval()


def _feeds(network: Network, count: int, clicks: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    image = rng.random((1, 3, 256, 256), np.float32)
    with torch.inference_mode():
        levels = network.encoder(torch.from_numpy(image))
    feeds = {name: level.numpy() for name, level in zip(ENCODER_OUTPUTS[:3], levels, strict=True)}
    corners = np.sort(rng.uniform(0, 255, (count, 2, 2)), axis=1)
    return {
        "image": image,
        **feeds,
        "pixels": np.round(image * 255).astype(np.uint8),
        "boxes": corners.reshape(count, 4).astype(np.float32),
        "points": rng.uniform(0, 255, (count, clicks, 2)).astype(np.float32),
        "point_labels": rng.integers(-1, 2, (count, clicks)).astype(np.float32),
        "masks": (8 * rng.standard_normal((count, 1, 256, 256))).astype(np.float32),
        "has_mask": (np.arange(count) % 2).astype(np.float32),
    }


def _reference(network: Network, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.inference_mode():
        logits, scores = DecoderGraph(network)(*[torch.from_numpy(feeds[name]) for name in DECODER_INPUTS])
    return [logits.numpy(), scores.numpy()]


def test_the_folded_network_computes_the_same(network: Network) -> None:
    feeds = _feeds(network, 2, 1)
    folded = fold(network)
    with torch.inference_mode():
        levels = folded.encoder(torch.from_numpy(feeds["image"]))
    for name, level in zip(ENCODER_OUTPUTS[:3], levels, strict=True):
        np.testing.assert_allclose(level.numpy(), feeds[name], atol=1e-4)
    for got, want in zip(_reference(folded, feeds), _reference(network, feeds), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]  # the original is untouched


@pytest.fixture(scope="module")
def graphs(network: Network, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_graphs(network, tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize(("count", "clicks"), [(1, 1), (4, 3)])
def test_onnx_runtime_gives_the_numbers_of_torch(
    network: Network, graphs: dict[str, Path], count: int, clicks: int
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    feeds = _feeds(network, count, clicks)
    paths = (str(graphs[role]) for role in ("encoder", "decoder"))
    encoder, decoder = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in paths)
    for name, got in zip(ENCODER_OUTPUTS, encoder.run(None, {"image": feeds["image"]}), strict=True):
        np.testing.assert_allclose(got, feeds[name], atol=1e-3)
    got = decoder.run(None, {name: feeds[name] for name in DECODER_INPUTS})
    for values, want in zip(got, _reference(network, feeds), strict=True):
        assert values.shape == want.shape
        np.testing.assert_allclose(values, want, atol=1e-3)


@pytest.mark.parametrize(("count", "clicks"), [(1, 1), (4, 3)])
def test_openvino_gives_the_numbers_of_torch(
    network: Network, graphs: dict[str, Path], count: int, clicks: int
) -> None:
    openvino = pytest.importorskip("openvino")
    feeds = _feeds(network, count, clicks)
    core = openvino.Core()
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    encoder, decoder = (
        core.compile_model(core.read_model(graphs[role]), "CPU", precise) for role in ("encoder", "decoder")
    )
    answer = encoder({"image": feeds["image"]})
    for index, name in enumerate(ENCODER_OUTPUTS):
        np.testing.assert_allclose(answer[index], feeds[name], atol=1e-3)
    answer = decoder({name: feeds[name] for name in DECODER_INPUTS})
    for index, want in enumerate(_reference(network, feeds)):
        np.testing.assert_allclose(answer[index], want, atol=1e-3)


@pytest.mark.parametrize("best", [0, 1])
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_graph_for_one_box_gives_the_best_candidate_of_the_decoder(
    network: Network, tmp_path: Path, engine: str, best: int
) -> None:
    from runtime.backends.base import BackendOptions
    from runtime.backends.ort import OrtBackend
    from runtime.backends.ov import OpenVinoBackend

    partial = copy.deepcopy(network)
    partial.decoder.score[-1].bias.data[best] += 3.0
    kinds = {"openvino": OpenVinoBackend, "onnxruntime": OrtBackend}
    graph = kinds[engine](write_graphs(partial, tmp_path)["one_box"], BackendOptions(precision="fp32"))
    names = [spec.name for spec in graph.io_spec.inputs]
    assert not {"points", "point_labels"} & set(names)
    assert all(None not in spec.shape for spec in graph.io_spec.inputs)
    for flag in (0.0, 1.0):
        feeds = _feeds(partial, 1, 1)
        feeds["point_labels"][:], feeds["has_mask"][:] = -1, flag
        logits, scores = _reference(partial, feeds)
        assert scores[0].argmax() == best
        found = graph.run({name: feeds[name] for name in names})
        np.testing.assert_allclose(found["low_res_logits"], logits[:, best : best + 1], atol=1e-3)
        np.testing.assert_allclose(found["scores"], scores[:, best : best + 1], atol=1e-3)
    graph.close()


def test_logits_beyond_the_window_are_far_below_zero(network: Network) -> None:
    feeds = _feeds(network, 1, 1)
    feeds["boxes"] = np.array([[100, 110, 119, 125]], np.float32)  # half box 10 x 8, half window 16.5 x 14
    logits, _ = _reference(network, feeds)
    inside = logits[0, 0] != OUTSIDE
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert (columns[0], rows[0], columns[-1], rows[-1]) == (93, 104, 126, 131)


def test_pasting_undoes_the_window(network: Network) -> None:
    geometry = network.decoder.geometry
    boxes = torch.tensor([[40.0, 60.0, 139.0, 129.0]])
    rows, columns = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    field = (columns * 0.1 - rows * 0.05)[None, None]
    centre, _, half = geometry.window(boxes)
    window = torch.nn.functional.grid_sample(field, geometry.grid(128, centre, half), align_corners=False)
    pasted = network.decoder.paste(window, boxes)
    assert torch.allclose(pasted[0, 0, 60:130, 40:140], field[0, 0, 60:130, 40:140], atol=1e-2)


def test_a_mask_prompt_without_its_flag_changes_nothing(network: Network) -> None:
    feeds = _feeds(network, 2, 1)
    feeds["has_mask"] = np.zeros(2, np.float32)
    with_mask = _reference(network, feeds)[0]
    feeds["masks"] = -feeds["masks"]
    assert np.array_equal(with_mask, _reference(network, feeds)[0])
    feeds["has_mask"] = np.ones(2, np.float32)
    assert not np.array_equal(with_mask, _reference(network, feeds)[0])


def test_a_padded_point_changes_nothing(network: Network) -> None:
    feeds = _feeds(network, 1, 1)
    feeds["points"], feeds["point_labels"] = np.array([[[9.0, 9.0]]], np.float32), np.array([[-1.0]], np.float32)
    first = _reference(network, feeds)[0]
    feeds["points"] = np.array([[[99.0, 120.0]]], np.float32)
    assert np.array_equal(first, _reference(network, feeds)[0])


def test_prompts_do_not_see_each_other(network: Network) -> None:
    feeds = _feeds(network, 3, 2)
    together = _reference(network, feeds)[0]
    names = ("boxes", "points", "point_labels", "masks", "has_mask")
    alone = _reference(network, feeds | {name: feeds[name][1:2] for name in names})[0]
    np.testing.assert_allclose(alone[0], together[1], atol=1e-4)
