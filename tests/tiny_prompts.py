"""Tiny bundles that understand more than boxes, each with a decoder whose answer can be said without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_bundle import Tail, tiny_bundle

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
