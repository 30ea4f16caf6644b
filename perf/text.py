"""Numbers and tables as plain text.

Knows strings and statistics; knows no report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from perf.records import Stat

__all__ = ["NONE", "aligned", "indented", "milliseconds", "seconds", "short"]

NONE = "-"
"""What stands where nothing was measured."""


def seconds(stat: Stat | None) -> str:
    """Median and range."""
    if stat is None:
        return NONE
    spread = "" if stat.n == 1 else f" ({stat.min:.2f}-{stat.max:.2f})"
    return f"{stat.median:.2f}{spread}"


def milliseconds(stat: Stat | None) -> str:
    """Median and range."""
    if stat is None:
        return NONE
    spread = "" if stat.n == 1 else f" ({short(stat.min)}-{short(stat.max)})"
    return f"{short(stat.median)}{spread}"


def short(value: float) -> str:
    """As many digits as a reader needs."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def indented(lines: Iterable[str]) -> Iterator[str]:
    """Two spaces before every line."""
    return (f"  {line}" for line in lines)
