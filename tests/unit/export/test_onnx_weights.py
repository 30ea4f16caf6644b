"""Weights in fewer bytes: what is stored, what both engines compute with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conv_bundle import SIDE, graphs, picture
from engines import ENGINES, open_file, skip_without
from onnx import TensorProto, helper, numpy_helper

from export._onnx_weights import float_weights, store_half, store_int8, weight_input, widen
from runtime.backends import BackendOptions

SMALL = np.array([[2.54, -1.27], [0.0, 0.0], [0.02, 0.0]], np.float32)


def product(weight: Any, kind: str = "Gemm", **attributes: Any) -> Any:
    """One product with a constant, whose weights are large enough to be stored in fewer bytes."""
    weight = np.tile(weight, (1, 512)) if weight.size < 1024 else weight
    shape = [None, weight.shape[1] if attributes.get("transB") else weight.shape[0]]
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "w"], ["y"], "product", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stored(model: Any) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def encoder() -> Any:
    return onnx.load_from_string(graphs()["encoder.onnx"])


def run(model: Any, engine: str, tmp_path: Path, **inputs: Any) -> Any:
    path = tmp_path / f"{engine}.onnx"
    onnx.save(model, path)
    backend = open_file(engine, path, BackendOptions(threads=1))
    try:
        return next(iter(backend.run(inputs).values()))
    finally:
        backend.close()


def test_int8_weights_have_a_scale_for_each_output_and_rows_of_zeros_stay_zero() -> None:
    model = product(SMALL, transB=1)
    store_int8(model)
    found = stored(model)
    np.testing.assert_allclose(found["w_scale"], np.array([[0.02], [1e-12 / 127], [0.02 / 127]]), rtol=1e-6)
    assert found["w_int8"].dtype == np.int8
    assert found["w_int8"][:, :2].tolist() == [[127, -64], [0, 0], [127, 0]]


@pytest.mark.parametrize(
    ("kind", "attributes", "axis"), [("Gemm", {"transB": 1}, 0), ("Gemm", {}, 1), ("MatMul", {}, 1)]
)
def test_the_scales_follow_the_outputs_of_each_kind_of_product(kind: str, attributes: Any, axis: int) -> None:
    weight = np.random.default_rng(0).standard_normal((40, 48)).astype(np.float32)
    model = product(weight, kind, **attributes)
    store_int8(model)
    found = stored(model)
    assert found["w_scale"].shape == ((40, 1) if axis == 0 else (1, 48))
    assert np.abs(found["w_int8"] * found["w_scale"] - weight).max() <= found["w_scale"].max() / 2 + 1e-7


def test_half_weights_leave_short_constants_and_those_beyond_float16() -> None:
    model = product(np.full((32, 64), 70000.0, np.float32))
    store_half(model)
    assert set(stored(model)) == {"w"}
    model = encoder()
    store_half(model)
    found = {name: array.dtype for name, array in stored(model).items()}
    assert found["body.weight_half"] == np.float16
    assert found["stem.weight"] == found["stem.bias"] == np.float32


def test_widening_gives_back_what_float16_keeps() -> None:
    model, original = encoder(), float_weights(encoder())
    store_half(model)
    widen(model)
    widened = float_weights(model)
    assert widened.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(
            widened[name], array.astype(np.float16).astype(np.float32) if array.size >= 1024 else array
        )
    before = model.SerializeToString()
    widen(model)
    assert model.SerializeToString() == before


def test_constant_nodes_count_as_weights() -> None:
    model = product(np.zeros((40, 48), np.float32), "MatMul")
    tensor = model.graph.initializer.pop()
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    assert weight_input(model.graph.node[1], float_weights(model)) == "w"


def test_a_constant_of_more_axes_is_a_side_of_an_attention_product() -> None:
    weights = {"w": np.zeros((2, 40, 48), np.float32)}
    assert weight_input(helper.make_node("MatMul", ["x", "w"], ["y"]), weights) is None
    assert weight_input(helper.make_node("Mul", ["x", "w"], ["y"]), weights) is None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("store", "limit"), [(store_half, 1e-3), (store_int8, 2e-2)])
def test_both_engines_compute_in_float32_with_them(engine: str, store: Any, limit: float, tmp_path: Path) -> None:
    skip_without(engine)
    image = np.repeat(picture(3)[None, None].astype(np.float32) / 255, 3, axis=1)
    assert image.shape == (1, 3, SIDE, SIDE)
    wanted = run(encoder(), engine, tmp_path, image=image)
    model = encoder()
    before = model.ByteSize()
    store(model)
    assert model.ByteSize() < before * 0.65
    found = run(model, engine, tmp_path, image=image)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() / np.abs(wanted).max() < limit
