"""Where the time of missed budgets goes, and how much of it the roofline leaves to gain.

Knows the layout of the report alone; formats nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perf.figures import case_of, quantity
from perf.records import BudgetFigures, CaseFigures, ConfigurationFigures, GraphFigures, Report

__all__ = ["Part", "Shortfall", "shortfalls"]

_SEGMENTED = {
    "cold": ("propagate_ms", "slices_encoded", "prompts_decoded"),
    "warm": ("propagate_ms", "slices_encoded", "prompts_decoded"),
    "stored": ("stored_propagate_ms", None, "prompts_decoded"),
    "second": ("second_box_ms", None, "second_prompts_decoded"),
    "session": ("second_box_ms", None, "second_prompts_decoded"),
}
"""Quantity of a budget -> the stage that segments, and the counts of slices encoded and of boxes decoded in it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the time; ``least_ms`` is what the peaks allow, None where the roofline knows nothing of it."""

    name: str
    ms: float
    least_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What a configuration took on a case; the parts add up to it, and every time in ``wanted_ms`` was missed."""

    subject: str
    case: str
    quantity: str
    wanted_ms: tuple[float, ...]
    parts: tuple[Part, ...]

    @property
    def found_ms(self) -> float:
        """What was measured."""
        return sum(part.ms for part in self.parts)

    @property
    def at_peaks_ms(self) -> float:
        """What it would take with its graphs at the machine's peaks and all else as it is."""
        return self.found_ms - sum(part.ms - part.least_ms for part in self.parts if part.least_ms is not None)


def shortfalls(report: Report) -> Iterator[Shortfall]:
    """What missed a budget of time, once each, where stages and graphs of its configuration were measured."""
    missed: dict[tuple[str, str, str], list[BudgetFigures]] = {}
    for budget in report.budgets:
        if budget.configuration is not None and budget.unit != "MB" and not budget.met:
            missed.setdefault((budget.configuration, budget.case, budget.quantity), []).append(budget)
    for (name, case_name, kind), budgets in missed.items():
        one = next(each for each in report.configurations if each.name == name)
        case = case_of(one, case_name)
        found_ms = None if case is None else _found_ms(kind, case)
        if case is None or found_ms is None:
            continue
        limits = (_wanted_ms(report, budget, found_ms) for budget in budgets)
        wanted = tuple(dict.fromkeys(limit for limit in limits if limit is not None))
        parts = tuple(_parts(report, kind, one, case, found_ms))
        if wanted and parts:
            yield Shortfall(one.subject, case_name, kind, wanted, parts)


def _found_ms(kind: str, case: CaseFigures) -> float | None:
    if kind == "session":
        stage = case.stages.get(_SEGMENTED[kind][0])
        return None if stage is None else stage.median
    wall = quantity(case.processes.get(kind), "wall_s")
    return None if wall is None else wall.median * 1e3


def _wanted_ms(report: Report, budget: BudgetFigures, found_ms: float) -> float | None:
    if budget.limit is None or not budget.value:
        return None
    if budget.unit == "times":
        return found_ms * budget.limit / budget.value
    return budget.limit * 1e3 + (_floor_ms(report) if budget.against == "floor" else 0.0)


def _floor_ms(report: Report) -> float:
    floor = report.floor.get("floor")
    return 0.0 if floor is None else floor.wall_s.median * 1e3


def _parts(report: Report, kind: str, one: ConfigurationFigures, case: CaseFigures, found_ms: float) -> Iterator[Part]:
    """Parts that add up to ``found_ms``; none where a stage, a count or a graph was not measured."""
    if report.roofline is None:
        return
    stage, slices, boxes = _SEGMENTED[kind]
    graphs = {graph.graph: graph for graph in report.roofline.graphs if graph.configuration == one.name}
    facts = next(each for each in report.cases if each.name == case.case)
    decoder = graphs.get("one_box") if facts.shape[2] > 1 and "one_box" in graphs else graphs.get("decoder")
    calls = ((graphs.get("encoder"), slices, "slices"), (decoder, boxes, "boxes"))
    if any(name not in case.stages for name in (stage, "read_ms", "write_ms")):
        return
    if any(graph is None or name not in case.counts for graph, name, _ in calls if name is not None):
        return
    segment_ms = case.stages[stage].median
    timed = [_graph(graph, case.counts[name], of) for graph, name, of in calls if graph is not None and name]
    around = Part("segmentation around its graphs", segment_ms - sum(part.ms for part in timed))
    if kind == "session":
        yield from (*timed, around)
        return
    read_ms, write_ms, floor_ms = case.stages["read_ms"].median, case.stages["write_ms"].median, _floor_ms(report)
    yield Part("the floor", floor_ms)
    yield Part("imports, opening, storing, end", found_ms - floor_ms - read_ms - segment_ms - write_ms)
    yield Part("reading", read_ms)
    yield from (*timed, around)
    yield Part("writing", write_ms)


def _graph(graph: GraphFigures, count: float, of: str) -> Part:
    least = min(graph.ms, graph.bound_ms)  # the peaks are those of another minute
    return Part(f"{graph.graph}, {count:.0f} {of}", count * graph.ms, count * least)
