"""Tiny bundles that understand more than boxes, each with a decoder whose answer can be said without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_bundle import CLICKS, SIDE, Tail, tiny_bundle

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
