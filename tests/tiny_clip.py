"""CLIP with a few small layers and fixed weights, laid out as transformers saves it."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch

from export.families._clip import Clip, ClipSize

SMALL = ClipSize(vision_width=64, vision_layers=2, vision_hidden=96, text_width=64, text_layers=2, text_hidden=80)


def clip_weights(size: ClipSize | None = None) -> dict[str, torch.Tensor]:
    """State dict of fixed values for each name and shape; ``size`` changes the numbers of positions and outputs."""
    small = SMALL if size is None else replace(SMALL, positions=size.positions, outputs=size.outputs)
    with torch.device("meta"):
        layout = Clip(small).state_dict()
    weights = {name: torch.from_numpy(_values(name, tuple(value.shape))) for name, value in layout.items()}
    # what such files hold besides
    weights["logit_scale"] = torch.tensor(4.6)
    weights["vision_model.embeddings.position_ids"] = torch.arange(small.positions)[None]
    weights["text_model.embeddings.position_ids"] = torch.arange(small.text_positions)[None]
    return weights


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(int.from_bytes(sha256(name.encode()).digest()[:4], "little"))
    noise = random.standard_normal(shape)
    if len(shape) == 1:
        noise = 1 + 0.1 * noise if name.endswith("weight") else 0.02 * noise
    else:
        noise *= float(np.prod(shape[1:])) ** -0.5
    return noise.astype(np.float32)
