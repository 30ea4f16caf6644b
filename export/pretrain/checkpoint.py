"""Training state on disk: written atomically, read without executing anything.

Knows torch's file format; must not know how the state is made or used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from export.pretrain.config import load_config
from export.pretrain.model import Network
from runtime.errors import CheckpointError

__all__ = ["load_network", "mix_with_start", "read_checkpoint", "write_checkpoint"]

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


def load_network(path: Path) -> Network:
    """Averaged weights of a checkpoint, ready for inference."""
    state = read_checkpoint(path)
    network = Network(load_config(state["config"]).model)
    network.load_state_dict(state["ema"])
    return network.eval()


def mix_with_start(start: Path, tuned: Path, output: Path) -> None:
    """Write what is exported of a tuned run: its averaged weights, and ``start_share`` of those that it started from.

    A tuned network forgets some of what it could do before; between the two lie networks that do both (M. Wortsman et
    al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    state = read_checkpoint(tuned)
    config = load_config(state["config"])
    network = Network(config.model)
    network.take_over(read_checkpoint(start)["ema"])
    before = network.state_dict()
    mixed = {
        name: torch.lerp(value, before[name], config.start_share) if value.is_floating_point() else value
        for name, value in state["ema"].items()
    }
    kept = {name: state[name] for name in ("config", "step", "images")}
    write_checkpoint(output, {**kept, "ema": mixed})
