"""Which 8-bit graphs OpenVINO computes right only with its snippets, told by their structure before they are compiled.

A product of 8-bit numbers is followed by its scale. Where several operations read it, OpenVINO lets those that can
(rounding to 8 bits, a ReLU) take the scale in and read the product itself, and leaves the scale to the others. Then it
merges that scale, if it is a node of its own and no snippet, into the product without asking who else reads it
(`FuseConvMatmulFCDeconvAndDQScales` of 2025.4 to 2026.4): whoever took the scale in gets it twice. A bias stands
between product and readers and keeps the scale where it is. Knows OpenVINO's models; must not know how one is compiled.
"""

from __future__ import annotations

from typing import Any

__all__ = ["needs_snippets"]

_PRODUCTS = {
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
}
_DEQUANTISING = {"Convert", "Subtract", "Multiply", "Reshape", "Transpose"}


def needs_snippets(model: Any) -> bool:
    """Whether a model, as read from its file, has a product of 8-bit numbers without a bias that is read twice."""
    return any(
        operation.get_type_name() in _PRODUCTS
        and _has_several_readers(operation)
        and _was_8_bit(operation.input_value(1).get_node())
        for operation in model.get_ops()
    )


def _has_several_readers(operation: Any) -> bool:
    """Whether more than one operation reads the values, besides what asks for the shape, as every ONNX bias does."""
    readers = [reader.get_node().get_type_name() for reader in operation.output(0).get_target_inputs()]
    return len(readers) - readers.count("ShapeOf") > 1


def _was_8_bit(node: Any) -> bool:
    """Whether a node's values come from 8-bit numbers through nothing but what restores and turns them."""
    while node.get_type_name() in _DEQUANTISING and node.get_output_element_type(0).size > 1:
        node = node.input_value(0).get_node()
    return node.get_type_name() == "FakeQuantize" or bool(node.get_output_element_type(0).size == 1)
