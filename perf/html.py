"""The report as one HTML page with plots, which opens without a network.

Knows the layout of the report alone; every text of it is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from perf.cases import series_of
from perf.extra_tables import SHORTFALL_TITLE, budget_texts, labelled_rows, roofline_rows, shortfall_rows
from perf.figures import is_own, pairs
from perf.records import CaseFigures, ConfigurationFigures, Report
from perf.svg import COLOURS, Bar, Line, bars, lines
from perf.table import case_rows, head_lines, remarks, start_rows
from perf.text import milliseconds

__all__ = ["html_report"]

_STAGES = (
    ("import", "import_ms"),
    ("start", "start_ms"),
    ("read", "read_ms"),
    ("segment", "propagate_ms"),
    ("write", "write_ms"),
)
_KINDS = ("cold", "warm", "stored", "second")
_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#1a1a1a;background:#fff}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ccc}
pre{white-space:pre-wrap}table{border-collapse:collapse;margin:.7em 0;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}th,td{padding:2px 9px;text-align:right;border-bottom:1px solid #e4e4e4;white-space:nowrap}
th:first-child,td:first-child{text-align:left}.met{color:#00684c}.missed{color:#b03a00;font-weight:bold}
svg{max-width:100%;height:auto;display:block;margin:.5em 0}svg text{font-size:11px;fill:#333}
.grid{stroke:#ddd}.range{stroke:#000;stroke-width:1.5}.key span{display:inline-block;margin-right:1.2em}
.key i{display:inline-block;width:.8em;height:.8em;margin-right:.35em}
"""


def html_report(report: Report) -> str:
    """Make the whole page."""
    body = [
        f"<h1>lite-infer {escape(report.lite_infer)} performance, {escape(report.created)}</h1>",
        f"<pre>{escape(chr(10).join(head_lines(report)))}</pre>",
        *_section("Remarks", [f"<p>{escape(line)}</p>" for line in remarks(report)]),
        *_section("Budgets and goals", _budgets(report)),
        *_section("Start of a session, ms", [_table(start_rows(report))]),
    ]
    for facts in report.cases:
        if series_of(facts.name) is None:
            shape = "x".join(str(side) for side in facts.shape)
            title = f"{facts.name}: {facts.title} ({shape} {facts.dtype})"
            body += _section(title, _case(report, facts.name))
    body += _section("What cost grows with", _series(report))
    body += _section("Labelled images", [_table(labelled_rows(report))])
    body += _section("Roofline", _roofline(report))
    body += _section(SHORTFALL_TITLE, _titled(shortfall_rows(report)))
    page = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>lite-infer performance</title>'
        f"<style>{_STYLE}</style></head><body>\n{page}\n</body></html>\n"
    )


def _section(title: str, parts: Iterable[str]) -> list[str]:
    """Head and parts; nothing where there are none."""
    shown = [part for part in parts if part]
    return [f"<h2>{escape(title)}</h2>", *shown] if shown else []


def _table(rows: Sequence[Sequence[str]]) -> str:
    if len(rows) < 2:
        return ""
    head, *others = rows
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines_ = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in others)
    return f'<div class="wide"><table><tr>{cells}</tr>{lines_}</table></div>'


def _key(names: Sequence[str]) -> str:
    entries = (f'<span><i style="background:{COLOURS[i]}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<p class="key">{"".join(entries)}</p>'


def _budgets(report: Report) -> Iterator[str]:
    if not report.budgets:
        return
    rows = []
    for one in report.budgets:
        wanted, found, verdict = (escape(text) for text in budget_texts(one))
        rows.append(f'<tr><td>{wanted}</td><td>{found}</td><td class="{verdict.lower()}">{verdict}</td></tr>')
    yield f"<table><tr><th>wanted</th><th>found</th><th></th></tr>{''.join(rows)}</table>"


def _case(report: Report, name: str) -> Iterator[str]:
    found = list(pairs(report, name))
    rows = [bar for one, case in found for bar in _process_bars(one, case)]
    if rows:
        yield _key(_KINDS)
        yield bars(rows, "s, whole process")
    staged = [_stage_bar(one, case) for one, case in found if is_own(one) and case.stages]
    if staged:
        yield _key([title for title, _ in _STAGES])
        yield bars(staged, "ms, stages in one process, embeddings in memory only")
    for table in case_rows(report, found):
        yield _table(table)


def _process_bars(one: ConfigurationFigures, case: CaseFigures) -> Iterator[Bar]:
    label = one.name
    for number, kind in enumerate(_KINDS):
        if kind in case.processes:
            wall = case.processes[kind].wall_s
            yield Bar(label, [(number, wall.median)], wall.min, wall.max, f"{wall.median:.2f}")
            label = ""


def _stage_bar(one: ConfigurationFigures, case: CaseFigures) -> Bar:
    medians = {**one.start.get("warm", {}), **case.stages}
    values = [(number, medians[key].median) for number, (_, key) in enumerate(_STAGES) if key in medians]
    parts = [(number, value) for number, value in values if value > 0]
    whole = sum(value for _, value in parts)
    return Bar(one.name, parts, whole, whole, f"{whole:.0f}")


def _series(report: Report) -> Iterator[str]:
    """One plot a series: encoder, decoder, reading and the whole process against the number."""
    series: dict[str, list[tuple[int, str]]] = {}
    titles = {}
    for facts in report.cases:
        found = series_of(facts.name)
        if found is not None:
            series.setdefault(found[0], []).append((found[1], facts.name))
            titles[found[0]] = found[2]
    for name, members in series.items():
        for one in report.configurations:
            if not is_own(one) or one.same_as is not None:
                continue
            curves = [curve for curve in _curves(one, sorted(members)) if curve.points]
            if curves:
                yield f"<h3>{escape(titles[name])}: {escape(one.name)}</h3>"
                yield lines(curves, titles[name], "ms")
                yield _table(_series_rows(one, sorted(members)))


def _series_rows(one: ConfigurationFigures, members: Sequence[tuple[int, str]]) -> list[list[str]]:
    """A line for each number: every stage, and the whole of a segmentation; a head first."""
    shown = (*_STAGES[2:], ("propagate", "propagate_ms"))
    cases = {case.case: case for case in one.cases}
    rows = [["ms, median (range)", *(title for title, _ in shown)]]
    for number, name in members:
        if name in cases:
            rows.append([str(number), *(milliseconds(cases[name].stages.get(key)) for _, key in shown)])
    return rows


def _curves(one: ConfigurationFigures, members: Sequence[tuple[int, str]]) -> Iterator[Line]:
    cases = {case.case: case for case in one.cases}
    for colour, (title, key) in list(enumerate(_STAGES))[2:]:
        points = []
        for number, name in members:
            stat = cases[name].stages.get(key) if name in cases else None
            if stat is not None:
                points.append((float(number), stat.median, stat.min, stat.max))
        yield Line(title, colour, points)


def _roofline(report: Report) -> Iterator[str]:
    roofline = report.roofline
    if roofline is None:
        return
    rates = [(name, rate) for name, rate in roofline.gflops.items() if rate is not None]
    rows = [Bar(name, [(number, rate)], rate, rate, f"{rate:.0f}") for number, (name, rate) in enumerate(rates)]
    yield bars(rows, "10^9 operations/s, measured in wide convolutions")
    yield f"<p>Bandwidth of copies: {roofline.bandwidth_gbs:.1f} x 10^9 bytes/s.</p>"
    graphs = [
        Bar(f"{one.configuration}, {one.graph}", [(0, one.bound_ms), (1, max(0.0, one.ms - one.bound_ms))],
            one.ms, one.ms, f"{one.ms:.2f}") for one in roofline.graphs
    ]  # fmt: skip
    if graphs:
        yield _key(["what the peaks allow", "above that"])
        yield bars(graphs, "ms a call")
    yield from _titled(roofline_rows(report))


def _titled(tables: Iterable[tuple[str, list[list[str]]]]) -> Iterator[str]:
    for title, rows in tables:
        yield f"<h3>{escape(title)}</h3>"
        yield _table(rows)
