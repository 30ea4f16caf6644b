"""A checkpoint file -> the torch model of the family that it belongs to.

Knows how training code wraps state dicts (containers, prefixes, moving averages) and how to tell families apart by the
names and shapes of their weights. Must not know graphs or bundles. Nothing in a checkpoint is executed unless the
caller allows it.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.families import COUNTER, Extra, Family, layout_of
from runtime.errors import CheckpointError

__all__ = ["Checkpoint", "StateDict", "load_extra", "load_model", "match", "read_checkpoint"]

PREFIXES = ("ema_model.", "ema.", "module.", "model.", "_orig_mod.", "network.", "net.")
"""What training code puts before the published names."""
_CHUNK_BYTES = 1 << 20
_DEPTH = 3
_SHOWN = 3


@dataclass(frozen=True)
class StateDict:
    """One of the state dicts in a checkpoint: where it was found, and its tensors under names without that prefix."""

    where: str
    tensors: Mapping[str, Tensor]

    @property
    def is_average(self) -> bool:
        """Whether these are the moving averages of the weights, by the names that training code gives them."""
        return re.search(r"(^|[._'])(ema|averaged?)([._']|$)", self.where) is not None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file: its digest and every state dict that it may mean."""

    path: Path
    sha256: str
    state_dicts: tuple[StateDict, ...]


def read_checkpoint(path: Path, *, unsafe_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint without running code from it; `unsafe_pickle` lifts that, for files that hold whole modules.

    CheckpointError if the file is absent, damaged, holds no tensors, or needs `unsafe_pickle`.
    """
    digest = _digest(path)
    found = tuple(_state_dicts(_load(path, unsafe_pickle), ""))
    if not found:
        msg = f"{path} holds no named tensors; wanted a state dict, or a dict or a module with one inside"
        raise CheckpointError(msg)
    # moving averages are what a training run is evaluated with
    return Checkpoint(path, digest, tuple(sorted(found, key=lambda one: not one.is_average)))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); wanted a PyTorch checkpoint"
        raise CheckpointError(msg) from error
    return digest.hexdigest()


def _load(path: Path, unsafe_pickle: bool) -> Any:
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    if not unsafe_pickle:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
            raise CheckpointError(_reason(path, error)) from error
    damage = (RuntimeError, EOFError, ValueError, KeyError, OSError, ImportError, AttributeError, TypeError, IndexError)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, *damage) as error:
        msg = (
            f"{path}: cannot be unpickled ({type(error).__name__}: {error}); it is damaged, or holds objects of a "
            "project that must be importable: save model.state_dict() there instead"
        )
        raise CheckpointError(msg) from error


def _load_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} is damaged or not a safetensors file ({error}); download or save it again"
        raise CheckpointError(msg) from error


def _reason(path: Path, error: Exception) -> str:
    """Explain why a file could not be read as weights alone."""
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign is None:
        return f"{path} is damaged or not a PyTorch checkpoint ({type(error).__name__}); download or save it again"
    return (
        f"{path} holds Python objects ({foreign[1]}) beside the weights, and reading them can run any code that the "
        "file's author put there; save model.state_dict() instead, or give --unsafe-pickle if you trust the file"
    )


def _state_dicts(found: Any, where: str, depth: int = 0) -> Iterator[StateDict]:
    """Find every mapping with tensors in it, down to a few levels, with and without known prefixes."""
    if isinstance(found, torch.nn.Module):
        found = found.state_dict()
    if not isinstance(found, Mapping) or depth > _DEPTH:
        return
    tensors = {
        name: value for name, value in found.items() if isinstance(value, torch.Tensor) and isinstance(name, str)
    }
    if tensors:
        yield from _prefixes(tensors, where)
    for name, value in found.items():
        if isinstance(name, str):
            yield from _state_dicts(value, f"{where}.{name}" if where else name, depth + 1)


def _prefixes(tensors: Mapping[str, Tensor], where: str, depth: int = 0) -> Iterator[StateDict]:
    yield StateDict(where, tensors)
    for prefix in PREFIXES:
        inner = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if inner and depth < _DEPTH:
            yield from _prefixes(inner, f"{where}.{prefix}".strip("."), depth + 1)


@dataclass(frozen=True)
class _Difference:
    """How a state dict differs from a layout."""

    state_dict: StateDict
    common: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = [
            f"{what} {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
            for what, names in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.reshaped),
            )
            if names
        ]
        return "; ".join(parts)


def _shapes(state_dict: StateDict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state_dict.tensors.items() if not name.endswith(COUNTER)}


def _compare(layout: Mapping[str, tuple[int, ...]], state_dict: StateDict) -> _Difference:
    shapes = _shapes(state_dict)
    common = [name for name in layout if name in shapes]
    return _Difference(
        state_dict,
        common=len(common),
        missing=tuple(name for name in layout if name not in shapes),
        unexpected=tuple(name for name in shapes if name not in layout),
        reshaped=tuple(
            f"{name} {shapes[name]} instead of {layout[name]}" for name in common if shapes[name] != layout[name]
        ),
    )


def match(checkpoint: Checkpoint, families: Sequence[Family], *, wanted: str | None = None) -> tuple[Family, StateDict]:
    """Find the family whose layout a checkpoint has, among all or the one named `wanted`, and the state dict.

    CheckpointError if none fits (naming the closest one and what differs), or if several do.
    """
    layouts = {family.name: family.layout() for family in families}
    compared = [
        (family, _compare(layouts[family.name], state_dict))
        for state_dict in checkpoint.state_dicts
        for family in families
    ]
    fitting = [(family, one) for family, one in compared if one.fits]
    chosen = [(family, one) for family, one in fitting if wanted in {None, family.name}]
    if not chosen:
        raise CheckpointError(_misfit(checkpoint, compared, wanted))
    family, first = chosen[0]
    rivals = sorted({family.name for family, one in chosen if one.state_dict is first.state_dict})
    if len(rivals) > 1:
        msg = f"{checkpoint.path} fits {' and '.join(rivals)} alike; say which with --family"
        raise CheckpointError(msg)
    return family, first.state_dict


def _misfit(checkpoint: Checkpoint, compared: Sequence[tuple[Family, _Difference]], wanted: str | None) -> str:
    fitting = [family.name for family, one in compared if one.fits]
    if fitting:
        return f"{checkpoint.path} is a checkpoint of {fitting[0]}, not of {wanted}; leave --family out"
    rivals = [(family, one) for family, one in compared if wanted in {None, family.name}]
    family, closest = max(rivals, key=lambda pair: (pair[1].common - len(pair[1].reshaped), -len(pair[1].unexpected)))
    verdict = f"does not fit {wanted}" if wanted else f"fits no known family; the closest is {family.name}"
    inside = f" under {closest.state_dict.where!r}" if closest.state_dict.where else ""
    return f"{checkpoint.path} {verdict}. Its tensors{inside}: {closest}. See 'lite-infer-export families'"


def load_model(family: Family, state_dict: StateDict) -> nn.Module:
    """Build a family's torch model with these weights, in float32, ready for export.

    CheckpointError if a weight is not a number.
    """
    return _filled(family.build(), state_dict.tensors)


def load_extra(extra: Extra, checkpoint: Checkpoint) -> nn.Module:
    """Build the module of a second file with the weights that it holds, in float32, ready for export.

    CheckpointError if weights are missing, have another shape, or are not a number.
    """
    compared = []
    for state_dict in checkpoint.state_dicts:
        with torch.device("meta"):
            layout = layout_of(extra.build(_shapes(state_dict)))
        difference = replace(_compare(layout, state_dict), unexpected=())
        if difference.fits:
            return _filled(extra.build(_shapes(state_dict)), {name: state_dict.tensors[name] for name in layout})
        compared.append(difference)
    closest = max(compared, key=lambda one: one.common - len(one.reshaped))
    msg = f"{checkpoint.path} is not {extra.title}: {closest}. It is published at {extra.weights}"
    raise CheckpointError(msg)


def _filled(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a model these weights; CheckpointError if one is not a number."""
    counters = {name: value for name, value in model.state_dict().items() if name.endswith(COUNTER)}
    weights = {name: value for name, value in tensors.items() if not name.endswith(COUNTER)}
    broken = [name for name, value in weights.items() if torch.isnan(value).any()]
    if broken:
        msg = f"{broken[0]} (1 of {len(broken)} such tensors) holds NaN: the training of this checkpoint diverged"
        raise CheckpointError(msg)
    model.load_state_dict(counters | weights, strict=True)
    return model.float().eval().requires_grad_(False)
