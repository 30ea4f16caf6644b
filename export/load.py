"""A checkpoint file -> the torch model of the family that it belongs to.

Knows how training code wraps state dicts (containers, prefixes, moving averages) and how to tell families apart by the
names and shapes of their weights. Must not know graphs or bundles. Nothing in a checkpoint is executed unless the
caller allows it.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.families import COUNTER, Extra, Family, layout_of
from runtime._digest import sha256_of
from runtime.errors import CheckpointError

__all__ = ["Checkpoint", "StateDict", "load_extra", "load_file", "load_model", "match", "read_checkpoint"]

PREFIXES = ("ema_model.", "ema.", "module.", "model.", "_orig_mod.", "network.", "net.")
"""What training code puts before the published names."""
_DEPTH = 3
_SHOWN = 3
_DAMAGE = (
    *(pickle.UnpicklingError, struct.error, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError),
    *(AttributeError, AssertionError, ImportError, MemoryError, OverflowError, OSError),
)
"""What torch raises for files that are cut, altered or of another kind."""


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
    found = tuple(_state_dicts(load_file(path, unsafe_pickle=unsafe_pickle), ""))
    if not found:
        msg = f"{path} holds no named tensors; wanted a state dict, or a dict or a module with one inside"
        raise CheckpointError(msg)
    # moving averages are what a training run is evaluated with
    return Checkpoint(path, digest, tuple(sorted(found, key=lambda one: not one.is_average)))


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); wanted a PyTorch checkpoint"
        raise CheckpointError(msg) from error


def load_file(path: Path, *, unsafe_pickle: bool = False) -> Any:
    """Read what a checkpoint file holds, as it is; CheckpointError as `read_checkpoint`."""
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the damage that is reported below, or about what torch will drop
            return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle)
    except _DAMAGE as error:
        raise CheckpointError(_reason(path, error, unsafe_pickle)) from error


def _reason(path: Path, error: BaseException, unsafe_pickle: bool) -> str:
    """Explain why a file could not be read."""
    other = _other_kind(path)
    if other is not None:
        return f"{path} is {other}"
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign is not None and not unsafe_pickle:
        return (
            f"{path} holds Python objects ({foreign[1]}) beside the weights, and reading them can run any code that "
            "its author put there; save model.state_dict() instead, or give --unsafe-pickle if you trust the file"
        )
    if unsafe_pickle:
        return (
            f"{path}: cannot be unpickled ({type(error).__name__}: {error}); it is damaged, or holds objects of a "
            "project that must be importable: save model.state_dict() there instead"
        )
    return f"{path} is damaged or not a PyTorch checkpoint ({type(error).__name__}); download or save it again"


def _load_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        msg = f"{path} is damaged or not a safetensors file ({error}); download or save it again"
        raise CheckpointError(msg) from error


def _other_kind(path: Path) -> str | None:
    """Say what a file is that people take for a checkpoint, and what to do about it; None where it could be one."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, not weights: the server answered the download with a page; download it in a browser"
    try:
        names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return None
    if any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript program; wanted weights: save the state_dict() of what torch.jit.load gives"
    if names and not any(name.endswith("data.pkl") for name in names):
        return f"a zip archive with {', '.join(names[:_SHOWN])}; wanted a checkpoint: unpack it first"
    return None


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
        names = " and ".join(sorted(set(fitting)))
        return f"{checkpoint.path} fits {names}, not {wanted}; leave --family out or correct it"
    rivals = [(family, one) for family, one in compared if wanted in {None, family.name}]
    _, closest = max(rivals, key=lambda pair: _nearness(pair[1]))
    if not closest.common:
        found = ", ".join(list(checkpoint.state_dicts[0].tensors)[:_SHOWN])
        return (
            f"{checkpoint.path} has no tensor name in common with {wanted or 'any known family'}; its first ones are "
            f"{found}. See 'lite-infer-export families'"
        )
    alike = " and ".join(sorted({family.name for family, one in rivals if _nearness(one) == _nearness(closest)}))
    verdict = f"does not fit {wanted}" if wanted else f"fits no known family; the closest is {alike}"
    inside = f" under {closest.state_dict.where!r}" if closest.state_dict.where else ""
    return f"{checkpoint.path} {verdict}. Its tensors{inside}: {closest}. See 'lite-infer-export families'"


def _nearness(one: _Difference) -> tuple[int, int]:
    return one.common - len(one.reshaped), -len(one.unexpected)


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
