"""Merge checkpoints of one layout into one, without training.

Every tensor is merged on its own, in float64. Knows state dicts and settings. Must not know families, graphs or how
good a merge is.

References: Yang et al., MedSAMix, arXiv:2508.11032, 2025; those of the methods are in `_merge_methods`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import runtime
from export._merge_files import check_free, common_layout, in_container, record_path, shapes, write_merge
from export._merge_groups import fits
from export._merge_methods import ARITHMETIC, METHODS, STATISTICS, Draw, Method, Recipe, complaint, for_statistics
from runtime.errors import CheckpointError, PromptError

if TYPE_CHECKING:
    from torch import Tensor

    from export.load import Checkpoint, StateDict

__all__ = [
    "METHODS",
    "Group",
    "MergeSettings",
    "check_mergeable",
    "describe_parents",
    "merge",
    "merge_checkpoints",
    "read_settings",
]

_SHOWN = 3


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Settings for some tensors: those of the module `names`, of a run of modules (``blocks.0-1``), or of a pattern.

    What is None is as in the settings that the group belongs to.
    """

    names: str
    method: Method | None = None
    weights: tuple[float, ...] | None = None
    density: float | None = None
    scale: float | None = None


class MergeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How to merge M models into a base.

    * ``linear``: weighted mean; the base has what the weights leave of 1.
    * ``slerp``: the point on the arc from the base to the one model; its weight says how far along.
    * ``task-arithmetic``: base plus `scale` times the weighted sum of the task vectors.
    * ``ties``: of every task vector the largest `density` is kept; where vectors disagree in sign the heavier side
      wins, and the weighted mean of that side is added to the base, times `scale`.
    * ``dare``: task arithmetic with a random `density` of every task vector, made longer by as much as was dropped.

    A task vector is what fine-tuning added to the base: model minus base. Running means and variances of normalisation
    are never trimmed, drawn or turned: they go linearly, by the shares that the weights have. `weights` has a number
    per model; None shares equally, with the base where the method is ``linear`` or ``slerp``, among the models
    elsewhere. A tensor takes the settings of the first of `groups` that it fits.
    """

    method: Method = "linear"
    weights: tuple[float, ...] | None = None
    density: float = 1.0
    scale: float = 1.0
    seed: int = 0
    groups: tuple[Group, ...] = ()


def merge(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], settings: MergeSettings | None = None
) -> dict[str, Tensor]:
    """Merge state dicts of the base's layout; whole numbers, and what all have alike, stay as they are in the base.

    Every tensor keeps the base's dtype. The drawing of ``dare`` depends on the seed, the tensor's name and the model's
    place alone. CheckpointError if names or shapes differ or a tensor is not finite, PromptError if the settings do not
    go together.
    """
    settings = settings or MergeSettings()
    check_mergeable(base, models)
    recipes = _recipes(list(base), len(models), settings)
    return {
        name: _merged(name, tensor, [model.get(name, tensor) for model in models], recipes[name], settings.seed)
        for name, tensor in base.items()
    }


def check_mergeable(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], *, names: Sequence[str] | None = None
) -> None:
    """CheckpointError unless all state dicts have the names and shapes of the base, counters left out.

    `names` are what the message calls the models.
    """
    if not models:
        msg = "there is no model to merge into the base; name at least one"
        raise CheckpointError(msg)
    wanted = shapes(base)
    for called, model in zip(names or [f"model {n + 1}" for n in range(len(models))], models, strict=True):
        found = shapes(model)
        differences = (
            ("lacks", [name for name in wanted if name not in found]),
            ("has the unknown", [name for name in found if name not in wanted]),
            (
                "has another shape at",
                [
                    f"{name} {found[name]} instead of {wanted[name]}"
                    for name in wanted
                    if name in found and found[name] != wanted[name]
                ],
            ),
        )
        told = "; ".join(f"{what} {_first(names)}" for what, names in differences if names)
        if told:
            msg = f"{called} does not have the base's layout: it {told}. Only checkpoints of one layout merge"
            raise CheckpointError(msg)


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _recipes(names: Sequence[str], models: int, settings: MergeSettings) -> dict[str, Recipe]:
    """Complete settings by name; PromptError if they are contradictory or a group fits no tensor."""
    general = Group(names="*")
    for group in settings.groups:
        if not any(fits(name, group.names) for name in names):
            msg = f"group {group.names!r} fits no tensor of the base, which has {_first(names)}; correct the name"
            raise PromptError(msg)
    complete = {group.names: _complete(group, models, settings) for group in reversed((*settings.groups, general))}
    patterns = [group.names for group in (*settings.groups, general)]
    return {name: complete[next(p for p in patterns if fits(name, p))] for name in names}


def _complete(group: Group, models: int, settings: MergeSettings) -> Recipe:
    method = group.method or settings.method
    weights = settings.weights if group.weights is None else group.weights
    if weights is None:
        weights = (1 / (models + (method in {"linear", "slerp"})),) * models
    density = settings.density if group.density is None else group.density
    recipe = Recipe(method, weights, density, settings.scale if group.scale is None else group.scale)
    wrong = complaint(recipe, models)
    if wrong:
        msg = f"{recipe.method} of {group.names!r}: {wrong}"
        raise PromptError(msg)
    return recipe


def _merged(name: str, base: Tensor, models: Sequence[Tensor], recipe: Recipe, seed: int) -> Tensor:
    """Merge one tensor."""
    import torch

    if not base.is_floating_point():
        return base.clone()
    parents = [parent.detach().to("cpu", torch.float64).flatten() for parent in (base, *models)]
    if all(torch.equal(parents[0], parent) for parent in parents):  # masks hold infinities, which have no mean
        return base.clone()
    for parent, whose in zip(parents, ("the base", *(f"model {n}" for n in range(1, len(parents)))), strict=True):
        if not torch.isfinite(parent).all():
            msg = f"{name} of {whose} holds NaN or infinity; its training diverged, so it cannot be merged"
            raise CheckpointError(msg)
    if name.endswith(STATISTICS):
        recipe = for_statistics(recipe)
    values = ARITHMETIC[recipe.method](parents[0], parents[1:], recipe, Draw(seed, name))
    if name.endswith("running_var"):  # going beyond the parents must not end in the root of a negative
        values = values.maximum(torch.stack(parents).amin(0))
    return values.reshape(base.shape).to(base.dtype)


def read_settings(path: Path, member: int | None = None) -> MergeSettings:
    """Read settings from JSON: bare, or from the record of a merge, there also those of a member of its Pareto set.

    PromptError if they are unfit or not there.
    """
    try:
        found = msgspec.json.decode(path.read_bytes())
        if isinstance(found, dict) and "base" in found:
            found = found["settings"] if member is None else found["search"]["pareto"][member]["settings"]
        elif member is not None:
            msg = f"no Pareto set to take number {member} from"
            raise KeyError(msg)
        return msgspec.convert(found, type=MergeSettings, strict=False)
    except (OSError, LookupError, TypeError, msgspec.MsgspecError) as error:
        msg = f"{path}: not settings of a merge ({error}); wanted JSON with method, weights, density, scale, groups"
        raise PromptError(msg) from error


def merge_checkpoints(
    base: Path, models: Sequence[Path], output: Path, settings: MergeSettings | None = None, *, force: bool = False
) -> Path:
    """Merge checkpoint files; write a checkpoint like the base's, and beside it what was merged, as JSON.

    The file has the base's wrapping, without what a merge makes stale: other weights and the optimiser's state. Returns
    the path of the JSON, the checkpoint's with ``.json`` added; it is written first and names the checkpoint's sha256.
    CheckpointError if a file is unreadable or of another layout, PromptError if the settings do not go together,
    OutputError if a file exists (and `force` is not set) or cannot be written.
    """
    from export.load import read_checkpoint

    settings = settings or MergeSettings()
    for path in (output, record_path(output)):
        check_free(path, force=force)
    sources = [read_checkpoint(path) for path in (base, *models)]
    parents = common_layout(sources)
    weights = [parent.tensors for parent in parents]
    check_mergeable(weights[0], weights[1:], names=[str(path) for path in models])
    merged = merge(weights[0], weights[1:], settings)
    record = {
        "exporter": f"lite-infer {runtime.__version__}",
        **describe_parents(sources, parents),
        "settings": msgspec.to_builtins(settings),
    }
    return write_merge(in_container(base, parents[0], merged), record, output, force=force)


def describe_parents(sources: Sequence[Checkpoint], parents: Sequence[StateDict]) -> dict[str, Any]:
    """What a record says of base and models."""
    described = [
        {"file": source.path.name, "sha256": source.sha256, "weights_under": parent.where}
        for source, parent in zip(sources, parents, strict=True)
    ]
    return {"base": described[0], "models": described[1:]}
