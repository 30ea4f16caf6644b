"""The arithmetic of merging one tensor: base, models and their settings -> values.

Knows flat float64 tensors. Must not know names beyond what seeds a drawing, nor state dicts. A *task vector* is what
fine-tuning added to the base: model minus base.

References: Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023; Yadav et al., TIES-Merging, NeurIPS 2023;
Yu et al., Language Models are Super Mario, ICML 2024 (DARE); Shoemake, Animating Rotation with Quaternion Curves,
SIGGRAPH 1985 (spherical interpolation).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ARITHMETIC", "METHODS", "STATISTICS", "Draw", "Method", "Recipe", "complaint", "for_statistics"]

Method = Literal["linear", "slerp", "task-arithmetic", "ties", "dare"]
METHODS: tuple[Method, ...] = get_args(Method)
"""How tensors are merged; see `export.merge.MergeSettings`."""

STATISTICS = ("running_mean", "running_var")
"""Last parts of the names of what normalisation has measured; it belongs to the activations, not to the weights."""

_SLACK = 1e-9
_PARALLEL = 1e-6
"""Sine of the angle below which two tensors have one direction, and the arc between them is a line."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one tensor, complete."""

    method: Method
    weights: tuple[float, ...]
    density: float
    scale: float


def complaint(recipe: Recipe, models: int) -> str | None:
    """Say what is wrong with settings, in words that follow the method's name; None if nothing is."""
    weights, method = recipe.weights, recipe.method
    if method not in ARITHMETIC:
        return f"no such method; wanted one of {', '.join(ARITHMETIC)}"
    if len(weights) != models:
        return f"{len(weights)} weights for {models} models; give one per model"
    if not all(map(math.isfinite, (*weights, recipe.scale))):
        return "weights and scale must be finite"
    if not 0 < recipe.density <= 1:
        return f"density {recipe.density:g}; wanted above 0 and up to 1"
    if method == "slerp" and models != 1:
        return f"{models} models; an arc joins the base and exactly one model"
    if method in {"linear", "slerp"} and (min(weights) < 0 or sum(weights) > 1 + _SLACK):
        return f"weights {weights}; wanted none below 0 and at most 1 together (task-arithmetic goes beyond)"
    if method == "ties" and (min(weights) < 0 or max(weights) == 0):
        return f"weights {weights}; wanted none below 0, not all 0"
    return None


def for_statistics(recipe: Recipe) -> Recipe:
    """Settings by which the statistics that go with a merged tensor are merged: linear in the same shares."""
    if recipe.method in {"linear", "slerp"}:
        return replace(recipe, method="linear")
    total = sum(recipe.weights) if recipe.method == "ties" else 1.0  # which takes a weighted mean
    return replace(recipe, method="task-arithmetic", weights=tuple(weight / total for weight in recipe.weights))


@dataclass(frozen=True)
class Draw:
    """Random choices for one tensor."""

    seed: int
    name: str

    def keep(self, model: int, like: Tensor, density: float) -> Tensor:
        """Choose a share of the entries, as booleans."""
        import torch

        digest = hashlib.sha256(f"{self.seed} {model} {self.name}".encode()).digest()
        chances = np.random.default_rng(int.from_bytes(digest, "little")).random(like.numel())
        return torch.from_numpy(chances < density)


def _linear(base: Tensor, models: Sequence[Tensor], recipe: Recipe, _: Draw) -> Tensor:
    values = base * max(0.0, 1 - sum(recipe.weights))
    for weight, model in zip(recipe.weights, models, strict=True):
        values = values + weight * model
    return values


def _slerp(base: Tensor, models: Sequence[Tensor], recipe: Recipe, draw: Draw) -> Tensor:
    (model,), (along,) = models, recipe.weights
    lengths = float(base.norm()) * float(model.norm())
    cosine = float(base @ model) / lengths if lengths else 1.0
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    sine = math.sin(angle)
    if sine < _PARALLEL:
        return _linear(base, models, recipe, draw)
    return (math.sin((1 - along) * angle) * base + math.sin(along * angle) * model) / sine


def _task_arithmetic(base: Tensor, models: Sequence[Tensor], recipe: Recipe, _: Draw) -> Tensor:
    added = sum(weight * (model - base) for weight, model in zip(recipe.weights, models, strict=True))
    return base + recipe.scale * added


def _dare(base: Tensor, models: Sequence[Tensor], recipe: Recipe, draw: Draw) -> Tensor:
    values = base
    for number, (weight, model) in enumerate(zip(recipe.weights, models, strict=True)):
        kept = draw.keep(number, base, recipe.density)
        values = values + recipe.scale * weight / recipe.density * kept * (model - base)
    return values


def _ties(base: Tensor, models: Sequence[Tensor], recipe: Recipe, _: Draw) -> Tensor:
    import torch

    weights = torch.tensor(recipe.weights, dtype=torch.float64)[:, None]
    vectors = torch.stack([_largest(model - base, recipe.density) for model in models])
    sign = (weights * vectors).sum(0).sign()
    shares = weights * ((vectors.sign() == sign) & (vectors != 0))
    total = shares.sum(0)
    mean = (shares * vectors).sum(0) / torch.where(total > 0, total, 1.0)
    return base + recipe.scale * mean


def _largest(vector: Tensor, density: float) -> Tensor:
    """Keep a share of the entries, the largest ones; entries that equal the smallest of these stay as well."""
    import torch

    kept = math.ceil(density * vector.numel())
    if kept in {0, vector.numel()}:
        return vector
    sizes = vector.abs()
    limit = sizes.kthvalue(vector.numel() - kept + 1).values
    return torch.where(sizes >= limit, vector, 0.0)


ARITHMETIC: Mapping[Method, Callable[[Tensor, Sequence[Tensor], Recipe, Draw], Tensor]] = {
    "linear": _linear,
    "slerp": _slerp,
    "task-arithmetic": _task_arithmetic,
    "ties": _ties,
    "dare": _dare,
}
