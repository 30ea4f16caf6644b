"""Tiny bundles that understand more than boxes, each with a decoder whose answer can be said without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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
