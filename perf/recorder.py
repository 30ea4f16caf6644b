"""What has been measured so far.

Knows samples, errors and answers by configuration and case; knows no process and no layout of a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perf.cases import read_label_map
from perf.processes import Finished
from perf.records import BundleFacts
from perf.stats import dice_by_label, label_digest, voxels_by_label

__all__ = ["AnswerFile", "AnswersDiffer", "Opened", "Recorder"]

Key = tuple[str, ...]


class AnswersDiffer(Exception):
    """Two runs of one configuration on one case gave different label maps."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a configuration turned out to be."""

    bundle: BundleFacts
    backend: str
    precision: str
    threads: int
    isa: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """The first label map of a configuration on a case."""

    path: Path
    sha256: str
    voxels: dict[str, int]


@dataclass(slots=True)
class Recorder:
    """Grows while the suite runs; a report can be made of it at any moment.

    Attributes
    ----------
    samples : dict
        ``(configuration, case, group, name)`` -> samples; configuration and case are empty where they do not
        apply, group is ``floor``, ``start``, ``process`` or ``stage``.
    logits : dict
        ``(configuration, case)`` -> array file with the logits of one box on one slice.
    peaks, graphs, baselines, labelled
        What the extra tasks found, as their workers put it.
    """

    samples: dict[Key, list[float]] = field(default_factory=dict)
    opened: dict[str, Opened] = field(default_factory=dict)
    same_as: dict[str, str] = field(default_factory=dict)
    errors: dict[tuple[str, str], str] = field(default_factory=dict)
    counts: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    answers: dict[tuple[str, str], AnswerFile] = field(default_factory=dict)
    logits: dict[tuple[str, str], Path] = field(default_factory=dict)
    peaks: dict[str, Any] | None = None
    graphs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    baselines: dict[str, Any] | None = None
    labelled: dict[str, tuple[dict[str, Any], Path]] = field(default_factory=dict)

    def add(self, key: Key, value: float | None) -> None:
        """Append a sample; what the platform does not tell is left out."""
        if value is not None:
            self.samples.setdefault(key, []).append(float(value))

    def add_process(self, key: Key, finished: Finished) -> None:
        """Append what a process cost."""
        self.add((*key, "wall_s"), finished.wall_s)
        self.add((*key, "cpu_s"), finished.cpu_s)
        self.add((*key, "peak_rss_bytes"), finished.peak_rss_bytes)

    def fail(self, configuration: str, case: str, message: str) -> None:
        """Note the first error of a configuration (no case) or of one of its cases."""
        self.errors.setdefault((configuration, case), message)

    def failed(self, configuration: str, case: str = "") -> bool:
        """Whether a configuration, or one of its cases, has an error."""
        return (configuration, "") in self.errors or (configuration, case) in self.errors

    def check_answer(self, configuration: str, case: str, path: Path, folder: Path) -> None:
        """Keep the first label map of a configuration on a case; raise AnswersDiffer if a later one differs."""
        found = read_label_map(path)
        digest = label_digest(found)
        first = self.answers.get((configuration, case))
        if first is None:
            folder.mkdir(parents=True, exist_ok=True)
            kept = folder / f"{len(self.answers)}-{path.name}"
            path.replace(kept)
            self.answers[configuration, case] = AnswerFile(kept, digest, voxels_by_label(found))
            return
        if digest != first.sha256:
            before = read_label_map(first.path)
            dice = min(dice_by_label(before, found).values(), default=1.0) if before.shape == found.shape else 0.0
            msg = f"two runs gave different label maps (smallest Dice between them {dice:.4f})"
            raise AnswersDiffer(msg)
