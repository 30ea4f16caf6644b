"""Training state on disk: written atomically, read without executing anything.

Knows torch's file format; must not know how the state is made or used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from export.pretrain.config import load_config
from export.pretrain.model import Network
from runtime.errors import CheckpointError

__all__ = ["load_network", "mean_checkpoint", "read_checkpoint", "write_checkpoint"]

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


def mean_checkpoint(paths: Sequence[Path]) -> dict[str, Any]:
    """State whose weights are the mean of those of several runs of one network.

    It can be exported, evaluated and started from; there is no run to continue. Where the runs began with
    the same weights, the mean may be more accurate than either (Wortsman et al., Model soups, 2022).

    Raises
    ------
    CheckpointError
        If they are of networks of different sizes.
    """
    states = [read_checkpoint(path) for path in paths]
    configs = [load_config(state["config"]) for state in states]
    for path, config in zip(paths, configs, strict=True):
        if config.model != configs[0].model:
            msg = f"{path}: its network is not that of {paths[0]}; wanted runs of one, best from the same start"
            raise CheckpointError(msg)
    weights = [state["ema"] for state in states]
    means = {
        name: torch.stack([one[name] for one in weights]).mean(0) if value.is_floating_point() else value
        for name, value in weights[0].items()
    }
    images = sum(int(state["images"]) for state in states)
    return {"config": configs[0].to_json(), "images": images, "ema": means}


def load_network(path: Path) -> Network:
    """Network of a checkpoint's averaged weights, ready for inference."""
    state = read_checkpoint(path)
    network = Network(load_config(state["config"]).model)
    network.load_state_dict(state["ema"])
    return network.eval()
