"""Skips that were folded into convolutions: taken out, with the same numbers, and rounded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from engines import open_file
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export._skips import split_skips
from runtime.backends import BackendOptions

CHANNELS, SIDE = 8, 12
SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def residual(size: int = 3, outputs: int = CHANNELS) -> NDArray[np.float32]:
    drawn = np.random.default_rng(5).standard_normal((outputs, CHANNELS, size, size)) * 0.05
    return drawn.astype(np.float32)


def folded(size: int = 3) -> NDArray[np.float32]:
    weight = residual(size)
    weight[np.arange(CHANNELS), np.arange(CHANNELS), size // 2, size // 2] += 1
    return weight


def graph_of(nodes: list[Any], **constants: NDArray[np.float32]) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "h", "w"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def single(weight: NDArray[np.float32], **attributes: Any) -> Any:
    return graph_of([helper.make_node("Conv", ["image", "weight"], ["y"], "body", **attributes)], weight=weight)


def run(model: Any, folder: Path) -> Any:
    onnx.checker.check_model(model)
    onnx.save(model, folder / "graph.onnx")
    backend = open_file("onnxruntime", folder / "graph.onnx", BackendOptions(threads=1))
    try:
        return backend.run({"image": np.random.default_rng(6).random((1, CHANNELS, SIDE, SIDE)).astype(np.float32)})[
            "y"
        ]
    finally:
        backend.close()


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_skip_is_taken_out_and_the_numbers_stay(size: int, tmp_path: Path) -> None:
    model = single(folded(size), kernel_shape=[size, size], pads=[size // 2] * 4)
    before = run(model, tmp_path)
    assert split_skips(model) == 1
    np.testing.assert_allclose(run(model, tmp_path), before, atol=1e-5)
    assert [node.op_type for node in model.graph.node] == ["Conv", "Add"]
    rest = numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(rest, residual(size), atol=1e-6)
    assert split_skips(model) == 0  # once


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        (residual(), SAME),
        (folded() * 3, SAME),  # not a skip of 1
        (folded(), {**SAME, "strides": [2, 2]}),
        (folded(), {"kernel_shape": [3, 3]}),
        (folded(), {**SAME, "pads": [2, 0, 0, 2]}),
        (folded(), {**SAME, "dilations": [2, 2], "pads": [1, 1, 1, 1]}),
        (folded()[:, :4], {**SAME, "group": 2}),
        (residual(outputs=4), SAME),
    ],
)
def test_other_convolutions_stay_as_they_are(weight: NDArray[np.float32], attributes: dict[str, Any]) -> None:
    model = single(weight, **attributes)
    before = model.SerializeToString()
    assert split_skips(model) == 0
    assert model.SerializeToString() == before


def test_weights_that_two_convolutions_share_stay(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["x"], "one", **SAME),
        helper.make_node("Conv", ["x", "weight"], ["y"], "two", **SAME),
    ]
    model = graph_of(nodes, weight=folded())
    before = run(model, tmp_path)
    assert split_skips(model) == 0
    np.testing.assert_array_equal(run(model, tmp_path), before)


def test_a_chain_of_them_is_split_in_order(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], "one", **SAME),
        helper.make_node("Relu", ["a"], ["x"], "ramp"),
        helper.make_node("Conv", ["x", "second"], ["y"], "two", **SAME),
    ]
    model = graph_of(nodes, first=folded(), second=folded())
    before = run(model, tmp_path)
    assert split_skips(model) == 2
    assert [node.op_type for node in model.graph.node] == ["Conv", "Add", "Relu", "Conv", "Add"]
    np.testing.assert_allclose(run(model, tmp_path), before, atol=1e-5)


@pytest.mark.parametrize("order", [("x", "inner"), ("inner", "x")])
def test_a_skip_beside_a_product_reads_the_same_rounded_values(order: tuple[str, str], tmp_path: Path) -> None:
    """And what is no skip of a single product stays as it was."""
    pytest.importorskip("nncf", reason="the export extra is not installed")
    from export._qdq import quantise_graph

    nodes = [
        helper.make_node("Conv", ["image", "first"], ["before"], "stem", **SAME),
        helper.make_node("Relu", ["before"], ["x"], "ramp"),
        helper.make_node("Conv", ["x", "second"], ["inner"], "body", **SAME),
        helper.make_node("Add", list(order), ["sum"], "skip"),
        helper.make_node("Add", ["sum", "image"], ["y"], "other"),
    ]
    model = graph_of(nodes, first=residual() * 5, second=residual())
    wanted = run(model, tmp_path)
    image = np.random.default_rng(6).random((1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    found = quantise_graph(model, [{"image": image}], ["stem", "body"], transformer=False)
    body, skip, other = (
        next(one for one in found.graph.node if one.name == name) for name in ("body", "skip", "other")
    )
    assert body.input[0] in skip.input
    assert body.input[0] != "x"
    assert "image" in other.input
    np.testing.assert_allclose(run(found, tmp_path), wanted, atol=0.06)
