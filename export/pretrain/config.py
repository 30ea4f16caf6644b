"""The numbers of a training run, as frozen values that are read from and written to JSON.

Knows names, defaults and ranges; must not know torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from runtime.errors import CheckpointError

__all__ = ["BOX_SIDES", "USERS_BOXES", "ModelConfig", "TrainConfig", "load_config"]


BOX_SIDES = (0.1, 0.22, 0.5)
"""Sides of the boxes that are tried where there are points and no box, as shares of the input's side."""

USERS_BOXES = (0.28, 0.32, 0.2, 0.2)
"""Shares of a user's boxes: tight, mostly too large, off by 5 % of their size, off by some pixels."""


@dataclass(frozen=True)
class ModelConfig:
    """Widths and depths of encoder and decoder."""

    input_size: int = 256
    widths: tuple[int, ...] = (16, 48, 80, 144, 224)  # stem, strides 4, 8, 16, 32
    blocks: tuple[int, ...] = (0, 1, 2, 4, 2)
    embedding: tuple[int, int, int] = (32, 64, 96)  # strides 4, 8, 16
    candidates: int = 3
    reference: bool = False  # whether the decoder sees the image of the neighbouring slice beside its mask


@dataclass(frozen=True)
class TrainConfig:
    """One training run; ``images`` is its whole length, at whose end the learning rate is zero."""

    seed: int = 11
    images: int = 64000
    batch: int = 8  # images a step, all processes together
    prompts: int = 4  # prompts an image
    processes: int = 1
    learning_rate: float = 1.5e-3
    warmup_steps: int = 150
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 2.0
    ema: float = 0.998
    score_weight: float = 0.5
    neighbour_share: float = 0.25  # prompts that carry the mask of a neighbouring slice
    point_share: float = 0.1  # prompts that are a click in a box of about any size
    limit_share: float = 0.0  # prompts with a rectangle of a 3-D box, marked so; where 0, roll-outs mark theirs neither
    limit_fill: float = 0.45  # least share of such a rectangle's side that the target takes
    boxes: tuple[float, ...] = USERS_BOXES
    hand: float = 7.0  # most pixels of the input by which a side of the last kind of box is off
    coarse_share: float = 0.0  # images and volumes that are drawn on coarser pixels and enlarged as the runtime does
    refine_share: float = 0.3  # steps whose prompts follow the model's own first answer
    rollout_share: float = 0.0  # steps that carry masks through synthetic volumes
    sequences: int = 4  # volumes such a step, all processes together
    slices: int = 6
    sequence_objects: int = 3
    norm_steps: int = 0  # steps of each kind whose statistics normalise the whole run; 0: each batch by its own
    keep_answers: bool = False  # counted around a network that goes on answering as it did, not by each batch
    checkpoint_seconds: float = 120.0
    log_steps: int = 50
    bfloat16: bool = True
    workers: int = 1  # loader processes a rank; 0 draws the scenes in line
    model: ModelConfig = field(default_factory=ModelConfig)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for JSON and checkpoints."""
        return asdict(self)


def _known(cls: type[ModelConfig] | type[TrainConfig], values: dict[str, Any], where: str) -> dict[str, Any]:
    unknown = sorted(set(values) - {item.name for item in fields(cls)})
    if unknown:
        msg = f"{where}: unknown settings {', '.join(unknown)}; known are {[f.name for f in fields(cls)]}"
        raise CheckpointError(msg)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def load_config(source: Path | dict[str, Any]) -> TrainConfig:
    """Read a configuration from a JSON file or from the dictionary a checkpoint carries."""
    values = json.loads(source.read_text(encoding="utf-8")) if isinstance(source, Path) else dict(source)
    where = str(source) if isinstance(source, Path) else "configuration"
    model = ModelConfig(**_known(ModelConfig, values.pop("model", {}), where + ", model"))
    return TrainConfig(model=model, **_known(TrainConfig, values, where))
