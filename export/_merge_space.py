"""What a search may choose: for every layer group a method and its settings.

Knows groups, methods and ranges; the ranges are those of the published search. Must not know weights, cases or scores.

References: Yang et al., MedSAMix, arXiv:2508.11032, 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from export._merge_methods import Method
from export.merge import Group, MergeSettings
from runtime.errors import PromptError

__all__ = ["LEAST_DENSITY", "Chooser", "Space"]

LEAST_DENSITY = 0.01
"""Densities are searched from here to 1, all else from 0 to 1."""


class Chooser(Protocol):
    """What is asked for each choice: a trial of a study."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Choose one of several."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Choose a number from a range."""


class _Known:
    """Chooses what was said before."""

    def __init__(self, choices: dict[str, str | float]) -> None:
        self._choices = choices

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._choices[name] if self._choices[name] in choices else choices[0]

    def suggest_float(self, name: str, low: float, high: float) -> float:
        return min(high, max(low, float(self._choices[name])))


@dataclass(frozen=True)
class Space:
    """All merges of some models that a search may find: `groups` of layers, and the `methods` to choose from."""

    groups: tuple[str, ...]
    methods: tuple[Method, ...]
    models: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a space in which there is nothing to search."""
        if not self.groups:
            msg = "all models have the base's weights, so that there is nothing to search"
            raise PromptError(msg)
        if "slerp" in self.methods and self.models != 1:
            msg = f"slerp: {self.models} models; an arc joins the base and exactly one model"
            raise PromptError(msg)

    def settings(self, chooser: Chooser) -> MergeSettings:
        """Ask for every choice; the answers as settings of a merge."""
        groups = tuple(self._group(name, chooser) for name in self.groups)
        return MergeSettings(method="linear", weights=(0.0,) * self.models, seed=self.seed, groups=groups)

    def known(self, choices: dict[str, str | float]) -> MergeSettings:
        """Settings of choices that were made before."""
        return self.settings(_Known(choices))

    def starts(self) -> list[dict[str, str | float]]:
        """Choices to begin with: each parent alone, then every method half-way, alike in all groups."""
        able = [method for method in self.methods if self.models == 1 or method in {"linear", "task-arithmetic"}]
        parents = [self._parent(able[0], parent) for parent in range(self.models + 1)] if able else []
        halves = [(method, self._half(method)) for method in self.methods]
        return [self._everywhere(method, values) for method, values in (*parents, *halves)]

    def _everywhere(self, method: Method, values: dict[str, float]) -> dict[str, str | float]:
        choices: dict[str, str | float] = {}
        for group in self.groups:
            choices[f"{group} method"] = method
            choices |= {f"{group} {method} {name}": value for name, value in values.items()}
        return choices

    def _parent(self, method: Method, parent: int) -> tuple[Method, dict[str, float]]:
        """Settings that give a parent back, the base being number 0."""
        models = [float(number == parent) for number in range(1, self.models + 1)]
        if method in {"ties", "dare"}:
            return method, {"density": 1.0, "scale": models[0]}
        weights = {f"weight {number}": weight for number, weight in enumerate(models, 1)}
        return method, weights | ({"weight 0": float(parent == 0)} if self._has_shares(method) else {})

    def _half(self, method: Method) -> dict[str, float]:
        if method in {"ties", "dare"}:
            return {"density": 0.5, "scale": 0.5 if method == "dare" else 1.0}
        first = 0 if self._has_shares(method) else 1
        return {f"weight {number}": 0.5 for number in range(first, self.models + 1)}

    def _has_shares(self, method: Method) -> bool:
        """Whether the base's weight is a choice as well, and all weights are shares of their sum."""
        return method == "linear" and self.models > 1

    def _group(self, group: str, chooser: Chooser) -> Group:
        method = chooser.suggest_categorical(f"{group} method", list(self.methods))

        def ask(name: str, low: float = 0.0) -> float:
            return chooser.suggest_float(f"{group} {method} {name}", low, 1.0)

        if method in {"ties", "dare"}:
            alike = (1 / self.models,) * self.models
            density, scale = ask("density", LEAST_DENSITY), ask("scale")
            return Group(names=group, method=method, weights=alike, density=density, scale=scale)
        weights = [ask(f"weight {number}") for number in range(1, self.models + 1)]
        if self._has_shares(method):
            total = ask("weight 0") + sum(weights)
            weights = [weight / total if total else 0.0 for weight in weights]
        return Group(names=group, method=method, weights=tuple(weights))
