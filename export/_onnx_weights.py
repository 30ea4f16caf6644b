"""Weights of an ONNX graph in fewer bytes, widened where they enter; inputs, outputs and arithmetic stay float32.

Knows ONNX graphs. Must not know bundles, families or what a graph computes. Both engines fold the widening when they
load a file, so that it costs nothing at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["WEIGHTED", "float_weights", "rewrite", "store_half", "store_int8", "weight_input", "widen"]

WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators that multiply by weights, where INT8 can pay."""

_SCALED = ("QuantizeLinear", "DequantizeLinear")
_LARGE = 1024
_FLOAT16_LIMIT = 65504.0
_INT8_LIMIT = 127


def rewrite(path: Path, change: Callable[[Any], None], target: Path | None = None) -> None:
    """Apply a change to an ONNX file, in place or into another one."""
    import onnx

    model = onnx.load(path)
    change(model)
    onnx.save(model, target or path)


def float_weights(model: Any) -> dict[str, NDArray[np.float32]]:
    """All float32 constants of a graph by name; what Constant nodes hold becomes initializers."""
    import onnx

    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        held = {attribute.name: attribute for attribute in node.attribute}
        if "value" in held:
            tensor = graph.initializer.add()
            tensor.CopyFrom(held["value"].t)
            tensor.name = node.output[0]
            graph.node.remove(node)
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }


def weight_input(node: Any, weights: dict[str, NDArray[np.float32]]) -> str | None:
    """Name of the constant that an operator multiplies by; None for products of two activations and other operators."""
    if node.op_type not in WEIGHTED:
        return None
    if node.op_type == "MatMul":  # more axes: an attention product one side of which was folded into a constant
        return next((name for name in node.input[:2] if name in weights and weights[name].ndim == 2), None)
    return node.input[1] if node.input[1] in weights else None


def widen(model: Any) -> None:
    """Undo `store_half`: the constants become float32 again, rounded as they were."""
    import onnx

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in tensors]:
        half = tensors[node.input[0]]
        if half.data_type == onnx.TensorProto.FLOAT16 and node.attribute[0].i == onnx.TensorProto.FLOAT:
            full = onnx.numpy_helper.to_array(half).astype(np.float32)
            graph.node.remove(node)
            half.CopyFrom(onnx.numpy_helper.from_array(full, node.output[0]))


def store_half(model: Any) -> None:
    """Store large float32 constants in float16, each followed by a cast back.

    Short ones (biases, normalisation) stay: they are few bytes, and coordinates are among them. So do constants that
    float16 cannot hold, and scales of quantised tensors, which the engines want as constants.
    """
    import onnx

    weights = float_weights(model)
    scales = {name for node in model.graph.node if node.op_type in _SCALED for name in node.input}
    for name, array in weights.items():
        if array.size >= _LARGE and name not in scales and np.abs(array).max() <= _FLOAT16_LIMIT:
            half = onnx.numpy_helper.from_array(array.astype(np.float16), f"{name}_half")
            cast = onnx.helper.make_node("Cast", [half.name], [name], f"{name}_widened", to=onnx.TensorProto.FLOAT)
            _replace(model.graph, name, [half], [cast])


def store_int8(model: Any) -> None:
    """Store the large weights of products in INT8, symmetric, with a scale for each output channel; others in float16.

    The widening is a cast and a product, which both engines fold; ONNX Runtime leaves a DequantizeLinear alone and
    would repeat it in every call.
    """
    import onnx

    widen(model)
    weights = float_weights(model)
    axes = {weight_input(node, weights): _output_axis(node) for node in model.graph.node}
    for name, axis in axes.items():
        if name is None or weights[name].size < _LARGE or not np.isfinite(weights[name]).all():
            continue
        array = weights[name]
        others = tuple(one for one in range(array.ndim) if one != axis % array.ndim)
        scale = np.maximum(np.abs(array).max(others, keepdims=True), 1e-12) / np.float32(_INT8_LIMIT)
        stored = np.clip(np.rint(array / scale), -_INT8_LIMIT, _INT8_LIMIT).astype(np.int8)
        tensors = [
            onnx.numpy_helper.from_array(stored, f"{name}_int8"),
            onnx.numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
        ]
        nodes = [
            onnx.helper.make_node(
                "Cast", [f"{name}_int8"], [f"{name}_whole"], f"{name}_widened", to=onnx.TensorProto.FLOAT
            ),
            onnx.helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name], f"{name}_scaled"),
        ]
        _replace(model.graph, name, tensors, nodes)
    store_half(model)


def _output_axis(node: Any) -> int:
    """Axis of the weights that counts output channels."""
    if node.op_type == "Gemm":
        return 0 if any(one.name == "transB" and one.i for one in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, -1)


def _replace(graph: Any, name: str, tensors: list[Any], nodes: list[Any]) -> None:
    """Put new initializers, and nodes that make the old one of them, in the place of an initializer."""
    old = next(tensor for tensor in graph.initializer if tensor.name == name)
    graph.initializer.remove(old)
    graph.initializer.extend(tensors)
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)
