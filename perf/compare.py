"""``lite-infer perf compare A.json B.json``: how the second run differs from the first.

Knows two reports; measures nothing. A ratio is the median of B over the median of A, with a bootstrap interval over
the samples of both; where that interval leaves out 1, the line says which run is better.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from perf.figures import case_of
from perf.records import CaseFigures, ConfigurationFigures, Report, Stat, decode_report
from perf.stats import ratio_of_medians
from perf.text import aligned
from runtime.command import CommandParser
from runtime.errors import ImageError

__all__ = ["compare", "main", "read_report"]

_QUANTITIES = (("wall", "wall_s"), ("CPU", "cpu_s"), ("peak", "peak_rss_bytes"))
_STAGES = (
    "start_ms",
    "read_ms",
    "encode_per_slice_ms",
    "decode_per_box_ms",
    "propagate_ms",
    "second_box_ms",
    "write_ms",
)


def main(argv: Sequence[str]) -> int:
    """Print the comparison of two files; 3 where one is none of this suite's."""
    parser = CommandParser(
        prog="lite-infer perf compare",
        description="Ratios between two runs of the suite, B over A, with 95 % intervals: below 1, B is faster.",
    )
    parser.add_argument("first", type=Path, metavar="A.json")
    parser.add_argument("second", type=Path, metavar="B.json")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    print(compare(read_report(options.first), read_report(options.second)))
    return 0


def read_report(path: Path) -> Report:
    """Read a JSON file of this suite; ImageError says what else it is."""
    try:
        return decode_report(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); wanted a JSON file that lite-infer perf wrote"
        raise ImageError(msg) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        msg = f"{path}: {error}; wanted a JSON file that this version's lite-infer perf wrote; measure again"
        raise ImageError(msg) from error


def compare(first: Report, second: Report) -> str:
    """Make the whole text."""
    lines = [*_differences(first, second), ""]
    rows = [["B over A", "median A", "median B", "ratio", "95 % interval", ""], *_rows(first, second)]
    lines += aligned(rows) if len(rows) > 1 else ["the two runs have no configuration and case in common"]
    return "\n".join(lines)


def _differences(first: Report, second: Report) -> Iterator[str]:
    for name, report in (("A", first), ("B", second)):
        machine = report.machine
        yield (
            f"{name}: {report.created}, lite-infer {report.lite_infer}, {machine.cpu}, {machine.usable_cores} usable "
            f"cores, load {machine.load_average}, {report.rounds} rounds"
        )
    mine, theirs = first.machine, second.machine
    changed = [
        f"{name} {mine.packages.get(name)} -> {theirs.packages.get(name)}"
        for name in sorted({*mine.packages, *theirs.packages})
        if mine.packages.get(name) != theirs.packages.get(name)
    ]
    if mine.environment != theirs.environment:
        changed.append(f"variables {mine.environment or 'none'} -> {theirs.environment or 'none'}")
    if changed:
        yield f"not the same: {', '.join(changed)}"
    if (mine.cpu, mine.usable_cores) != (theirs.cpu, theirs.usable_cores):
        yield "different machines: the ratios compare those as well"


def _key(one: ConfigurationFigures) -> tuple[object, ...]:
    return (one.subject, one.backend, one.precision, one.threads, one.isa)


def _rows(first: Report, second: Report) -> Iterator[list[str]]:
    for name, mine in first.floor.items():
        if name in second.floor:
            yield from _row(f"floor / {name}, wall", mine.wall_s, second.floor[name].wall_s)
    others = {_key(one): one for one in second.configurations}
    digests = {facts.name: facts.sha256 for facts in second.cases}
    for one in first.configurations:
        other = others.get(_key(one))
        if other is None:
            continue
        weights = "" if one.bundle is None or other.bundle is None or one.bundle == other.bundle else " (other files)"
        for facts in first.cases:
            mine_case, theirs_case = case_of(one, facts.name), case_of(other, facts.name)
            if mine_case is None or theirs_case is None or digests.get(facts.name) != facts.sha256:
                continue
            yield from _case_rows(f"{one.name}{weights}, {facts.name}", mine_case, theirs_case)


def _case_rows(title: str, mine: CaseFigures, theirs: CaseFigures) -> Iterator[list[str]]:
    for kind, figures in mine.processes.items():
        for shown, name in _QUANTITIES:
            other = theirs.processes.get(kind)
            one = getattr(figures, name)
            if other is not None and one is not None and getattr(other, name) is not None:
                yield from _row(f"{title}, {kind}, {shown}", one, getattr(other, name))
    for stage in _STAGES:
        if stage in mine.stages and stage in theirs.stages:
            yield from _row(f"{title}, {stage}", mine.stages[stage], theirs.stages[stage])


def _row(title: str, mine: Stat, theirs: Stat) -> Iterator[list[str]]:
    found = ratio_of_medians(theirs.samples, mine.samples)
    if found is None:
        return
    interval, verdict = "-", ""
    if found.interval is not None:
        low, high = found.interval
        interval = f"{low:.3f}-{high:.3f}"
        verdict = "B less" if high < 1 else "B more" if low > 1 else ""
    yield [title, f"{mine.median:.4g}", f"{theirs.median:.4g}", f"{found.value:.3f}", interval, verdict]
