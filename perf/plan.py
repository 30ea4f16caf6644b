"""What is to be measured, and in which order.

Knows configurations, cases and tasks; runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

from perf.cases import Case
from perf.peers import Peer
from runtime.errors import PromptError

__all__ = [
    "FLOOR",
    "PARTS",
    "PEER",
    "REFERENCE",
    "Configuration",
    "Subject",
    "Task",
    "check_patterns",
    "configurations",
    "rounds",
]

REFERENCE = "reference"
"""What stands where an engine is named for the reference pipeline (`perf.reference`)."""

PEER = "peer"
"""What stands there for a program of somebody else (`perf.peers`)."""

PARTS = ("start", "graphs", "labelled")
"""What is measured of a configuration beside cases, as ``skip`` names it."""

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
    """One way to segment: lite-infer with an engine and a precision, the reference pipeline, or somebody's program.

    Attributes
    ----------
    subject : Subject
        The bundle; of a peer, its name alone.
    backend : str
        An engine, `REFERENCE` or `PEER`.
    precision : str
        As lite-infer takes it.
    threads : int or None
        None is the program's own default.
    isa : str or None
        Limit set for the engine's kernels (``ONEDNN_MAX_CPU_ISA``); None sets none.
    name : str
        Tells it apart from the others.
    peer : Peer or None
        The program, where it is somebody else's.
    skip : tuple of str
        Patterns of ``NAME/PART`` that are not measured.
    """

    subject: Subject
    backend: str
    precision: str
    threads: int | None
    name: str
    isa: str | None = None
    peer: Peer | None = None
    skip: tuple[str, ...] = ()

    @property
    def is_reference(self) -> bool:
        """Whether this is the reference pipeline."""
        return self.backend == REFERENCE

    @property
    def is_own(self) -> bool:
        """Whether this is lite-infer itself."""
        return self.backend not in (REFERENCE, PEER)

    def takes(self, case: Case) -> bool:
        """Whether it is to segment a case; what is not lite-infer reads the challenge's files alone."""
        return (self.is_own or case.path.suffix == ".npz") and self.wants(case.name)

    def wants(self, part: str) -> bool:
        """Whether a part - a case, ``start``, ``graphs``, ``labelled`` - is to be measured of it."""
        return not any(fnmatchcase(f"{self.name}/{part}", pattern) for pattern in self.skip)

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

    def key(self) -> tuple[str, ...]:
        """What tells it apart from the other tasks of a round."""
        return (self.kind, self.name, self.configuration.name if self.configuration else "",
                self.case.name if self.case else "")  # fmt: skip

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
    peers: Sequence[Peer] = (),
    skip: Sequence[str] = (),
) -> list[Configuration]:
    """Every combination, each bundle's references (by precision) first, under names that tell them apart; then peers.

    What ``skip`` has patterns of is not measured (`Configuration.wants`).
    """
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
    for peer in peers:
        nothing = Subject(peer.name, None, Path(), Path())
        made.append(Configuration(nothing, PEER, "default", None, peer.name, peer=peer))
    return [replace(one, skip=tuple(skip)) for one in made]


def check_patterns(skip: Sequence[str], chosen: Sequence[Configuration], cases: Sequence[str]) -> None:
    """Refuse a pattern that leaves nothing out, which is a mistake in writing, with PromptError."""
    names = [f"{one.name}/{part}" for one in chosen for part in (*cases, *PARTS)]
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in names):
            msg = f"skip {pattern!r}: nothing of that name is measured; wanted a pattern of names like {names[0]!r}"
            raise PromptError(msg)


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
        if one.is_own and one.wants("start"):
            yield Task("start", "cold", one)
            yield Task("start", "warm", one)
    for case in cases:
        for kind in ("processes", "stages"):
            for one in chosen:
                if one.takes(case) and (one.is_own or kind == "processes"):
                    yield Task(kind, configuration=one, case=case)
