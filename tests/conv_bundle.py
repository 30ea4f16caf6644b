"""A real bundle of a few convolutions that finds what is bright inside the box, so that INT8 can be made of it.

The decoder concatenates signed values before a convolution, where OpenVINO went wrong on signed INT8.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from bundle_factory import write_bundle
from numpy.typing import NDArray
from tiny_bundle import graph_bytes
from tiny_graphs import Graph

from runtime.backends import TensorSpec

SIDE = 64
CHANNELS = 32


def _no_function(**_: Any) -> dict[str, Any]:
    raise NotImplementedError


def _weights(seed: int, outputs: int, inputs: int, size: int = 3, *, positive: bool = False) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((outputs, inputs, size, size)) / (inputs * size * size)
    return (np.abs(drawn) if positive else drawn).astype(np.float32)


def _encoder() -> Graph:
    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    return Graph(
        nodes=(
            ("Conv", ["image", "stem.weight", "stem.bias"], ["a"], same),
            ("Relu", ["a"], ["b"]),
            ("Conv", ["b", "body.weight"], ["c"], same),
            ("Relu", ["c"], ["d"]),
            ("Conv", ["d", "neck.weight"], ["levels"], {"kernel_shape": [1, 1]}),
        ),
        inputs=(TensorSpec("image", "float32", (1, 3, SIDE, SIDE)),),
        outputs=(TensorSpec("levels", "float32", (1, 1, SIDE, SIDE)),),
        function=_no_function,
        constants={
            "stem.weight": _weights(1, CHANNELS, 3, positive=True),
            "stem.bias": np.zeros(CHANNELS, np.float32),
            "body.weight": _weights(2, CHANNELS, CHANNELS, positive=True),
            "neck.weight": _weights(3, 1, CHANNELS, 1, positive=True) * 12,
        },
    )


def _decoder(count: int | None = None) -> Graph:
    """The decoder, for any number of boxes or that one."""
    same = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    grid = np.arange(SIDE, dtype=np.float32)
    return Graph(
        nodes=(
            ("Split", ["boxes"], ["x0", "y0", "x1", "y1"], {"axis": 1}),
            *((("Reshape", [name, "apart"], [f"{name}_4d"])) for name in ("x0", "y0", "x1", "y1")),
            ("Sub", ["x", "x0_4d"], ["left"]),
            ("Sub", ["x1_4d", "x"], ["right"]),
            ("Sub", ["y", "y0_4d"], ["above"]),
            ("Sub", ["y1_4d", "y"], ["below"]),
            ("Min", ["left", "right"], ["across"]),
            ("Min", ["above", "below"], ["along"]),
            ("Min", ["across", "along"], ["depth"]),
            ("Clip", ["depth", "minus_two", "two"], ["prompt"]),
            ("Sub", ["levels", "middle"], ["contrast"]),
            ("Add", ["contrast", "nothing_of"], ["spread"]),
            ("Mul", ["prompt", "zero"], ["none"]),
            ("Add", ["spread", "none"], ["picture"]),
            ("Concat", ["picture", "prompt"], ["both"], {"axis": 1}),
            ("Conv", ["both", "mix.weight"], ["mixed"], same),
            ("Relu", ["mixed"], ["e"]),
            ("Conv", ["e", "deep.weight"], ["f"], same),
            ("Conv", ["f", "head.weight"], ["shade"], {"kernel_shape": [1, 1]}),
            ("Mul", ["shade", "little"], ["touch"]),
            ("Mul", ["picture", "ten"], ["raw"]),
            ("Add", ["raw", "touch"], ["answer"]),
            ("Greater", ["prompt", "minus_half"], ["inside"]),
            ("Where", ["inside", "answer", "outside"], ["low_res_logits"]),
        ),
        inputs=(TensorSpec("levels", "float32", (1, 1, SIDE, SIDE)), TensorSpec("boxes", "float32", (count, 4))),
        outputs=(TensorSpec("low_res_logits", "float32", (count, 1, SIDE, SIDE)),),
        function=_no_function,
        constants={
            "apart": np.array([-1, 1, 1, 1], np.int64),
            "x": grid.reshape(1, 1, 1, SIDE),
            "y": grid.reshape(1, 1, SIDE, 1),
            "two": np.array(2, np.float32),
            "minus_two": np.array(-2, np.float32),
            "middle": np.array(0.5, np.float32),
            "nothing_of": np.zeros((1, 1, SIDE, SIDE), np.float32),
            "zero": np.array(0, np.float32),
            "little": np.array(5, np.float32),
            "ten": np.array(10, np.float32),
            "minus_half": np.array(-0.5, np.float32),
            "outside": np.array(-10, np.float32),
            "mix.weight": _weights(4, CHANNELS, 2) * 3,
            "deep.weight": _weights(5, CHANNELS, CHANNELS) * 6,
            "head.weight": _weights(6, 1, CHANNELS, 1),
        },
    )


@cache
def graphs() -> dict[str, bytes]:
    """The ONNX files, with that of a decoder for one box."""
    made = {"encoder": _encoder(), "decoder": _decoder(), "one_box": _decoder(1)}
    return {f"{role}.onnx": graph_bytes(graph) for role, graph in made.items()}


def conv_bundle(folder: Path, *, one_box: bytes | None = None, **changes: Any) -> Path:
    """Write the bundle, perhaps with a graph for one box, and with changes to its manifest."""
    facts: dict[str, Any] = {
        "name": "conv",
        "embedding": [{"name": "levels", "shape": [1, 1, SIDE, SIDE]}],
        "prompts": {"box": {}},
        "output": {"low_res_size": [SIDE, SIDE], "scores": False},
    }
    files = {name: graphs()[name] for name in ("encoder.onnx", "decoder.onnx")}
    if one_box is not None:
        files["one_box.onnx"] = one_box
        facts["graphs"] = {"float": {name.removesuffix(".onnx"): {"onnx": name} for name in files}}
    return write_bundle(folder, files, **facts, **changes)


def picture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> NDArray[np.uint8]:
    """Bright discs on noise, uint8 [row, column]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[: size[0], : size[1]]
    image = rng.integers(0, 70, size)
    for _ in range(3):
        centre, radius = rng.uniform(12, min(size) - 12, 2), rng.uniform(5, 11)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
        image[disc] = rng.integers(150, 256, int(disc.sum()))
    return image.astype(np.uint8)


__all__ = ["SIDE", "conv_bundle", "graphs", "picture"]
