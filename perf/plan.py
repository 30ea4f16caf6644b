"""What is to be measured, and in which order.

Knows configurations, cases and tasks; runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from perf.cases import Case

__all__ = ["FLOOR", "REFERENCE", "Configuration", "Subject", "Task", "configurations", "rounds"]

REFERENCE = "reference"
"""What stands where an engine is named for the reference pipeline (`perf.reference`)."""

FLOOR = {
    "interpreter": "pass",
    "import": "import runtime",
    "floor": "import sys; sys.modules['openvino_telemetry'] = None; import numpy, openvino; openvino.Core()",
}
"""Processes that do nothing, to measure against: name -> Python text. ``openvino`` may not report its import."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A bundle to measure.

    Attributes
    ----------
    name : str
        Its own name, which holds no path; with a number where two bundles of one name are measured.
    bundle : str or None
        What lite-infer is given; None is its own default.
    folder : Path
        Folder of the bundle; of a set, of the expert that is measured.
    plain : Path
        Folder of the bundle whose float graphs the reference pipeline runs.
    modality : str or None
        What lite-infer is told that the images show, where the bundle asks.
    expert : str or None
        The same for encoding a single image, which a set alone is told.
    modality_index : int
        The same for the decoder of ``plain``.
    """

    name: str
    bundle: str | None
    folder: Path
    plain: Path
    modality: str | None = None
    modality_index: int = 0
    expert: str | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to segment: lite-infer with an engine and a precision, or the reference pipeline.

    Attributes
    ----------
    subject : Subject
        The bundle.
    backend : str
        An engine, or `REFERENCE`.
    precision : str
        As lite-infer takes it.
    threads : int or None
        None is the program's own default.
    isa : str or None
        Limit set for the engine's kernels (``ONEDNN_MAX_CPU_ISA``); None sets none.
    name : str
        Tells it apart from the others.
    """

    subject: Subject
    backend: str
    precision: str
    threads: int | None
    name: str
    isa: str | None = None

    @property
    def is_reference(self) -> bool:
        """Whether this is the reference pipeline."""
        return self.backend == REFERENCE

    def takes(self, case: Case) -> bool:
        """Whether it can segment a case: the reference pipeline reads the challenge's files alone."""
        return not self.is_reference or case.path.suffix == ".npz"

    def arguments(self) -> list[str]:
        """What the command line of lite-infer is given."""
        chosen = ["--backend", self.backend, "--precision", self.precision]
        if self.subject.bundle is not None:
            chosen += ["--bundle", self.subject.bundle]
        if self.subject.modality is not None:
            chosen += ["--modality", self.subject.modality]
        if self.threads is not None:
            chosen += ["--threads", str(self.threads)]
        return chosen

    def variables(self) -> dict[str, str]:
        """What the environment of its processes is given."""
        return {} if self.isa is None else {"ONEDNN_MAX_CPU_ISA": self.isa}


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to measure: a ``floor``, a ``start``, the ``processes`` or ``stages`` of a case, or an extra."""

    kind: str
    name: str = ""
    configuration: Configuration | None = None
    case: Case | None = None

    def title(self) -> str:
        """Say what it is, for a progress bar."""
        parts = (self.configuration.name if self.configuration else "", self.case.name if self.case else "")
        return " ".join(part for part in (*parts, self.kind, self.name) if part)


def configurations(
    subjects: Sequence[Subject],
    backends: Sequence[str],
    precisions: Sequence[str],
    threads: Sequence[int | None] = (None,),
    limits: Sequence[str | None] = (None,),
    *,
    references: Sequence[str] = (),
) -> list[Configuration]:
    """Every combination, each bundle's references (by precision) first, under names that tell them apart."""
    made = []
    for subject in subjects:
        suffix = "" if len(subjects) == 1 else f" {subject.name}"
        for limit, precision in product(limits if references else (), references):
            if limit is None or precision == "fp32":  # its default may be a bfloat16 that takes minutes under a limit
                name = REFERENCE + ("" if precision == "default" else f" {precision}") + suffix
                name += "" if limit is None else f" {limit}"
                made.append(Configuration(subject, REFERENCE, precision, None, name, limit))
        for backend, limit, precision, count in product(backends, limits, precisions, threads):
            name = f"{backend} {precision}{suffix}"
            name += "" if count is None else f" t{count}"
            name += "" if limit is None else f" {limit}"
            made.append(Configuration(subject, backend, precision, count, name, limit))
    return made


def rounds(chosen: Sequence[Configuration], cases: Sequence[Case], repeat: int) -> Iterator[list[Task]]:
    """Tasks of every round; all are measured once a round, so that slow drifts of the machine hit all alike.

    Every other round runs backwards, so that what precedes a task is not always the same.
    """
    tasks = list(_tasks(chosen, cases))
    for number in range(repeat):
        yield tasks if number % 2 == 0 else tasks[::-1]


def _tasks(chosen: Sequence[Configuration], cases: Sequence[Case]) -> Iterable[Task]:
    for name in FLOOR:
        yield Task("floor", name)
    for one in chosen:
        if not one.is_reference:
            yield Task("start", "cold", one)
            yield Task("start", "warm", one)
    for case in cases:
        for kind in ("processes", "stages"):
            for one in chosen:
                if one.takes(case) and not (one.is_reference and kind == "stages"):
                    yield Task(kind, configuration=one, case=case)
