"""Tiny bundles that understand more than boxes, each with a decoder whose answer can be said without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from bundle_factory import write_bundle
from onnx import TensorProto
from tiny_bundle import CLICKS, SIDE, Tail, graph_bytes, tiny_bundle
from tiny_graphs import Graph

from runtime.backends import TensorSpec


def modality_bundle(folder: Path, *, use: str = "required") -> Path:
    """Finds the object in CT and where no modality is given, and nothing in MR or ultrasound."""
    tail = Tail(
        nodes=(("Gather", ["shifts", "modality"], ["shift"]), ("Add", ["boxed", "shift"], ["low_res_logits"])),
        inputs=(TensorSpec("modality", "int64", (1,)),),
        constants={"shifts": np.array([0, -20, -20, 0], np.float32)},  # the last one is that of index -1
    )
    facts: dict[str, Any] = {"prompts": {"modality": use}, "modalities": ["CT", "MR", "Ultrasound"]}
    return tiny_bundle(folder, tail=tail, **facts)


def finding_bundle(folder: Path, **changes: Any) -> Path:
    """Finds what is bright in CT and nothing in MR, without a prompt; a box limits the mask."""
    tail = Tail(
        nodes=(("Gather", ["shifts", "modality"], ["shift"]), ("Add", ["raw", "shift"], ["low_res_logits"])),
        inputs=(TensorSpec("modality", "int64", (1,)),),
        constants={"shifts": np.array([0, -20], np.float32)},
        boxes=False,
    )
    prompts = {"box": {"use": "limits_mask"}, "modality": "required"}
    return tiny_bundle(folder, tail=tail, **{"prompts": prompts, "modalities": ["CT", "MR"], **changes})


def drawing_bundle(folder: Path, **changes: Any) -> Path:
    """Paints what it is given: discs at positive points and the stroke; both come from the box where none are given."""
    tail = Tail(
        nodes=(
            *CLICKS,
            ("Reshape", ["has_mask", "apart"], ["has_mask_4d"]),
            ("Mul", ["masks", "has_mask_4d"], ["given"]),
            ("Mul", ["given", "thirty"], ["painted"]),
            ("Add", ["clicked", "painted"], ["drawn"]),
            ("Mul", ["boxed", "zero"], ["nothing"]),
            ("Add", ["drawn", "nothing"], ["loose"]),
            ("Sub", ["loose", "ten"], ["low_res_logits"]),
        ),
        inputs=(
            TensorSpec("points", "float32", (None, None, 2)),
            TensorSpec("point_labels", "float32", (None, None)),
            TensorSpec("masks", "float32", (None, 1, SIDE, SIDE)),
            TensorSpec("has_mask", "float32", (None,)),
        ),
    )
    prompts = {
        "box": {"use": "required", "rounding": "truncate"},
        "points": {"requires_box": True, "derived": "box_quarters"},
        "mask": {"kind": "scribble", "size": [SIDE, SIDE], "derived": "box_stroke"},
    }
    return tiny_bundle(folder, tail=tail, **{"prompts": prompts, **changes})


CROP_SIDES = (4, 6)
"""Sides of what the content bundle's decoder reads of a box, and of what its third graph reads."""


def content_bundle(folder: Path, *, length: int | None = 3, **crops: Any) -> Path:
    """Logits that are the same everywhere: mean of the crop + 10 times what the third graph makes + 30 times a vector.

    The third graph gives the brightest value of each plane; ``crops`` changes both crops.
    """
    factors = {"crops": 1.0, "content": 10.0, "bias": 30.0}
    nodes = [("Mul", ["boxed", "zero"], ["sum_0"])]
    for number, name in enumerate(factors):
        axes = {"axes": [1, 2, 3] if name == "crops" else [1], "keepdims": 1}
        nodes += [
            ("ReduceMean", [name], [f"{name}_mean"], axes),
            ("Reshape", [f"{name}_mean", "apart"], [f"{name}_4d"]),
            ("Mul", [f"{name}_4d", f"{name}_factor"], [f"{name}_scaled"]),
            ("Add", [f"sum_{number}", f"{name}_scaled"], [f"sum_{number + 1}"]),
        ]
    tail = Tail(
        nodes=(*nodes, ("Identity", ["sum_3"], ["low_res_logits"])),
        inputs=(
            TensorSpec("crops", "float32", (None, 3, CROP_SIDES[0], CROP_SIDES[0])),
            TensorSpec("content", "float32", (None, 3)),
            TensorSpec("bias", "float32", (None, 2)),
        ),
        constants={f"{name}_factor": np.array(factor, np.float32) for name, factor in factors.items()},
    )
    third = Graph(
        nodes=(("ReduceMax", ["crop"], ["output"], {"axes": [2, 3], "keepdims": 0}),),
        inputs=(TensorSpec("crop", "float32", (None, 3, CROP_SIDES[1], CROP_SIDES[1])),),
        outputs=(TensorSpec("output", "float32", (None, 3)),),
        function=lambda crop: {"output": crop.max(axis=(2, 3))},
        constants={},
    )
    shared = {"interpolation": "bilinear_antialias_float", "normalise": {"kind": "scale"}, **crops}
    graph = {"graph": "brightest", **({} if length is None else {"length": length})}
    prompts = {
        "box": {"use": "required"},
        "crops": [
            {"name": "crops", "size": [CROP_SIDES[0]] * 2, **shared},
            {"name": "content", "size": [CROP_SIDES[1]] * 2, **graph, **shared},
        ],
        "vectors": {"bias": 2},
    }
    return tiny_bundle(folder, tail=tail, third={"brightest": graph_bytes(third)}, prompts=prompts)


_FLOATS = {"to": TensorProto.FLOAT}


def _along(axis: str, index: int) -> list[tuple[Any, ...]]:
    """Nodes from the indices of an axis to the places of its pixels in the input frame, ready to be compared."""
    return [
        ("Cast", [axis], [f"{axis}_float"], _FLOATS),
        ("Add", [f"{axis}_float", "half"], [f"{axis}_middle"]),
        ("Gather", ["sides", f"at_{index}"], [f"{axis}_count"]),
        ("Div", ["side", f"{axis}_count"], [f"{axis}_factor"]),
        ("Mul", [f"{axis}_middle", f"{axis}_factor"], [f"{axis}_placed"]),
        ("Unsqueeze", [f"{axis}_placed", f"{axis}_around"], [f"{axis}_4d"]),
    ]


def implicit_bundle(folder: Path) -> Path:
    """A decoder of position, 1 in the box and -1 beside it at any size, and an encoder that passes the spectrum on."""
    picture = (1, 3, SIDE, SIDE)
    plane, waves = (TensorSpec(name, "float32", (1, 1, SIDE, SIDE)) for name in ("plane", "waves"))
    encoder = Graph(
        nodes=tuple(
            ("ReduceMean", [given], [kept], {"axes": [1], "keepdims": 1})
            for given, kept in (("image", "plane"), ("spectrum", "waves"))
        ),
        inputs=(TensorSpec("image", "float32", picture), TensorSpec("spectrum", "float32", picture)),
        outputs=(plane, waves),
        function=lambda image, spectrum: {"plane": image.mean(1), "waves": spectrum.mean(1)},
        constants={},
    )
    corners = ("left", "top", "right", "bottom")
    nodes = [
        ("Cast", ["output_size"], ["sides"], _FLOATS),
        *_along("rows", 0),
        *_along("columns", 1),
        ("Split", ["boxes"], list(corners), {"axis": 1}),
        *(("Reshape", [corner, "apart"], [f"{corner}_4d"]) for corner in corners),
        ("GreaterOrEqual", ["columns_4d", "left_4d"], ["after_left"]),
        ("LessOrEqual", ["columns_4d", "right_4d"], ["before_right"]),
        ("GreaterOrEqual", ["rows_4d", "top_4d"], ["after_top"]),
        ("LessOrEqual", ["rows_4d", "bottom_4d"], ["before_bottom"]),
        ("And", ["after_left", "before_right"], ["inside_x"]),
        ("And", ["after_top", "before_bottom"], ["inside_y"]),
        ("And", ["inside_x", "inside_y"], ["inside"]),
        ("Where", ["inside", "one", "minus_one"], ["raw"]),
        ("Add", ["plane", "waves"], ["seen"]),
        ("ReduceMean", ["seen"], ["mean"], {"keepdims": 1}),
        ("Mul", ["mean", "zero"], ["nothing"]),
        ("Add", ["raw", "nothing"], ["low_res_logits"]),
    ]
    decoder = Graph(
        nodes=tuple(nodes),
        inputs=(
            plane,
            waves,
            TensorSpec("boxes", "float32", (None, 4)),
            TensorSpec("output_size", "int64", (2,)),
            TensorSpec("rows", "int64", (None,)),
            TensorSpec("columns", "int64", (None,)),
        ),
        outputs=(TensorSpec("low_res_logits", "float32", (None, 1, None, None)),),
        function=lambda **_: {},
        constants={
            **{name: np.array(value, np.float32) for name, value in (("half", 0.5), ("side", SIDE), ("zero", 0))},
            **{name: np.array(value, np.float32) for name, value in (("one", 1), ("minus_one", -1))},
            **{f"at_{index}": np.array(index, np.int64) for index in range(2)},
            "rows_around": np.array([0, 1, 3], np.int64),
            "columns_around": np.array([0, 1, 2], np.int64),
            "apart": np.array([-1, 1, 1, 1], np.int64),
        },
    )
    size = [SIDE, SIDE]
    return write_bundle(
        folder,
        {"encoder.onnx": graph_bytes(encoder), "decoder.onnx": graph_bytes(decoder)},
        input={
            "size": size,
            "resize": "stretch",
            "interpolation": "linear",
            "normalise": {"kind": "scale"},
            "spectrum": "spectrum",
        },
        embedding=[{"name": name, "shape": [1, 1, *size]} for name in ("plane", "waves")],
        prompts={"box": {"use": "required"}},
        output={"low_res_size": size, "scores": False, "implicit": True},
    )
