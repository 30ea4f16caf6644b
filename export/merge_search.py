"""Search the settings of a merge, layer group by layer group, without training: propose, merge, segment, score.

Joins the steps; the study on disk makes it resumable, and what a trial proposes depends on the seed and on the trials
before it alone. Must not know the arithmetic of merging or what a checkpoint is a checkpoint of.

References: Yang et al., MedSAMix, arXiv:2508.11032, 2025; Bergstra et al., Algorithms for Hyper-Parameter Optimization,
NeurIPS 2011 (the sampler).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import torch

import runtime
from export._merge_cases import Parts, ScoredCase, read_parts, score_cases, score_tasks
from export._merge_files import check_free, common_layout, in_container, record_path, write_merge
from export._merge_groups import layer_groups
from export._merge_methods import Method
from export._merge_predictors import Builder, builder_of
from export._merge_space import LEAST_DENSITY, Space
from export.load import StateDict, read_checkpoint
from export.merge import check_mergeable, describe_parents, merge
from export.pretrain.metrics import bootstrap_interval
from runtime.errors import CheckpointError, PromptError

if TYPE_CHECKING:
    from optuna import Study
    from torch import Tensor

__all__ = ["SearchOptions", "search_merge", "study_path"]

_STUDY = "merge"
_IDENTITY = "what is searched"


@dataclass(frozen=True)
class SearchOptions:
    """What is searched on which cases; `report` is told of every trial.

    `objective` ``single`` is the mean over cases; ``multi`` has one objective for each modality of the folder and keeps
    the settings that no other beats in all of them. `methods` are those to choose from; none given: slerp and ties for
    one model, else linear, task arithmetic and ties. `held_out` is the share of cases that the search never sees,
    `objects` how many of a case count, `layers` how many numbered layers have settings in common.
    """

    folder: Path
    trials: int = 50
    objective: Literal["single", "multi"] = "single"
    methods: tuple[Method, ...] = ()
    held_out: float = 1 / 3
    objects: int = 8
    layers: int = 2
    seed: int = 0
    family: str | None = None
    study: Path | None = None
    force: bool = False
    report: Callable[[str], None] = lambda _: None


def study_path(output: Path) -> Path:
    """Where the trials of a search lie unless another place is named: beside the merged checkpoint."""
    return output.with_name(f"{output.name}.study")


def search_merge(base: Path, models: Sequence[Path], output: Path, options: SearchOptions) -> Path:
    """Search, and write the best merge as a checkpoint like the base's; return the path of its record, a JSON file.

    With an earlier study of the same search the search goes on where that ended. The record holds the settings and
    the scores of parents and merge, on the cases of the search and on those held out; with several objectives the
    whole Pareto set of settings, of which the best on average is written. CheckpointError, PromptError, ImageError or
    OutputError as `merge_checkpoints`, for a folder without usable cases, and for a study of another search.
    """
    for path in (output, record_path(output)):
        check_free(path, force=options.force)
    sources = [read_checkpoint(path) for path in (base, *models)]
    parents = common_layout(sources)
    check_mergeable(parents[0].tensors, [one.tensors for one in parents[1:]], names=[str(path) for path in models])
    what, build = builder_of(sources[0], parents[0], options.family)
    parts = read_parts(options.folder, held_out=options.held_out, objects=options.objects, seed=options.seed)
    space = _space(parents, options)
    tasks = parts.tasks if options.objective == "multi" else ["all"]
    counts = f"{len(parts.search)} cases searched on, {len(parts.held_out)} held out"
    options.report(f"{what}: {len(space.groups)} layer groups; {counts}")
    path = options.study or study_path(output)
    identity = {
        "parents": [source.sha256 for source in sources],
        "cases": parts.digest(),
        "tasks": tasks,
        "groups": list(space.groups),
        "methods": list(space.methods),
        "seed": options.seed,
    }
    study = _open_study(path, identity, len(tasks))
    search = _Search(parents, build, parts, space, study, options)
    search.run()
    chosen = search.chosen()
    settings = space.known(chosen.params)
    merged = search.merged(settings)
    record = {
        "exporter": f"lite-infer {runtime.__version__}",
        "checkpoint_of": what,
        **describe_parents(sources, parents),
        "settings": msgspec.to_builtins(settings),
        "search": {
            "objective": options.objective,
            "objectives": tasks,
            "trials": len(search.completed()),
            "trial": chosen.number,
            "seed": options.seed,
            "methods": list(space.methods),
            "scores": search.scores(merged),
            "pareto": search.pareto(),
        },
    }
    return write_merge(in_container(base, parents[0], merged), record, output, force=options.force)


def _space(parents: Sequence[StateDict], options: SearchOptions) -> Space:
    """Layer groups in which the parents differ, and the methods."""
    base, *models = (parent.tensors for parent in parents)
    groups = [
        group
        for group, names in layer_groups(base, layers=options.layers).items()
        if any(_differs(base[name], model.get(name)) for name in names for model in models)
    ]
    default: tuple[Method, ...] = ("slerp", "ties") if len(models) == 1 else ("linear", "task-arithmetic", "ties")
    return Space(tuple(groups), options.methods or default, len(models), options.seed)


def _differs(one: Tensor, two: Tensor | None) -> bool:
    return two is not None and one.is_floating_point() and not torch.equal(one.double(), two.double())


class _Search:
    """The trials of one search."""

    def __init__(
        self,
        parents: Sequence[StateDict],
        build: Builder,
        parts: Parts,
        space: Space,
        study: Study,
        options: SearchOptions,
    ) -> None:
        self._parents = [parent.tensors for parent in parents]
        self._build, self._parts, self._space, self._study, self._options = build, parts, space, study, options
        self._multi = options.objective == "multi"

    def completed(self) -> list[Any]:
        """Trials that have a score."""
        from optuna.trial import TrialState

        found: list[Any] = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return found

    def run(self) -> None:
        """Complete the trials that are still wanted."""
        starts = self._space.starts()
        while (done := len(self.completed())) < self._options.trials:
            values = self._start(starts[done]) if done < len(starts) else self._proposed(done)
            told = ", ".join(f"{value:.4f}" for value in values)
            self._options.report(f"trial {done + 1} of {self._options.trials}: {told}  (best {self._best():.4f})")

    def _start(self, choices: dict[str, str | float]) -> list[float]:
        """Score known choices and enter them as a trial."""
        import optuna

        ranges: dict[str, Any] = {}
        for name, value in choices.items():
            low = LEAST_DENSITY if name.endswith(" density") else 0.0
            text = isinstance(value, str)
            ranges[name] = (
                optuna.distributions.CategoricalDistribution(self._space.methods)
                if text
                else optuna.distributions.FloatDistribution(low, 1.0)
            )
        values = self._score(self._space.known(choices))
        self._study.add_trial(optuna.create_trial(params=choices, distributions=ranges, values=values))
        return values

    def _proposed(self, done: int) -> list[float]:
        """Ask the sampler, whose state is the seed and the finished trials, and score what it proposes."""
        import optuna

        seed = int(np.random.default_rng([self._options.seed, done]).integers(1 << 31))
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=len(self._space.starts()) + 8)
        trial = self._study.ask()
        values = self._score(self._space.settings(trial))
        self._study.tell(trial, values)
        return values

    def merged(self, settings: Any) -> dict[str, Tensor]:
        """Weights of a merge."""
        base, *models = self._parents
        return merge(base, models, settings)

    def _score(self, settings: Any) -> list[float]:
        scores = score_cases(self._build(self.merged(settings)), self._parts.search)
        if self._multi:
            return list(score_tasks(scores, self._parts.search).values())
        return [float(np.mean(list(scores.values())))]

    def _best(self) -> float:
        return max(float(np.mean(trial.values)) for trial in self.completed())

    def chosen(self) -> Any:
        """The trial that is best on average; with several objectives it is one of the Pareto set."""
        return max(self.completed(), key=lambda trial: (float(np.mean(trial.values)), -trial.number))

    def pareto(self) -> list[dict[str, Any]]:
        """Trials that no other beats in all objectives, best on average first; none where there is one objective."""
        if not self._multi:
            return []
        found = sorted(self._study.best_trials, key=lambda trial: (-float(np.mean(trial.values)), trial.number))
        return [
            {
                "trial": trial.number,
                "scores": dict(zip(self._parts.tasks, trial.values, strict=True)),
                "settings": msgspec.to_builtins(self._space.known(trial.params)),
            }
            for trial in found
        ]

    def scores(self, merged: Mapping[str, Tensor]) -> dict[str, Any]:
        """Mean Dice of every parent and of the merge, on both parts of the cases."""
        names = ["base", *(f"model {number}" for number in range(1, len(self._parents))), "merge"]
        found: dict[str, Any] = {}
        for name, weights in zip(names, (*self._parents, merged), strict=True):
            self._options.report(f"scoring: {name}")
            predictor = self._build(weights)
            found[name] = {
                part: _told(score_cases(predictor, cases), cases)
                for part, cases in (("search", self._parts.search), ("held_out", self._parts.held_out))
            }
        return found


def _told(scores: Mapping[str, float], cases: Sequence[ScoredCase]) -> dict[str, Any]:
    """Mean over cases with its interval, and by task; cases are counted and not named."""
    low, high = bootstrap_interval({name: [score] for name, score in scores.items()})
    return {
        "mean": float(np.mean(list(scores.values()))),
        "ci95": [low, high],
        "cases": len(cases),
        "objects": sum(len(plane.boxes) for case in cases for plane in case.planes),
        "by_modality": score_tasks(scores, cases),
    }


def _open_study(path: Path, identity: Mapping[str, Any], objectives: int) -> Study:
    """Open or begin a study; trials that were interrupted count as failed."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        study = optuna.create_study(
            storage=storage, study_name=_STUDY, directions=["maximize"] * objectives, load_if_exists=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"{path}: cannot be used as a study ({type(error).__name__}: {error}); name another with --study"
        raise CheckpointError(msg) from error
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, dict(identity))
    elif known != identity:
        changed = ", ".join(key for key in identity if known.get(key) != identity[key])
        msg = f"{path} holds another search (other {changed}); name another file with --study, or remove it"
        raise PromptError(msg)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study
