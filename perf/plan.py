"""What is to be measured, and in which order.

Knows configurations, cases and tasks; runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from perf.cases import Case

__all__ = ["FLOOR", "Configuration", "Task", "configurations", "rounds"]

FLOOR = {
    "interpreter": "pass",
    "import": "import runtime",
    "floor": "import numpy, openvino; openvino.Core()",
}
"""Processes that show what no version of lite-infer on these libraries can save: name -> Python text."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way to run lite-infer; None is the program's own default."""

    bundle: str | None
    backend: str
    precision: str
    threads: int | None
    name: str

    def arguments(self) -> list[str]:
        """What the command line is given."""
        chosen = ["--backend", self.backend, "--precision", self.precision]
        if self.bundle is not None:
            chosen += ["--bundle", self.bundle]
        if self.threads is not None:
            chosen += ["--threads", str(self.threads)]
        return chosen


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to measure once: a ``floor`` process, a ``start`` or the ``processes`` or ``stages`` of a case."""

    kind: str
    name: str = ""
    configuration: Configuration | None = None
    case: Case | None = None

    def title(self) -> str:
        """Say what it is, for a progress bar."""
        parts = (self.configuration.name if self.configuration else "", self.case.name if self.case else "")
        return " ".join(part for part in (*parts, self.kind, self.name) if part)


def configurations(
    bundles: Sequence[str | None], backends: Sequence[str], precisions: Sequence[str], threads: Sequence[int | None]
) -> list[Configuration]:
    """Every combination, with a name that tells them apart and holds no path."""
    made = []
    for number, bundle in enumerate(bundles, start=1):
        for backend in backends:
            for precision in precisions:
                for count in threads:
                    name = f"{backend} {precision}"
                    name += "" if len(bundles) == 1 else f" b{number}"
                    name += "" if count is None else f" t{count}"
                    made.append(Configuration(bundle, backend, precision, count, name))
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
        yield Task("start", "cold", one)
        yield Task("start", "warm", one)
    for case in cases:
        for kind in ("processes", "stages"):
            for one in chosen:
                yield Task(kind, configuration=one, case=case)
