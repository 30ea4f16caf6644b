"""Float ONNX graph -> graph with 8-bit products (QuantizeLinear, DequantizeLinear), and single operators back to float.

Knows ONNX and NNCF, whose usage reports are kept from leaving. Must not know bundles, sessions or masks.

Four facts shape it, each found by measurement and held by a test or by docs/adr/0008: only operators with weights pay
(quantised coordinates ruin masks), NNCF's bias correction made masks worse, OpenVINO computes wrong values where a
concatenation is quantised to *signed* numbers, so that activations are always unsigned, and ONNX Runtime does not run a
depthwise convolution whose input has a scale for each channel, as NNCF would have it.
"""

from __future__ import annotations

import fnmatch
import io
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import accumulate
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export._onnx_weights import float_weights, weight_input
from export._skips import round_skips
from runtime.backends.ort import check_loads

__all__ = [
    "name_nodes",
    "products",
    "quantise_graph",
    "quantised_nodes",
    "restore_float",
    "without_reports",
    "worth_quantising",
]

_POSITION = ("Sin", "Cos")
_ELEMENTWISE = ("Add", "Mul", "Sub", "Div", "Concat", "Reshape", "Transpose", "Unsqueeze", "Cast", "Identity", "Gather")
_ZERO = 128
_MANY = 256  # values that an output of a last convolution sums; 288 in the default model cost no accuracy
_LITTLE = 0.05  # of a graph's multiplications: layers this small together are not worth what rounding them costs


def name_nodes(model: Any) -> None:
    """Give every node a name of its own, by which it is spoken of; names that are unique already stay."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}_of_{node.output[0]}"
        taken.add(node.name)


def products(model: Any) -> dict[str, int]:
    """Operators that multiply by weights, with their multiplications for one image or prompt where sizes are known.

    What counts is time: a layer with few weights that works at many positions takes more of it than one with many.
    """
    weights = float_weights(model)
    known = onnx.shape_inference.infer_shapes(model).graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in known.value_info}
    found = {}
    for node in model.graph.node:
        weight = weight_input(node, weights)
        if weight is not None:
            shape = shapes.get(node.output[0], [])
            positions = shape[2:] if "Conv" in node.op_type else shape[1:-1]
            found[node.name] = weights[weight].size * math.prod(max(1, side) for side in positions)
    return found


def worth_quantising(model: Any, *, head: bool, keep_float: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Names of the operators to quantise, in the graph's order, and why the others that have weights stay float.

    What has no weights (coordinates, attention products, sampling) is not quantised and not listed. With `head` the
    last product before each output stays float, as logits and scores come from it, unless it is a convolution over so
    many values that what is rounded off cancels. So do the smallest layers, up to a twentieth of the graph's
    multiplications. `keep_float` has shell patterns of weight names.
    """
    weights = float_weights(model)
    little = _smallest(products(model))
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    weighted = {node.name: weight for node in model.graph.node if (weight := weight_input(node, weights)) is not None}
    chosen, left = [], {}
    for node in model.graph.node:
        weight = weighted.get(node.name)
        if weight is None:
            continue
        if any(fnmatch.fnmatchcase(weight, pattern) for pattern in keep_float):
            left[node.name] = "stated by the family"
        elif _reaches(node, readers, lambda one: one.op_type in _POSITION, lambda one: one.op_type in _ELEMENTWISE):
            left[node.name] = "encodes positions"
        elif head and not _sums_many(node, weights[weight]) and _is_last(node, readers, weighted):
            left[node.name] = "writes an output"
        elif node.name in little:
            left[node.name] = "too small to gain"
        else:
            chosen.append(node.name)
    return chosen, left


def _smallest(sizes: Mapping[str, int]) -> set[str]:
    """The smallest layers that together make up no more than `_LITTLE` of all multiplications."""
    room = _LITTLE * sum(sizes.values())
    names = sorted(sizes, key=lambda name: sizes[name])
    return {name for name, total in zip(names, accumulate(sizes[name] for name in names), strict=True) if total <= room}


def _sums_many(node: Any, weight: NDArray[np.float32]) -> bool:
    return bool(node.op_type == "Conv" and weight[0].size >= _MANY)


def _is_last(node: Any, readers: Mapping[str, list[Any]], weighted: Mapping[str, str]) -> bool:
    return not _reaches(node, readers, lambda one: one.name in weighted, lambda _: True)


def _reaches(
    node: Any, readers: Mapping[str, list[Any]], wanted: Callable[[Any], bool], through: Callable[[Any], bool]
) -> bool:
    """Whether a wanted node comes after this one, with none but such as one may go `through` between them."""
    queue, seen = list(node.output), set(node.output)
    while queue:
        for reader in readers.get(queue.pop(), []):
            if wanted(reader):
                return True
            fresh = [name for name in reader.output if name not in seen] if through(reader) else []
            seen.update(fresh)
            queue += fresh
    return False


@contextmanager
def without_reports() -> Iterator[None]:
    """Keep NNCF, and the OpenVINO converter that it imports, from reporting their use to a web analytics service."""
    name = "openvino_telemetry"
    barred = name not in sys.modules
    if barred:
        sys.modules[name] = None  # type: ignore[assignment] # documented: such an import raises ImportError
    try:
        yield
    finally:
        if barred:
            del sys.modules[name]


def quantise_graph(
    model: Any, samples: Sequence[Mapping[str, NDArray[Any]]], nodes: Sequence[str], *, transformer: bool
) -> Any:
    """Quantise the named operators of a graph; ranges of activations come from the samples, its inputs by name."""
    check_loads()  # imports it with its reports off, before NNCF does it otherwise
    with without_reports():
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    logging.getLogger("nncf").setLevel(logging.ERROR)
    wanted = set(nodes)
    others = [node.name for node in model.graph.node if node.name not in wanted and node.op_type != "Constant"]
    with redirect_stdout(io.StringIO()):  # progress bars
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(samples), dict),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.MIXED if transformer else nncf.QuantizationPreset.PERFORMANCE,
            target_device=nncf.TargetDevice.CPU,
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=True,
                disable_channel_alignment=True,
                activations_quantization_params=QuantizationParameters(per_channel=False),
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )
    _make_unsigned(quantised)
    round_skips(quantised)
    return quantised


def _make_unsigned(model: Any) -> None:
    """Turn signed activations into unsigned ones of the same scale: the same values, 128 higher."""
    import onnx

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}:
        zero = onnx.numpy_helper.to_array(tensors[name])
        if zero.dtype == np.int8:
            shifted = (zero.astype(np.int16) + _ZERO).astype(np.uint8)
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(shifted, name))


def quantised_nodes(model: Any) -> list[str]:
    """Names of the operators that read dequantised weights and activations, in the graph's order."""
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if len(node.input) > 1 and all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
    ]


def restore_float(quantised: Any, original: Any, nodes: Sequence[str]) -> Any:
    """Copy of a quantised graph in which the named operators are again those of the original graph."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(quantised)
    graph, wanted = result.graph, set(nodes)
    ours = {node.name: node for node in original.graph.node}
    constants = {tensor.name: tensor for tensor in original.graph.initializer}
    constants |= {node.output[0]: node for node in original.graph.node if node.op_type == "Constant"}
    for node in graph.node:
        if node.name in wanted:
            node.CopyFrom(ours[node.name])
    made = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    needed = {name for node in graph.node if node.name in wanted for name in node.input if name in constants}
    for name in sorted(needed - made):
        if isinstance(constants[name], onnx.NodeProto):
            graph.node.insert(0, constants[name])
        else:
            graph.initializer.append(constants[name])
    _prune(graph)
    return result


def _prune(graph: Any) -> None:
    """Drop nodes and initializers that no output depends on."""
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(tensor)
