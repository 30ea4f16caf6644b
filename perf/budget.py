"""Budgets: what a bundle may cost, as a share of another program measured in the same run or in plain units.

Knows the text of a budget and the layout of the report; measures nothing. ``[BUNDLE/]CASE[:QUANTITY]=LIMIT``, where
QUANTITY is a kind of process (``warm`` if left out), ``session`` (a second box inside a session) or ``memory``, and
LIMIT is ``0.5`` (of the reference), ``0.33*fp32`` (of the reference in float32), ``0.125*NAME`` (of a peer's program),
``ct-1-npz*fp32`` (no larger share than on that case), ``floor+0.6`` (seconds), ``0.15s`` or ``350MB``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from perf.figures import case_of, comparable, peer_of, quantity, ratio, reference_of
from perf.plan import PEER
from perf.records import BudgetFigures, CaseFigures, ConfigurationFigures, Report
from perf.stats import Ratio
from runtime.errors import PromptError

__all__ = ["GOALS", "Budget", "check_budgets", "parse_budget"]

QUANTITIES = ("cold", "warm", "stored", "second", "session", "memory")
_NAME = re.compile(r"(?:(?P<bundle>[^/:=]+)/)?(?P<case>[^/:=]+)(?::(?P<quantity>\w+))?")
_NUMBER = r"(?P<number>\d+(?:\.\d+)?)"
_LIMIT = re.compile(rf"(?P<floor>floor\+)?{_NUMBER}(?P<unit>s|MB)?")
_SHARE = re.compile(rf"(?:{_NUMBER}|(?P<than>[a-z][\w-]*))\*(?P<of>[A-Za-z][\w.-]*)")
_REFERENCES = {"reference": "reference", "fp32": "reference fp32"}
_MEGABYTE = 1e6
_DEFAULT = "lite-infer-synthetic"
_SHARES = (
    *(("daft", 0.667, "reference"), ("daft", 0.333, "fp32"), ("daft", 0.333, "daft-cpp")),
    *(("medficientsam-l0", 0.333, "fp32"), ("lite-medsam", 0.125, "pytorch")),
)

GOALS = (
    *(f"{_DEFAULT}/ct-1-npz=floor+0.6", f"{_DEFAULT}/ct-5-npz=floor+1.3", f"{_DEFAULT}/grey-1-npz=floor+0.1"),
    *(f"{_DEFAULT}/ct-1-npz:second=floor+0.3", f"{_DEFAULT}/ct-1-npz:session=0.15s"),
    *(f"{_DEFAULT}/{case}:memory=350MB" for case in ("ct-1-npz", "ct-5-npz")),
    f"{_DEFAULT}/grey-1-npz=1*daft-cpp",
    *(f"{bundle}/{case}={share}*{of}" for bundle, share, of in _SHARES for case in ("ct-1-npz", "ct-5-npz")),
    *(f"{bundle}/ct-5-npz=ct-1-npz*{of}" for bundle, _, of in _SHARES),
)
"""What the project aims at (``--goals``); ``daft-cpp`` and ``pytorch`` are peers' programs (``--peer``)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget; ``against`` is ``reference``, ``reference fp32``, a peer's name, ``floor`` or empty.

    Its ``limit`` is None where it is the share found on another case, ``than``.
    """

    text: str
    bundle: str | None
    case: str
    quantity: str
    limit: float | None
    unit: str
    against: str
    than: str | None = None

    @property
    def peer(self) -> str | None:
        """Name of the peer's program that it is a share of."""
        return None if self.unit != "times" or self.against in _REFERENCES.values() else self.against


def parse_budget(text: str) -> Budget:
    """Parse one text; PromptError says what is wrong with it."""
    name, _, value = text.partition("=")
    named, limited, shared = (
        pattern.fullmatch(part.strip()) for pattern, part in ((_NAME, name), (_LIMIT, value), (_SHARE, value))
    )
    kind = (named["quantity"] if named else None) or "warm"
    if named is None or (limited is None and shared is None) or kind not in QUANTITIES:
        msg = (
            f"budget {text!r}: wanted [BUNDLE/]CASE[:QUANTITY]=LIMIT with QUANTITY of {', '.join(QUANTITIES)} and "
            "LIMIT like 0.5, 0.33*fp32, 0.33*PEER, ct-1-npz*fp32, floor+0.6, 0.15s or 350MB"
        )
        raise PromptError(msg)
    floor, unit = bool(limited and limited["floor"]), (limited["unit"] if limited else None) or ""
    fits = {"memory": unit == "MB", "session": unit == "s"}.get(kind, unit != "MB")
    if not fits or (floor and unit not in ("", "s")) or (floor and kind in ("memory", "session")):
        msg = f"budget {text!r}: that limit does not fit {kind}; wanted MB for memory, seconds (0.15s) for session"
        raise PromptError(msg)
    if limited is not None:
        shown = "MB" if unit == "MB" else "s" if floor or unit == "s" else "times"
        against = "floor" if floor else "" if unit else "reference"
        return Budget(text, named["bundle"], named["case"], kind, float(limited["number"]), shown, against)
    assert shared is not None
    limit = None if shared["number"] is None else float(shared["number"])
    against = _REFERENCES.get(shared["of"], shared["of"])
    return Budget(text, named["bundle"], named["case"], kind, limit, "times", against, shared["than"])


def check_budgets(report: Report, budgets: Sequence[Budget], *, asked: bool = True) -> tuple[BudgetFigures, ...]:
    """Hold a report against budgets, each for every bundle that it is for.

    Parameters
    ----------
    report : Report
        What was measured.
    budgets : sequence of Budget
        What was asked for.
    asked : bool
        Whether somebody asked for them: then what was not measured is missed; else it is said not to be measured.
    """
    found = []
    subjects = list(dict.fromkeys(one.subject for one in report.configurations if one.backend != PEER))
    for budget in budgets:
        matching = [name for name in subjects if budget.bundle in (None, name)]
        for subject in matching or [budget.bundle or "?"]:
            found.append(msgspec.structs.replace(_check(report, budget, subject), asked=asked))
    return tuple(found)


def _check(report: Report, budget: Budget, subject: str) -> BudgetFigures:
    one = comparable(report, subject)
    case = None if one is None else case_of(one, budget.case)
    share = limit = value = None
    if one is not None and budget.unit == "times":
        share = _share(report, budget, one, budget.case)
        limit = None if budget.than is None else _share(report, budget, one, budget.than)
        value = None if share is None else share.value
    elif case is not None:
        value = _plain(report, budget, case)
    most = budget.limit if limit is None else limit.value
    low, high = share.interval if share is not None and share.interval is not None else (None, None)
    return BudgetFigures(
        subject=subject,
        configuration=None if one is None else one.name,
        case=budget.case,
        quantity=budget.quantity,
        against=budget.against,
        limit=most,
        unit=budget.unit,
        value=value,
        low=low,
        high=high,
        met=value is not None and most is not None and value <= most,
        than=budget.than,
    )


def _share(report: Report, budget: Budget, one: ConfigurationFigures, case: str) -> Ratio | None:
    """What a bundle's process takes of the other program's warm one on a case."""
    if budget.peer is None:
        other = reference_of(report, one.subject, "fp32" if budget.against.endswith("fp32") else "default")
    else:
        other = peer_of(report, budget.peer)
    mine, theirs = case_of(one, case), None if other is None else case_of(other, case)
    if mine is None or theirs is None:
        return None
    return ratio(mine.processes.get(budget.quantity), theirs.processes.get("warm"))


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
