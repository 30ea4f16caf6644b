"""The files of a merge: which weights of several checkpoints belong together, and how the result is written.

Knows checkpoints and their wrapping. Must not know how tensors are merged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.families import COUNTER
from export.load import Checkpoint, StateDict, load_file
from runtime._digest import sha256_of
from runtime.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_free", "common_layout", "in_container", "record_path", "shapes", "write_merge"]


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shape by name, counters of batch normalisation left out."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items() if not name.endswith(COUNTER)}


def common_layout(sources: Sequence[Checkpoint]) -> list[StateDict]:
    """Choose one state dict of each checkpoint, all of one layout; where there is none, those with most in common.

    Of several layouts that all checkpoints share the largest counts, and moving averages before the weights they are
    averages of.
    """
    base, *models = sources
    fitting = []
    for one in base.state_dicts:
        wanted = shapes(one.tensors)
        partners = [next((two for two in model.state_dicts if shapes(two.tensors) == wanted), None) for model in models]
        chosen = [one, *(two for two in partners if two is not None)]
        if len(chosen) == len(sources):
            fitting.append(chosen)
    if fitting:
        largest = max(len(chosen[0].tensors) for chosen in fitting)
        rivals = [chosen for chosen in fitting if 2 * len(chosen[0].tensors) >= largest]
        return max(rivals, key=lambda chosen: (chosen[0].is_average, len(chosen[0].tensors)))
    one, _ = max(((one, _nearest(one, models[0])) for one in base.state_dicts), key=lambda pair: _common(*pair))
    return [one, *(_nearest(one, model) for model in models)]


def _common(one: StateDict, two: StateDict) -> int:
    return len(one.tensors.keys() & two.tensors.keys())


def _nearest(one: StateDict, source: Checkpoint) -> StateDict:
    return max(source.state_dicts, key=lambda two: _common(one, two))


def in_container(path: Path, state_dict: StateDict, merged: Mapping[str, Tensor]) -> Any:
    """Wrap merged weights as those they came from (`state_dict` of the file at `path`), without any other tensors."""
    return _wrapped(load_file(path), "", state_dict, merged)


def _wrapped(found: Any, where: str, state_dict: StateDict, merged: Mapping[str, Tensor]) -> Any:
    """Rebuild a level of a checkpoint; None where it does not hold the state dict."""
    if not isinstance(found, Mapping):
        return None
    facts = {key: value for key, value in found.items() if not _holds_tensors(value)}
    first = next(iter(state_dict.tensors))
    prefixes = {name.removesuffix(first) for name in found if isinstance(name, str) and name.endswith(first)}
    for prefix in prefixes:
        here = f"{where}.{prefix}".strip(".") if prefix else where
        if here == state_dict.where and all(prefix + name in found for name in state_dict.tensors):
            return facts | {prefix + name: tensor for name, tensor in merged.items()}
    for key, value in found.items():
        inner = _wrapped(value, f"{where}.{key}" if where else str(key), state_dict, merged)
        if inner is not None:
            return {name: inner if name == key else facts[name] for name in found if name == key or name in facts}
    return None


def _holds_tensors(value: Any) -> bool:
    import torch

    if isinstance(value, Mapping):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_holds_tensors, value))
    return isinstance(value, torch.Tensor)


def record_path(output: Path) -> Path:
    """Where the record of a merged checkpoint lies: beside it."""
    return output.with_name(f"{output.name}.json")


def write_merge(container: Any, record: Mapping[str, Any], output: Path, *, force: bool) -> Path:
    """Write a checkpoint and beside it the record with its sha256, both whole or not at all; return the record's path.

    OutputError if one of them exists (and `force` is not set) or cannot be written.
    """
    import torch

    report = record_path(output)
    for path in (output, report):
        check_free(path, force=force)
    with _arriving(output) as checkpoint:
        with checkpoint.open("wb") as file:  # a file object, because torch writes a path's name into the file
            torch.save(container, file)
        document = {**record, "sha256": sha256_of(checkpoint)}
        with _arriving(report) as text:
            text.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return report


def check_free(path: Path, *, force: bool) -> None:
    """Refuse a path that is taken: by anything without `force`, and with it by anything but a file."""
    if os.path.lexists(path) and not (force and path.is_file()):
        advice = "choose another name" if force else "choose another name, or replace it with --force"
        msg = f"{path} exists; {advice}"
        raise OutputError(msg)


@contextmanager
def _arriving(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` that becomes `path` when the block ends, and is removed if it fails."""
    work = path.with_name(f".{path.name[:60]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield work
        work.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or error
        msg = f"{path}: cannot be written ({reason}); free space or choose another folder"
        raise OutputError(msg) from error
    finally:
        work.unlink(missing_ok=True)
