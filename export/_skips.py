"""Skips around single convolutions: out of the weights again before these are rounded, and rounded beside them.

A skip folded into a convolution adds 1 to the diagonal of its middle tap. In float that is fastest. In 8 bits the 1
sets the scale of its channel, and all other weights, often a tenth of it and less, are left with a few steps.

Knows ONNX. Must not know NNCF, bundles or masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export._onnx_weights import float_weights

__all__ = ["round_skips", "split_skips"]

_WORTH = 0.5
"""A skip is taken out where that leaves the channels, in the middle, at most this share of their largest weight."""


def split_skips(model: Any) -> int:
    """Turn ``conv(x)`` into ``conv(x) + x`` where its weights hold such a skip; the number of those. In place."""
    weights = float_weights(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = [name for node in model.graph.node for name in node.input]
    split = 0
    for place, node in reversed(list(enumerate(model.graph.node))):
        weight = weights.get(node.input[1]) if node.op_type == "Conv" and _keeps_the_shape(node) else None
        if weight is None or node.input[1] not in tensors or readers.count(node.input[1]) > 1:
            continue
        rest = _without_identity(weight)
        if rest is None:
            continue
        tensors[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(rest, node.input[1]))
        output, node.output[0] = node.output[0], f"{node.output[0]}_without_skip"
        skip = onnx.helper.make_node("Add", [node.output[0], node.input[0]], [output], f"{node.name}_skip")
        model.graph.node.insert(place + 1, skip)
        split += 1
    return split


def _keeps_the_shape(node: Any) -> bool:
    """Whether a convolution has stride 1, one group, and as much padding as its kernel reaches beyond a pixel."""
    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    kernel = given.get("kernel_shape", [])
    return (
        len(kernel) == 2
        and all(side % 2 for side in kernel)
        and list(given.get("pads", [0] * 4)) == [side // 2 for side in kernel] * 2
        and given.get("group", 1) == 1
        and list(given.get("strides", [1, 1])) == [1, 1]
        and list(given.get("dilations", [1, 1])) == [1, 1]
        and given.get("auto_pad", b"NOTSET") == b"NOTSET"
    )


def _without_identity(weight: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Weights (C, C, h, w) less 1 on the middle's diagonal, if that makes them much smaller."""
    if weight.ndim != 4 or weight.shape[0] != weight.shape[1]:
        return None
    rest = weight.copy()
    every = np.arange(len(weight))
    rest[every, every, weight.shape[2] // 2, weight.shape[3] // 2] -= 1
    shares = np.abs(rest).max((1, 2, 3)) / np.maximum(np.abs(weight).max((1, 2, 3)), np.finfo(np.float32).tiny)
    return rest if np.median(shares) <= _WORTH else None


def round_skips(model: Any) -> None:
    """Let what is added to a product's output, if it is what the product reads, be the rounded one as well. In place.

    Otherwise an engine keeps it in float beside the 8 bits that the product reads.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}

    def maker(node: Any, kind: str) -> Any:
        """The node that makes the first input of a node, if it is of that kind."""
        made = None if node is None else made_by.get(node.input[0])
        return made if made is not None and made.op_type == kind else None

    for node in model.graph.node:
        for place, other in ((0, 1), (1, 0)) if node.op_type == "Add" else ():
            product = made_by.get(node.input[other])
            restoring = maker(product, "DequantizeLinear") if product is not None and product.input else None
            rounding = maker(restoring, "QuantizeLinear")
            if restoring is not None and rounding is not None and rounding.input[0] == node.input[place]:
                node.input[place] = restoring.output[0]
