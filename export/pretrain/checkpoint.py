"""Training state on disk: written atomically, read without executing anything.

Knows torch's file format; must not know how the state is made or used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.pretrain.config import load_config
from export.pretrain.model import Network
from runtime.errors import CheckpointError

__all__ = ["final_weights", "load_network", "read_checkpoint", "write_checkpoint"]

_FORMAT = 1


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside the target first, so that a killed run never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save({"format": _FORMAT, **state}, temporary)
    temporary.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint (weights-only loader)."""
    if not path.is_file():
        msg = f"{path}: no such checkpoint; train first or name the file with --checkpoint"
        raise CheckpointError(msg)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("format") != _FORMAT:
        msg = f"{path}: checkpoint format {state.get('format')!r}, this version reads {_FORMAT}; train again"
        raise CheckpointError(msg)
    return state


def final_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """What a run has come to so far: the running means of its weights, and its share of those that it began with."""
    means: dict[str, Tensor] = state["ema"]
    share = load_config(state["config"]).start_share
    if not share:
        return means
    began: dict[str, Tensor] = state["start"]
    return {
        name: value.lerp(began[name], share) if value.is_floating_point() else value for name, value in means.items()
    }


def load_network(path: Path) -> Network:
    """Network of a checkpoint's final weights, ready for inference."""
    state = read_checkpoint(path)
    network = Network(load_config(state["config"]).model)
    network.load_state_dict(final_weights(state))
    return network.eval()
