"""A real bundle in 15 kB: its encoder passes the picture on, its decoder thresholds it inside the box.

With it whole sessions and command lines run on the real engines, and what they must find can be said without running
them: the pixels of the box that are brighter than the middle of the slice's range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from bundle_factory import write_bundle
from numpy.typing import NDArray
from onnx import TensorProto
from published import merged
from scenes import Storage, stored, volume_of
from tiny_graphs import Graph

from runtime import Session
from runtime.backends import TensorSpec
from runtime.geometry import Volume

SIDE = 64
BRIGHT = 200
CLICK_RADIUS = 3.0

Node = tuple[Any, ...]


def _no_function(**_: Any) -> dict[str, Any]:
    raise NotImplementedError


def _encoder(channels: int) -> Graph:
    return Graph(
        nodes=(
            ("ReduceMean", ["image"], ["plane"], {"axes": [1], "keepdims": 1}),
            ("Mul", ["plane", "levels_of_one"], ["scaled"]),
            ("Cast", ["scaled"], ["levels"], {"to": TensorProto.UINT8}),
        ),
        inputs=(TensorSpec("image", "float32", (1, channels, SIDE, SIDE)),),
        outputs=(
            TensorSpec("plane", "float32", (1, 1, SIDE, SIDE)),
            TensorSpec("levels", "uint8", (1, 1, SIDE, SIDE)),
        ),
        function=_no_function,
        constants={"levels_of_one": np.array(100, np.float32)},
    )


_BRIGHTNESS: tuple[Node, ...] = (
    # Both embedding tensors take part: plane + levels / 100 is twice the brightness.
    ("Cast", ["levels"], ["levels_float"], {"to": TensorProto.FLOAT}),
    ("Mul", ["levels_float", "hundredth"], ["brightness"]),
    ("Add", ["plane", "brightness"], ["twice"]),
    ("Sub", ["twice", "one"], ["contrast"]),
    ("Mul", ["contrast", "ten"], ["raw"]),
)

_INSIDE: tuple[Node, ...] = (
    ("Split", ["boxes"], ["left", "top", "right", "bottom"], {"axis": 1}),
    *(
        node
        for side, missing in (("left", "low"), ("top", "low"), ("right", "high"), ("bottom", "high"))
        for node in (
            ("Reshape", [side, "apart"], [f"{side}_4d"]),
            ("IsNaN", [f"{side}_4d"], [f"{side}_missing"]),
            ("Where", [f"{side}_missing", missing, f"{side}_4d"], [f"{side}_end"]),
        )
    ),
    ("GreaterOrEqual", ["x", "left_end"], ["after_left"]),
    ("LessOrEqual", ["x", "right_end"], ["before_right"]),
    ("GreaterOrEqual", ["y", "top_end"], ["after_top"]),
    ("LessOrEqual", ["y", "bottom_end"], ["before_bottom"]),
    ("And", ["after_left", "before_right"], ["inside_x"]),
    ("And", ["after_top", "before_bottom"], ["inside_y"]),
    ("And", ["inside_x", "inside_y"], ["inside"]),
    *_BRIGHTNESS,
    ("Where", ["inside", "raw", "outside"], ["boxed"]),
)

CLICKS: tuple[Node, ...] = (
    ("Split", ["points"], ["clicks_x", "clicks_y"], {"axis": 2}),
    ("Unsqueeze", ["clicks_x", "last"], ["clicks_x_4d"]),
    ("Unsqueeze", ["clicks_y", "last"], ["clicks_y_4d"]),
    ("Sub", ["x", "clicks_x_4d"], ["dx"]),
    ("Sub", ["y", "clicks_y_4d"], ["dy"]),
    ("Mul", ["dx", "dx"], ["dx2"]),
    ("Mul", ["dy", "dy"], ["dy2"]),
    ("Add", ["dx2", "dy2"], ["distance2"]),
    ("LessOrEqual", ["distance2", "reach2"], ["reached"]),
    ("Cast", ["reached"], ["near"], {"to": TensorProto.FLOAT}),
    ("Unsqueeze", ["point_labels", "last_two"], ["labels_4d"]),
    ("Equal", ["labels_4d", "one"], ["positive"]),
    ("Equal", ["labels_4d", "zero"], ["negative"]),
    ("Where", ["negative", "minus_thirty", "zero"], ["less"]),
    ("Where", ["positive", "thirty", "less"], ["effect"]),
    ("Mul", ["near", "effect"], ["effects"]),
    ("ReduceSum", ["effects", "axis_1"], ["clicked"], {"keepdims": 1}),
)
"""What positive and negative points add around them: ``clicked``."""

_CANDIDATES: tuple[Node, ...] = (
    # An earlier mask raises the logits by a quarter of its own.
    ("Reshape", ["has_mask", "apart"], ["has_mask_4d"]),
    ("Mul", ["masks", "has_mask_4d"], ["given"]),
    ("Mul", ["given", "quarter"], ["raised"]),
    ("Add", ["with_clicks", "raised"], ["loose"]),
    # Two candidates: the second is the larger one and has the better score.
    ("Sub", ["loose", "four"], ["strict"]),
    ("Concat", ["strict", "loose"], ["both"], {"axis": 1}),
    ("ReduceMax", ["both"], ["highest"], {"axes": [2, 3], "keepdims": 0}),
    ("Greater", ["highest", "zero"], ["found"]),
    ("Where", ["found", "good", "bad"], ["scores_of_both"]),
)

_FULL: tuple[Node, ...] = (
    *CLICKS,
    ("Add", ["boxed", "clicked"], ["with_clicks"]),
    *_CANDIDATES,
    ("Identity", ["both"], ["low_res_logits"]),
    ("Identity", ["scores_of_both"], ["scores"]),
)

_ONE_BOX: tuple[Node, ...] = (
    ("Identity", ["boxed"], ["with_clicks"]),
    *_CANDIDATES,
    ("ArgMax", ["scores_of_both"], ["best"], {"axis": 1, "keepdims": 0}),
    ("Gather", ["both", "best"], ["low_res_logits"], {"axis": 1}),
    ("ReduceMax", ["scores_of_both"], ["scores"], {"axes": [1], "keepdims": 1}),
)

_CONSTANTS: dict[str, NDArray[Any]] = {
    "x": np.arange(SIDE, dtype=np.float32).reshape(1, 1, 1, SIDE),
    "y": np.arange(SIDE, dtype=np.float32).reshape(1, 1, SIDE, 1),
    "apart": np.array([-1, 1, 1, 1], np.int64),
    "last": np.array([3], np.int64),
    "last_two": np.array([2, 3], np.int64),
    "axis_1": np.array([1], np.int64),
    "low": np.array(-1, np.float32),
    "high": np.array(SIDE, np.float32),
    "outside": np.array(-10, np.float32),
    "reach2": np.array(CLICK_RADIUS**2, np.float32),
    "hundredth": np.array(0.01, np.float32),
    "quarter": np.array(0.25, np.float32),
    "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "four": np.array(4, np.float32),
    "ten": np.array(10, np.float32),
    "thirty": np.array(30, np.float32),
    "minus_thirty": np.array(-30, np.float32),
    "good": np.array([[0.6, 0.8]], np.float32),
    "bad": np.array([[0.2, 0.1]], np.float32),
}

_EMBEDDING = (
    TensorSpec("plane", "float32", (1, 1, SIDE, SIDE)),
    TensorSpec("levels", "uint8", (1, 1, SIDE, SIDE)),
    TensorSpec("boxes", "float32", (None, 4)),
)


@dataclass(frozen=True)
class Tail:
    """What a decoder does last: nodes from ``boxed`` to ``low_res_logits``, further inputs and constants.

    Without `boxes` it takes none, and ``raw`` holds the logits of the whole image.
    """

    nodes: tuple[Node, ...] = (("Identity", ["boxed"], ["low_res_logits"]),)
    inputs: tuple[TensorSpec, ...] = ()
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    boxes: bool = True


def _decoder(*, clicks: bool, tail: Tail) -> Graph:
    boxed = _INSIDE if tail.boxes else _BRIGHTNESS
    nodes = (*_INSIDE, *_FULL) if clicks else (*boxed, *tail.nodes)
    used = {name for _, inputs, *_ in nodes for name in inputs}
    inputs: tuple[TensorSpec, ...] = _EMBEDDING[: 2 + tail.boxes] + tail.inputs
    outputs: tuple[TensorSpec, ...] = (TensorSpec("low_res_logits", "float32", (None, 1 + clicks, SIDE, SIDE)),)
    if clicks:
        inputs += (
            TensorSpec("points", "float32", (None, None, 2)),
            TensorSpec("point_labels", "float32", (None, None)),
            TensorSpec("masks", "float32", (None, 1, SIDE, SIDE)),
            TensorSpec("has_mask", "float32", (None,)),
        )
        outputs += (TensorSpec("scores", "float32", (None, 2)),)
    return Graph(
        nodes=nodes,
        inputs=inputs,
        outputs=outputs,
        function=_no_function,
        constants={name: array for name, array in _CONSTANTS.items() if name in used} | tail.constants,
    )


def _one_box(candidates: int) -> Graph:
    """The decoder with clicks, for one box without any; right with one candidate."""
    nodes = (*_INSIDE, *_ONE_BOX)
    if candidates > 1:
        nodes = (*nodes[:-2], *_FULL[-2:])
    used = {name for _, inputs, *_ in nodes for name in inputs}
    return Graph(
        nodes=nodes,
        inputs=(
            *_EMBEDDING[:2],
            TensorSpec("boxes", "float32", (1, 4)),
            TensorSpec("masks", "float32", (1, 1, SIDE, SIDE)),
            TensorSpec("has_mask", "float32", (1,)),
        ),
        outputs=(
            TensorSpec("low_res_logits", "float32", (1, candidates, SIDE, SIDE)),
            TensorSpec("scores", "float32", (1, candidates)),
        ),
        function=_no_function,
        constants={name: array for name, array in _CONSTANTS.items() if name in used},
    )


def graph_bytes(graph: Graph) -> bytes:
    """The ONNX file of a graph."""
    with TemporaryDirectory() as folder:
        return graph.save(Path(folder) / "graph.onnx").read_bytes()


@cache
def _bytes(what: str, channels: int = 3) -> bytes:
    return graph_bytes(_encoder(channels) if what == "encoder" else _decoder(clicks=what == "clicks", tail=Tail()))


def tiny_bundle(
    folder: Path,
    *,
    clicks: bool = False,
    channels: int = 3,
    tail: Tail | None = None,
    third: dict[str, bytes] | None = None,
    one_box: int = 0,
    **changes: Any,
) -> Path:
    """Write the bundle: with boxes alone, with a tail, or with boxes, points, mask prompts, two candidates, scores.

    `third` are extra graphs by name; `one_box` is how many candidates a graph for one box gives, if there is one.
    """
    size = [SIDE, SIDE]
    facts: dict[str, Any] = {
        "name": "tiny",
        "input": {
            "size": size,
            "resize": "longest_side",
            "interpolation": "area",
            "normalise": {"kind": "min_max"},
            "channels": channels,
            "pad": "bottom_right",
        },
        "embedding": [
            {"name": "plane", "shape": [1, 1, *size], "stored_dtype": "float16"},
            {"name": "levels", "shape": [1, 1, *size], "dtype": "uint8", "stored_dtype": "uint8"},
        ],
        "prompts": {"box": {"use": "required"}},
        "output": {"low_res_size": size, "scores": False},
        "propagation": {"published": {"box_from": "mask", "last_slice": "excluded"}},
    }
    if clicks:
        facts["prompts"] = {"box": {"use": "optional"}, "points": {}, "mask": {"kind": "logits", "size": size}}
        facts["output"] = {"low_res_size": size, "candidates": 2}
    decoder = (
        _bytes("clicks" if clicks else "boxes") if tail is None else graph_bytes(_decoder(clicks=False, tail=tail))
    )
    files = {"encoder.onnx": _bytes("encoder", channels), "decoder.onnx": decoder}
    if third is not None:
        files |= {f"{name}.onnx": content for name, content in third.items()}
        roles = {"encoder": {"onnx": "encoder.onnx"}, "decoder": {"onnx": "decoder.onnx"}}
        facts["graphs"] = {"float": {**roles, "extra": {name: {"onnx": f"{name}.onnx"} for name in third}}}
    if one_box:
        files["one_box.onnx"] = graph_bytes(_one_box(one_box))
        facts["graphs"] = {"float": {role: {"onnx": f"{role}.onnx"} for role in ("encoder", "decoder", "one_box")}}
    return write_bundle(folder, files, **merged(facts, changes))


# A scene whose right answer is known

SCENE_SHAPE = (48, 64, 9)
"""R, A, S; axial slices have the bundle's own size, so that nothing is interpolated."""
BALL = (20.0, 34.0, 4.0)
BOX = (8, 18, 1, 32, 50, 7)
"""x0, y0, z0, x1, y1, z1 of the ball in scene voxels, both ends inclusive."""
FLAT = (BOX[0], BOX[1], BOX[3], BOX[4])
"""The same on one axial slice."""


def ball() -> NDArray[np.bool_]:
    """A ball with a bite, so that no mirror image of it is the same."""
    x, y, z = np.ogrid[: SCENE_SHAPE[0], : SCENE_SHAPE[1], : SCENE_SHAPE[2]]
    mask = ((x - BALL[0]) / 12) ** 2 + ((y - BALL[1]) / 16) ** 2 + ((z - BALL[2]) / 3.6) ** 4 <= 1
    bite = (x < BALL[0]) & (y > BALL[1] + 3) & (z > BALL[2])
    return mask & ~bite


def scene_pixels(dtype: Any = np.uint8) -> NDArray[Any]:
    """The ball at `BRIGHT` over noise below 60; a bright and a dark corner fix the range of every slice."""
    noise = np.random.default_rng(5).integers(0, 60, SCENE_SHAPE)
    pixels = np.where(ball(), BRIGHT, noise)
    pixels[:2, :2] = 255
    pixels[-2:, -2:] = 0
    return pixels.astype(dtype)


def scene_volume(storage: Storage = ((0, 1, 2), (False, False, False)), dtype: Any = np.uint8) -> Volume:
    """The scene as a file of some storage would give it."""
    return volume_of(scene_pixels(dtype), storage)


def unstored(array: NDArray[Any], storage: Storage) -> NDArray[Any]:
    """Undo `scenes.stored`: a result in file order -> the scene's own order."""
    order, flips = storage
    straight = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return straight.transpose(np.argsort(order))


def inside(box: tuple[float, ...] = BOX) -> NDArray[np.bool_]:
    """The ball within a solid box."""
    x0, y0, z0, x1, y1, z1 = map(int, box)
    mask = np.zeros(SCENE_SHAPE, np.bool_)
    mask[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1] = True
    return mask & ball()


def disc(size: tuple[int, int] = (48, 64), centre: tuple[float, float] = (20, 30), radius: float = 9) -> Any:
    """A bright disc on a dark image, uint8 [row, column], and its mask."""
    rows, columns = np.ogrid[: size[0], : size[1]]
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    image = np.where(mask, 200, 20).astype(np.uint8)
    image[0, 0], image[-1, -1] = 0, 255
    return image, mask


def open_session(bundle: Path, **options: Any) -> Session:
    """A session on ONNX Runtime, which starts in milliseconds, with two threads: two slices at once."""
    return Session(bundle, **{"backend": "onnxruntime", "threads": 2, **options})


__all__ = [
    "BALL",
    "BOX",
    "BRIGHT",
    "CLICKS",
    "CLICK_RADIUS",
    "FLAT",
    "SCENE_SHAPE",
    "SIDE",
    "Tail",
    "ball",
    "disc",
    "graph_bytes",
    "inside",
    "open_session",
    "scene_pixels",
    "scene_volume",
    "stored",
    "tiny_bundle",
    "unstored",
]
