"""Questions to a report: which figures belong together, and how they compare.

Knows the layout of the report alone; formats nothing.
"""

from __future__ import annotations

from typing import Literal

from perf.records import ProcessFigures

__all__ = ["ratio"]


def ratio(
    one: ProcessFigures | None, other: ProcessFigures | None, quantity: Literal["wall_s", "cpu_s"]
) -> float | None:
    """Median of one kind of process over that of another; None where either was not measured."""
    if one is None or other is None:
        return None
    mine, theirs = getattr(one, quantity), getattr(other, quantity)
    return None if mine is None or theirs is None or not theirs.median else float(mine.median / theirs.median)
