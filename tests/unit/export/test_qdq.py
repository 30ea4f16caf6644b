"""INT8 graphs: which operators are quantised, that both engines agree, and that operators go back to float exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("nncf", reason="the export extra is not installed")

from conv_bundle import SIDE, graphs
from engines import ENGINES, open_file, run_python, skip_without
from onnx import TensorProto, helper, numpy_helper

from export._qdq import (
    name_nodes,
    products,
    quantise_graph,
    quantised_nodes,
    restore_float,
    worth_quantising,
)
from runtime.backends import BackendOptions


def decoder() -> Any:
    model = onnx.load_from_string(graphs()["decoder.onnx"])
    name_nodes(model)
    return model


def inputs(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    boxes = np.array([[3, 5, 40, 50], [20, 10, 60, 33]], np.float32)
    return {"levels": rng.uniform(0, 1, (1, 1, SIDE, SIDE)).astype(np.float32), "boxes": boxes + np.float32(seed % 3)}


@pytest.fixture(scope="module")
def quantised() -> tuple[Any, Any]:
    model = decoder()
    chosen, _ = worth_quantising(model, head=True)
    return model, quantise_graph(model, [inputs(seed) for seed in range(3)], chosen, transformer=False)


def run(model: Any, engine: str, tmp_path: Path) -> Any:
    path = tmp_path / "graph.onnx"
    onnx.save(model, path)
    backend = open_file(engine, path, BackendOptions(threads=1))
    try:
        return backend.run(inputs(9))["low_res_logits"]
    finally:
        backend.close()


def by_weight(model: Any, names: Any) -> set[str]:
    return {node.input[1] for node in model.graph.node if node.name in set(names)}


def test_only_operators_with_weights_are_quantised_and_the_head_stays_float() -> None:
    model = decoder()
    chosen, left = worth_quantising(model, head=True)
    assert by_weight(model, chosen) == {"mix.weight", "deep.weight"}
    assert by_weight(model, left) == {"head.weight"}
    assert list(left.values()) == ["writes an output"]
    chosen, left = worth_quantising(model, head=False)
    assert by_weight(model, chosen) == {"mix.weight", "deep.weight"}
    assert list(left.values()) == ["too small to gain"]


def test_a_family_names_weights_that_stay_float() -> None:
    model = decoder()
    chosen, left = worth_quantising(model, head=False, keep_float=("deep.*",))
    assert by_weight(model, chosen) == {"mix.weight"}
    assert set(left.values()) == {"stated by the family", "too small to gain"}


def test_the_encoding_of_positions_stays_float() -> None:
    weight = np.ones((2, 600), np.float32)
    nodes = [
        helper.make_node("MatMul", ["points", "gaussian"], ["turned"], "project"),
        helper.make_node("Mul", ["turned", "two_pi"], ["angle"], "scale"),
        helper.make_node("Sin", ["angle"], ["encoded"], "sine"),
        helper.make_node("MatMul", ["encoded", "linear"], ["y"], "linear"),
    ]
    constants = {"gaussian": weight, "two_pi": np.array(6.28, np.float32), "linear": weight.T.copy()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert worth_quantising(model, head=False) == (["linear"], {"project": "encodes positions"})


def test_layers_are_counted_by_their_multiplications_and_the_smallest_stay_float_up_to_a_twentieth() -> None:
    weights = {
        "conv": np.ones((4, 3, 3, 3), np.float32),
        "many": np.ones((4, 1 << 8), np.float32),
        "few": np.ones((1 << 8, 10), np.float32),
        "last": np.ones((10, 2), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "conv"], ["seen"], "wide", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["seen"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["row"], "flat"),
        helper.make_node("Gemm", ["row", "many"], ["middle"], "less"),
        helper.make_node("Gemm", ["middle", "few"], ["end"], "more"),
        helper.make_node("Gemm", ["end", "last"], ["y"], "tail"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 20, 30])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert products(model) == {"wide": 4 * 27 * 600, "less": 1 << 10, "more": 10 << 8, "tail": 20}
    left = {"less": "too small to gain", "tail": "too small to gain"}
    assert worth_quantising(model, head=False) == (["wide", "more"], left)  # with "more" it would be over 3420 of 68404
    assert worth_quantising(model, head=True) == (["wide", "more"], left | {"tail": "writes an output"})


@pytest.mark.parametrize(("inputs", "left"), [(32, {}), (8, {"logits": "writes an output"})])
def test_a_last_convolution_over_many_values_is_quantised(inputs: int, left: dict[str, str]) -> None:
    """3 x 3 x 32 values, and 3 x 3 x 8."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["y"], "logits", kernel_shape=[3, 3])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, inputs, 20, 30])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((4, inputs, 3, 3), np.float32), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert worth_quantising(model, head=True) == ([] if left else ["logits"], left)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("transformer", [False, True])
def test_depthwise_convolutions_run_on_both_engines(engine: str, transformer: bool, tmp_path: Path) -> None:
    skip_without(engine)
    drawn = np.random.default_rng(3).standard_normal((8, 8, 3, 3)).astype(np.float32) / 9
    same: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], "stem", **same),
        helper.make_node("Relu", ["a"], ["b"], "ramp"),
        helper.make_node("Conv", ["b", "middle"], ["c"], "depthwise", group=8, **same),
        helper.make_node("Relu", ["c"], ["d"], "next"),
        helper.make_node("Conv", ["d", "last"], ["y"], "tail", **same),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 8, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 12, 12])],
        [numpy_helper.from_array(a, n) for n, a in (("first", drawn), ("middle", drawn[:, :1]), ("last", drawn))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"image": np.random.default_rng(4).random((1, 8, 12, 12)).astype(np.float32)}
    int8 = quantise_graph(model, [feeds], ["stem", "depthwise", "tail"], transformer=transformer)
    found = []
    for name, one in (("float", model), ("int8", int8)):
        onnx.save(one, tmp_path / f"{name}.onnx")
        backend = open_file(engine, tmp_path / f"{name}.onnx", BackendOptions(threads=1))
        found.append(backend.run(feeds)["y"])
        backend.close()
    assert np.abs(found[1] - found[0]).max() < 0.05 * np.abs(found[0]).max()


def test_the_graph_says_which_operators_are_quantised(quantised: tuple[Any, Any]) -> None:
    model, int8 = quantised
    assert set(quantised_nodes(int8)) == set(worth_quantising(model, head=True)[0])
    assert quantised_nodes(model) == []


def test_activations_are_never_signed(quantised: tuple[Any, Any]) -> None:
    """OpenVINO 2026.4 computes wrong values where a concatenation is quantised to signed numbers."""
    _, int8 = quantised
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    zeros = [tensors[node.input[2]] for node in int8.graph.node if node.op_type == "QuantizeLinear"]
    assert len(zeros) == 2
    assert {zero.dtype for zero in zeros} == {np.dtype(np.uint8)}
    assert max(int(zero) for zero in zeros) > 0, "one of them has negative values, or the test shows nothing"


@pytest.mark.parametrize("engine", ENGINES)
def test_both_engines_compute_nearly_what_float_does(engine: str, quantised: tuple[Any, Any], tmp_path: Path) -> None:
    skip_without(engine)
    model, int8 = quantised
    wanted, found = run(model, engine, tmp_path), run(int8, engine, tmp_path)
    assert 0 < np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("engine", ENGINES)
def test_all_operators_put_back_give_the_float_graph(engine: str, quantised: tuple[Any, Any], tmp_path: Path) -> None:
    skip_without(engine)
    model, int8 = quantised
    names = quantised_nodes(int8)
    restored = restore_float(int8, model, names)
    assert quantised_nodes(restored) == []
    assert not any("quantizeLinear" in node.op_type for node in restored.graph.node)
    np.testing.assert_allclose(run(restored, engine, tmp_path), run(model, engine, tmp_path), atol=1e-5)
    half = restore_float(int8, model, names[:1])
    assert quantised_nodes(half) == names[1:]
    assert quantised_nodes(int8) == names, "the candidate it was made from stays as it is"


def test_names_that_are_missing_or_repeated_become_unique() -> None:
    model = decoder()
    for node in model.graph.node:
        node.name = "same"
    name_nodes(model)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_quantising_reports_to_nobody(tmp_path: Path) -> None:
    code = """
import sys
def watch(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        print("NETWORK", event)
sys.addaudithook(watch)
import numpy
import onnx
from conv_bundle import graphs
from export._qdq import name_nodes, quantise_graph, worth_quantising
inputs = {"levels": numpy.ones((1, 1, 64, 64), "f4"), "boxes": numpy.ones((1, 4), "f4")}
model = onnx.load_from_string(graphs()["decoder.onnx"])
name_nodes(model)
quantise_graph(model, [inputs], worth_quantising(model, head=True)[0], transformer=False)
print("nncf" in sys.modules, sys.modules.get("openvino_telemetry"))
"""
    home = tmp_path / "home"
    home.mkdir()
    output = run_python(code, environment={"HOME": str(home), "LOCALAPPDATA": str(home), "CI": "", "NNCF_CI": ""})
    assert output.split() == ["True", "None"]
    assert [path for path in home.rglob("*") if path.is_file()] == []
