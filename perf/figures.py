"""Questions to a report: which figures belong together, and how they compare.

Knows the layout of the report alone; formats nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from perf.plan import PEER, REFERENCE
from perf.records import CaseFigures, ConfigurationFigures, ProcessFigures, Report, Stat
from perf.stats import Ratio, ratio_of_medians

__all__ = ["case_of", "comparable", "is_own", "pairs", "peer_of", "quantity", "ratio", "reference_of", "single_of"]

Quantity = Literal["wall_s", "cpu_s", "peak_rss_bytes"]


def pairs(report: Report, case: str) -> Iterator[tuple[ConfigurationFigures, CaseFigures]]:
    """Every configuration that measured a case, with its figures."""
    for one in report.configurations:
        found = case_of(one, case)
        if found is not None:
            yield one, found


def case_of(one: ConfigurationFigures, case: str) -> CaseFigures | None:
    """Figures of a configuration on a case."""
    return next((found for found in one.cases if found.case == case), None)


def is_own(one: ConfigurationFigures) -> bool:
    """Whether this is lite-infer itself."""
    return one.backend not in (REFERENCE, PEER)


def peer_of(report: Report, name: str) -> ConfigurationFigures | None:
    """Return a program of somebody else."""
    return next((one for one in report.configurations if (one.backend, one.name) == (PEER, name)), None)


def reference_of(
    report: Report, subject: str, precision: str = "default", isa: str | None = None
) -> ConfigurationFigures | None:
    """Return the reference pipeline on a bundle; the one it is a duplicate of, where it is one."""
    for one in report.configurations:
        if (one.backend, one.precision, one.subject, one.isa) == (REFERENCE, precision, subject, isa):
            return (
                one if one.same_as is None else next(each for each in report.configurations if each.name == one.same_as)
            )
    return None


def single_of(report: Report, one: ConfigurationFigures) -> ConfigurationFigures | None:
    """Return the same bundle on the same engine, threads and limit in float32."""
    wanted = (one.subject, one.backend, one.threads, one.isa, "fp32", None)
    for other in report.configurations:
        found = (other.subject, other.backend, other.threads, other.isa, other.precision_used, other.same_as)
        if found == wanted:
            return other
    return None


def comparable(report: Report, subject: str) -> ConfigurationFigures | None:
    """Return lite-infer's first configuration of a bundle: its defaults, unless others were asked for."""
    for one in report.configurations:
        if is_own(one) and one.subject == subject and one.isa is None and one.same_as is None:
            return one
    return None


def quantity(figures: ProcessFigures | None, name: Quantity) -> Stat | None:
    """One quantity of a kind of process."""
    found: Stat | None = None if figures is None else getattr(figures, name)
    return found


def ratio(one: ProcessFigures | None, other: ProcessFigures | None, name: Quantity = "wall_s") -> Ratio | None:
    """Median of one kind of process over that of another; None where either was not measured."""
    mine, theirs = quantity(one, name), quantity(other, name)
    return None if mine is None or theirs is None else ratio_of_medians(mine.samples, theirs.samples)
