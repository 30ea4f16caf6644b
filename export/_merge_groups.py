"""Layer groups of a checkpoint, told from the names of its weights: what a merge sets together.

Knows names and sizes. Must not know families, files or methods. Groups follow the published merges: the parts of each
sub-module (``image_encoder.neck``, ``mask_decoder.transformer``), and where a part is large and made of numbered layers
or blocks, runs of them (``image_encoder.blocks.0-1``).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["fits", "layer_groups"]

_LARGE = 0.1
"""Share of all weights above which a part is divided."""


def fits(name: str, group: str) -> bool:
    """Whether a tensor belongs to a group: a pattern (``*``), a module, or a run of numbered ones (``blocks.0-1``)."""
    run = re.fullmatch(r"(.*\.)(\d+)-(\d+)", group)
    if run is not None and name.startswith(run[1]):
        number = name.removeprefix(run[1]).split(".")[0]
        return number.isdecimal() and int(run[2]) <= int(number) <= int(run[3])
    return fnmatch.fnmatchcase(name, group) or name.startswith(group + ".")


def layer_groups(tensors: Mapping[str, Tensor], *, layers: int = 2) -> dict[str, tuple[str, ...]]:
    """Divide tensors into groups, name -> names of its tensors; every tensor is in one of them.

    `layers` is how many numbered layers of one list make a group.
    """
    sizes = {name: tensor.numel() for name, tensor in tensors.items()}
    return _divided("", list(sizes), sizes, layers, depth=0)


def _divided(
    prefix: str, names: list[str], sizes: Mapping[str, int], layers: int, depth: int
) -> dict[str, tuple[str, ...]]:
    """Groups of the tensors below a prefix (which ends in a dot, or is empty)."""
    children: dict[str, list[str]] = {}
    for name in names:
        children.setdefault(name.removeprefix(prefix).split(".")[0], []).append(name)
    share = sum(sizes[name] for name in names) / max(1, sum(sizes.values()))
    if depth >= 2 and (share < _LARGE or all(inside == [prefix + child] for child, inside in children.items())):
        return {prefix.rstrip("."): tuple(names)}
    if depth >= 2 and len(children) > 1 and all(child.isdecimal() for child in children):
        return _runs(prefix, children, layers)
    groups: dict[str, tuple[str, ...]] = {}
    for child, inside in children.items():
        if inside == [prefix + child]:
            groups[prefix + child] = tuple(inside)
        else:
            groups |= _divided(f"{prefix}{child}.", inside, sizes, layers, depth + 1)
    return groups


def _runs(prefix: str, children: Mapping[str, list[str]], layers: int) -> dict[str, tuple[str, ...]]:
    """Runs of so many numbered layers."""
    numbers = sorted(children, key=int)
    groups = {}
    for start in range(0, len(numbers), layers):
        run = numbers[start : start + layers]
        label = run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}"
        groups[prefix + label] = tuple(name for number in run for name in children[number])
    return groups
