"""Budgets: what a bundle may cost, as a share of the reference measured in the same run or in plain units.

Knows the text of a budget and the layout of the report; measures nothing. ``[BUNDLE/]CASE[:QUANTITY]=LIMIT``, where
QUANTITY is a kind of process (``warm`` if left out), ``session`` (a second box inside a session) or ``memory``, and
LIMIT is ``0.5`` (of the reference), ``0.33*fp32`` (of the reference in float32), ``floor+0.6`` (seconds), ``0.15s`` or
``350MB``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from perf.figures import case_of, comparable, quantity, ratio, reference_of
from perf.records import BudgetFigures, CaseFigures, Report
from runtime.errors import PromptError

__all__ = ["GOALS", "Budget", "check_budgets", "parse_budget"]

QUANTITIES = ("cold", "warm", "stored", "second", "session", "memory")
_NAME = re.compile(r"(?:(?P<bundle>[^/:=]+)/)?(?P<case>[^/:=]+)(?::(?P<quantity>\w+))?")
_LIMIT = re.compile(r"(?P<floor>floor\+)?(?P<number>\d+(?:\.\d+)?)(?P<unit>\*fp32|s|MB)?")
_MEGABYTE = 1e6
_DEFAULT = "lite-infer-synthetic"

GOALS = (
    *(f"{_DEFAULT}/ct-1-npz=floor+0.6", f"{_DEFAULT}/ct-5-npz=floor+1.3", f"{_DEFAULT}/grey-1-npz=floor+0.1"),
    *(f"{_DEFAULT}/ct-1-npz:second=floor+0.3", f"{_DEFAULT}/ct-1-npz:session=0.15s"),
    *(f"{_DEFAULT}/{case}:memory=350MB" for case in ("ct-1-npz", "ct-5-npz")),
    *("daft/ct-1-npz=0.67", "daft/ct-1-npz=0.34*fp32", "medficientsam-l0/ct-1-npz=0.34*fp32"),
)
"""What the project aims at (``--goals``)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget; ``against`` is ``reference``, ``reference fp32``, ``floor`` or empty."""

    text: str
    bundle: str | None
    case: str
    quantity: str
    limit: float
    unit: str
    against: str


def parse_budget(text: str) -> Budget:
    """Parse one text; PromptError says what is wrong with it."""
    name, _, value = text.partition("=")
    named, limited = _NAME.fullmatch(name.strip()), _LIMIT.fullmatch(value.strip())
    if named is None or limited is None or (named["quantity"] or "warm") not in QUANTITIES:
        msg = (
            f"budget {text!r}: wanted [BUNDLE/]CASE[:QUANTITY]=LIMIT with QUANTITY of {', '.join(QUANTITIES)} and "
            "LIMIT like 0.5, 0.33*fp32, floor+0.6, 0.15s or 350MB"
        )
        raise PromptError(msg)
    kind, floor, unit = named["quantity"] or "warm", bool(limited["floor"]), limited["unit"] or ""
    fits = {"memory": unit == "MB", "session": unit == "s"}.get(kind, unit != "MB")
    if not fits or (floor and unit not in ("", "s")) or (floor and kind in ("memory", "session")):
        msg = f"budget {text!r}: that limit does not fit {kind}; wanted MB for memory, seconds (0.15s) for session"
        raise PromptError(msg)
    against = "floor" if floor else {"": "reference", "*fp32": "reference fp32"}.get(unit, "")
    shown = "MB" if unit == "MB" else "s" if floor or unit == "s" else "times"
    return Budget(text, named["bundle"], named["case"], kind, float(limited["number"]), shown, against)


def check_budgets(report: Report, budgets: Sequence[Budget], *, asked: bool = True) -> tuple[BudgetFigures, ...]:
    """Hold a report against budgets, each for every bundle that it is for.

    Parameters
    ----------
    report : Report
        What was measured.
    budgets : sequence of Budget
        What was asked for.
    asked : bool
        Whether somebody asked for them: then what was not measured is missed; else it is left out.
    """
    found = []
    subjects = list(dict.fromkeys(one.subject for one in report.configurations))
    for budget in budgets:
        matching = [name for name in subjects if budget.bundle in (None, name)]
        for subject in matching or ([budget.bundle or "?"] if asked else []):
            figures = msgspec.structs.replace(_check(report, budget, subject), asked=asked)
            if asked or figures.value is not None:
                found.append(figures)
    return tuple(found)


def _check(report: Report, budget: Budget, subject: str) -> BudgetFigures:
    one = comparable(report, subject)
    case = None if one is None else case_of(one, budget.case)
    interval: tuple[float, float] | None = None
    value = None
    if one is not None and case is not None:
        if budget.unit == "times":
            other = reference_of(report, subject, "fp32" if budget.against.endswith("fp32") else "default")
            theirs = None if other is None else case_of(other, budget.case)
            found = None if theirs is None else ratio(case.processes.get(budget.quantity), theirs.processes.get("warm"))
            if found is not None:
                value, interval = found.value, found.interval
        else:
            value = _plain(report, budget, case)
    met = value is not None and value <= budget.limit
    name = None if one is None else one.name
    low, high = interval if interval is not None else (None, None)
    return BudgetFigures(
        subject, name, budget.case, budget.quantity, budget.against, budget.limit, budget.unit, value, low, high, met
    )


def _plain(report: Report, budget: Budget, case: CaseFigures) -> float | None:
    """Seconds, seconds over the floor, or megabytes."""
    if budget.quantity == "session":
        stage = case.stages.get("second_box_ms")
        return None if stage is None else stage.median / 1e3
    if budget.quantity == "memory":
        peak = quantity(case.processes.get("warm"), "peak_rss_bytes")
        return None if peak is None else peak.median / _MEGABYTE
    wall = quantity(case.processes.get(budget.quantity), "wall_s")
    if wall is None or budget.against != "floor":
        return None if wall is None else wall.median
    floor = report.floor.get("floor")
    return None if floor is None else wall.median - floor.wall_s.median
