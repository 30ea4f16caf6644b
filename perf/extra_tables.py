"""Budgets and what is missed of them, labelled images and the roofline as plain text.

Knows the layout of the report alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from perf.records import BudgetFigures, Report
from perf.shortfall import shortfalls
from perf.text import NONE, aligned, indented, short

__all__ = [
    "SHORTFALL_TITLE",
    "budget_lines",
    "budget_texts",
    "labelled_lines",
    "labelled_rows",
    "roofline_lines",
    "roofline_rows",
    "shortfall_lines",
    "shortfall_rows",
]

SHORTFALL_TITLE = "Where the time of what is missed goes, ms"

_LAYERS = 8
_WORTH = 0.01  # of the graph's time: what a kind of layer must take to be shown


def budget_texts(one: BudgetFigures) -> tuple[str, str, str]:
    """What was wanted of what, what was found, and whether that is enough."""
    unit = {"times": " x", "s": " s", "MB": " MB"}[one.unit]
    against = {"floor": "floor + ", "": ""}.get(one.against, f"{one.against} x ")
    limit = against + (NONE if one.limit is None else f"{one.limit:.3g}") + ("" if one.unit == "times" else unit)
    limit += "" if one.than is None else f" (as on {one.than})"
    found = "not measured" if one.value is None else f"{one.value:.3g}" + ("" if one.unit == "times" else unit)
    if one.low is not None and one.high is not None:
        found += f" ({one.low:.3g}-{one.high:.3g})"
    return f"{one.subject}, {one.case}, {one.quantity} <= {limit}", found, _verdict(one)


def _verdict(one: BudgetFigures) -> str:
    """A goal of the project that could not be judged is no fault of the run; a budget that was asked for is missed."""
    unknown = one.value is None or one.limit is None
    return "met" if one.met else "-" if unknown and not one.asked else "MISSED"


def budget_lines(report: Report) -> Iterator[str]:
    """Every budget; the interval of a ratio is its 95 % bootstrap interval."""
    if report.budgets:
        yield "Budgets"
        yield from indented(aligned([["wanted", "found", ""], *(list(budget_texts(one)) for one in report.budgets)]))


def shortfall_rows(report: Report) -> Iterator[tuple[str, list[list[str]]]]:
    """Title and parts of what missed a budget of time, a head first."""
    for one in shortfalls(report):
        wanted = ", ".join(short(limit) for limit in one.wanted_ms)
        title = (
            f"{one.subject}, {one.case}, {one.quantity}: {short(one.found_ms)}, wanted {wanted}; "
            f"with its graphs at the peaks {short(one.at_peaks_ms)}"
        )
        parts = [
            [part.name, short(part.ms), NONE if part.least_ms is None else short(part.least_ms)] for part in one.parts
        ]
        yield title, [["part", "takes", "peaks allow"], *parts]


def shortfall_lines(report: Report) -> Iterator[str]:
    """Those rows, aligned; nothing where nothing is missed."""
    for number, (title, rows) in enumerate(shortfall_rows(report)):
        if not number:
            yield SHORTFALL_TITLE
        yield f"  {title}"
        yield from indented(indented(aligned(rows)))


def labelled_rows(report: Report) -> list[list[str]]:
    """Dice on labelled images beside baselines without a network, a head first."""
    rows = [["labelled images", "objects", "Dice truth", "Dice fp32", "smallest", "ms an object"]]
    for one in report.labelled:
        agreement = one.to_fp32
        fp32 = [NONE, NONE] if agreement is None else [f"{agreement.dice_mean:.4f}", f"{agreement.dice_min:.4f}"]
        objects = "baseline" if one.objects is None else str(one.objects)
        rows.append([one.name, objects, f"{one.dice:.4f}", *fp32, f"{one.ms:.2f}"])
    return rows


def labelled_lines(report: Report) -> Iterator[str]:
    """Those rows, aligned."""
    if report.labelled:
        yield from aligned(labelled_rows(report))


def roofline_rows(report: Report) -> Iterator[tuple[str, list[list[str]]]]:
    """Title and costliest layers of each graph, a head first."""
    for graph in report.roofline.graphs if report.roofline is not None else ():
        title = (
            f"{graph.configuration}, {graph.graph}: {graph.ms:.2f} ms, {graph.gflop:.2f} x 10^9 operations; "
            f"the peaks allow {graph.bound_ms:.2f} ms"
        )
        rows = [["layers", "number", "ms", "GFLOP", "MB", "peaks allow, ms"]]
        for one in [layer for layer in graph.layers[:_LAYERS] if layer.ms >= _WORTH * graph.ms]:
            numbers = [f"{one.ms:.2f}", f"{one.gflop:.3f}", f"{one.mbytes:.2f}", f"{one.bound_ms:.2f}"]
            rows.append([f"{one.kind} {one.precision}", str(one.count), *numbers])
        yield title, rows


def roofline_lines(report: Report) -> Iterator[str]:
    """What the machine can do, and those rows, aligned."""
    roofline = report.roofline
    if roofline is None:
        return
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in roofline.gflops.items() if rate is not None)
    yield f"Roofline: at most {rates} x 10^9 operations/s, {roofline.bandwidth_gbs:.1f} x 10^9 bytes/s"
    for title, rows in roofline_rows(report):
        yield f"  {title}"
        yield from indented(indented(aligned(rows)))
