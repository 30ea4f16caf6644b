"""Tiny graphs, each stated three ways: as ONNX, as a signature, and as a numpy function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.backends import IoSpec, TensorSpec

Arrays = dict[str, NDArray[Any]]
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}


@dataclass(frozen=True)
class Graph:
    """One graph: `nodes` as (operator, inputs, outputs[, attributes])."""

    nodes: tuple[tuple[Any, ...], ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    function: Callable[..., Mapping[str, Any]]
    constants: Mapping[str, NDArray[Any]]

    @property
    def io_spec(self) -> IoSpec:
        """The signature every backend has to report."""
        return IoSpec(self.inputs, self.outputs)

    def save(self, path: Path) -> Path:
        """Write the ONNX file; return its path."""
        nodes = [
            helper.make_node(kind, list(i), list(o), **(rest[0] if rest else {})) for kind, i, o, *rest in self.nodes
        ]
        graph = helper.make_graph(
            nodes,
            "graph",
            [_value_info(spec) for spec in self.inputs],
            [_value_info(spec) for spec in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, path)
        return path


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    shape = [f"{spec.name}_{axis}" if side is None else side for axis, side in enumerate(spec.shape)]
    return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], shape)


def _random(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


_WEIGHTS = _random(0, 64, 64)

PRODUCT = Graph(
    nodes=(("MatMul", ["x", "weights"], ["product"]), ("Tanh", ["product"], ["y"])),
    inputs=(TensorSpec("x", "float32", (None, 64)),),
    outputs=(TensorSpec("y", "float32", (None, 64)),),
    function=lambda x: {"y": np.tanh(x @ _WEIGHTS)},
    constants={"weights": _WEIGHTS},
)
"""A product large enough to show the precision it was computed in; rows are independent."""

DECODER_LIKE = Graph(
    nodes=(
        ("Cast", ["image"], ["pixels"], {"to": TensorProto.FLOAT}),
        ("ReduceSum", ["pixels", "all_axes"], ["brightness"], {"keepdims": 0}),
        ("ReduceMax", ["boxes"], ["far"], {"axes": [1], "keepdims": 1}),
        ("Add", ["far", "brightness"], ["scores"]),
        ("Add", ["pixels", "one"], ["raised"]),
        ("Cast", ["raised"], ["brighter"], {"to": TensorProto.UINT8}),
        ("Mul", ["modality", "two"], ["doubled"]),
    ),
    inputs=(
        TensorSpec("image", "uint8", (1, 2, 3)),
        TensorSpec("boxes", "float32", (None, 4)),
        TensorSpec("modality", "int64", (1,)),
    ),
    outputs=(
        TensorSpec("scores", "float32", (None, 1)),
        TensorSpec("brighter", "uint8", (1, 2, 3)),
        TensorSpec("doubled", "int64", (1,)),
    ),
    function=lambda image, boxes, modality: {
        "scores": boxes.max(axis=1, keepdims=True) + image.sum(dtype=np.float32),
        "brighter": image + np.uint8(1),
        "doubled": modality * 2,
    },
    constants={
        "all_axes": np.array([0, 1, 2], np.int64),
        "one": np.array(1, np.float32),
        "two": np.array(2, np.int64),
    },
)
"""Several inputs and outputs of several dtypes, one with a dynamic axis."""

ALIASES = Graph(
    nodes=(
        ("Mul", ["x", "three"], ["inner"]),
        ("Identity", ["inner"], ["tripled"]),
        ("Identity", ["inner"], ["again"]),
        ("Relu", ["tripled"], ["floored"]),
        ("Identity", ["x"], ["passed_through"]),
        ("Identity", ["three"], ["constant"]),
    ),
    inputs=(TensorSpec("x", "float32", (None, 4)),),
    outputs=(
        TensorSpec("tripled", "float32", (None, 4)),
        TensorSpec("again", "float32", (None, 4)),
        TensorSpec("floored", "float32", (None, 4)),
        TensorSpec("passed_through", "float32", (None, 4)),
        TensorSpec("constant", "float32", (1, 4)),
    ),
    function=lambda x: {
        "tripled": x * 3,
        "again": x * 3,
        "floored": np.maximum(x * 3, 0),
        "passed_through": x,
        "constant": np.full((1, 4), 3, np.float32),
    },
    constants={"three": np.full((1, 4), 3, np.float32)},
)
"""Outputs that share a tensor with each other, with an input, or with a constant, and one that another is made of."""

SUM = Graph(
    nodes=(("Add", ["a", "b"], ["sum"]),),
    inputs=(TensorSpec("a", "float32", (None, 3)), TensorSpec("b", "float32", (None, 3))),
    outputs=(TensorSpec("sum", "float32", (None, 3)),),
    function=lambda a, b: {"sum": a + b},
    constants={},
)
"""Fails in the engine where the inputs have different numbers of rows, neither of them one."""


def rows(seed: int, count: int, width: int = 64) -> NDArray[np.float32]:
    """Random rows, (count, width)."""
    return _random(seed, count, width) / 8
