"""What a graph must compute and move, from its shapes; run inside a process that has loaded OpenVINO.

Knows OpenVINO's operations as data; runs none. Counted are products (multiply and add apart, so 2 a pair): matrix
products, convolutions, transposed convolutions, attention. Bytes are what each of these must read and write once if
everything between them were fused: its inputs, weights and output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["OperationCost", "costs", "executed_cost", "make_static"]


@dataclass(frozen=True, slots=True)
class OperationCost:
    """One operation: its name in the graph, products, and elements of activations and of weights."""

    name: str
    flop: float
    activations: int
    weights: int

    def bytes(self, activation_bytes: int, weight_bytes: int) -> int:
        """Bytes moved at those sizes of an element."""
        return self.activations * activation_bytes + self.weights * weight_bytes


def make_static(model: Any) -> None:
    """Give every free axis of the inputs the length 1: one image, one prompt."""
    model.reshape({port: [1 if side.is_dynamic else side for side in port.partial_shape] for port in model.inputs})


def costs(operations: Iterable[Any]) -> list[OperationCost]:
    """Cost of every operation that computes products."""
    found = []
    for operation in operations:
        flop = _flop(operation)
        if flop:
            sides = [(math.prod(tuple(port.get_shape())), _is_constant(port.get_source_output().get_node()))
                     for port in operation.inputs()]  # fmt: skip
            activations = sum(count for count, constant in sides if not constant)
            weights = sum(count for count, constant in sides if constant)
            output = math.prod(tuple(operation.output(0).shape))
            found.append(OperationCost(operation.get_friendly_name(), flop, activations + output, weights))
    return found


def executed_cost(layer: Any) -> OperationCost | None:
    """Cost of an executed product with weights, from its own shapes; None of any other layer.

    A product that took in a bias is named after the addition, so that it is not found under the graph's own names.
    """
    if str(layer.get_rt_info()["layerType"].astype(str)) != "FullyConnected":
        return None
    given, *constants = (tuple(port.get_shape()) for port in layer.inputs())
    output = math.prod(tuple(layer.output(0).shape))
    weights = sum(math.prod(shape) for shape in constants)
    return OperationCost(layer.get_friendly_name(), 2.0 * output * given[-1], math.prod(given) + output, weights)


def _is_constant(node: Any) -> bool:
    """Whether a value is known before the graph runs: a constant, widened, scaled or reshaped."""
    if node.get_type_name() == "Constant":
        return True
    inputs = node.inputs()
    return bool(inputs) and all(_is_constant(port.get_source_output().get_node()) for port in inputs)


def _flop(operation: Any) -> float:
    kind = operation.get_type_name()
    if kind not in _RULES:
        return 0.0
    shapes = [tuple(port.get_shape()) for port in operation.inputs()]
    return 2.0 * _RULES[kind](operation, shapes, tuple(operation.output(0).shape))


def _matmul(operation: Any, shapes: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    first = shapes[0]
    shared = first[-1] if len(first) == 1 or not operation.get_attributes()["transpose_a"] else first[-2]
    return math.prod(output) * shared


def _convolution(_: Any, shapes: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    return math.prod(output) * math.prod(shapes[1][1:])  # weights (out, in, ...)


def _group_convolution(_: Any, shapes: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    return math.prod(output) * math.prod(shapes[1][2:])  # weights (groups, out, in, ...)


def _transposed(_: Any, shapes: list[tuple[int, ...]], __: tuple[int, ...]) -> int:
    return math.prod(shapes[0]) * math.prod(shapes[1][1:])  # weights (in, out, ...)


def _attention(_: Any, shapes: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    query, key = shapes[0], shapes[1]
    return math.prod(query) * key[-2] + math.prod(output) * key[-2]


_RULES = {
    "MatMul": _matmul,
    "Convolution": _convolution,
    "GroupConvolution": _group_convolution,
    "ConvolutionBackpropData": _transposed,
    "ScaledDotProductAttention": _attention,
}
