"""``lite-infer-export parity``: the table of all systems, as text, Markdown or JSON.

Knows how rows are laid out; decides nothing about them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.parity import Outcome, Row
    from export.verify import Check

__all__ = ["add_parity", "summary_lines"]

_FAILED = 1
_COLUMNS = (
    ("encoder input", "case_", "encoder_input"),
    ("embedding", "case_", "embedding"),
    ("logits", "case_", "low_res_logits"),
    ("score", "case_", "score"),
    ("mask", "case_", "mask"),
    ("volume: logits, rms", "case_3d", "low_res_logits, rms"),
    ("volume: labels", "case_3d", "segs"),
    ("loop: labels", "loop_3d", "segs"),
)
"""Columns of the summary: title, case (or its beginning), stage."""


def add_parity(commands: Any) -> argparse.ArgumentParser:
    """Add the command to a parser's commands."""
    from runtime.backends import BACKENDS

    parser: argparse.ArgumentParser = commands.add_parser(
        "parity", help="convert and verify every system: the table of all stages"
    )
    parser.add_argument("goldens", type=Path, metavar="DIR", help="folder with a folder of goldens for each system")
    parser.add_argument("--system", action="append", default=[], metavar="NAME", help="this one alone; may be repeated")
    parser.add_argument("--large", action="store_true", help="MedSAM and SAM ViT-B as well: minutes and 8 GB of memory")
    parser.add_argument("--backend", choices=(*BACKENDS, "all"), default="all")
    parser.add_argument("--bundles", type=Path, metavar="DIR", help="keep the bundles here, and use those that are")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to this file as well")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(command=_parity)
    return parser


def _parity(options: argparse.Namespace) -> int:
    from export.parity import outcomes, systems_of, table_rows
    from runtime.backends import BACKENDS

    backends = BACKENDS if options.backend == "all" else (options.backend,)
    systems = systems_of(options.goldens, wanted=options.system, large=options.large)
    found = []
    with ExitStack() as stack:
        work = options.bundles or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lite-infer-parity-")))
        work.mkdir(parents=True, exist_ok=True)
        if not options.json:
            print(_text_row("system", "case", "stage", "limit", ["no engine", *backends], "").rstrip())
        for outcome in outcomes(options.goldens, systems, work, backends=backends, report=_progress):
            found.append(outcome)
            if not options.json:
                print("\n".join(_text_rows(outcome, backends)), flush=True)
    if options.markdown is not None:
        text = "\n".join([*summary_lines(found), "", *_markdown_lines(found, backends)]) + "\n"
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        rows = [asdict(row) for outcome in found for row in table_rows(outcome)]
        failures = {outcome.system: outcome.failure for outcome in found if outcome.failure is not None}
        print(json.dumps({"passed": all(one.passed for one in found), "rows": rows, "failures": failures}, indent=2))
    else:
        print("\n" + "\n".join(summary_lines(found)))
    return 0 if all(outcome.passed for outcome in found) else _FAILED


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text} ...", end="\r", file=sys.stderr, flush=True)


def _text_row(system: str, case: str, stage: str, limit: str, found: Iterable[str], verdict: str) -> str:
    return f"{system:17} {case:8} {stage:22} {limit:>8} " + " ".join(f"{one:>11}" for one in found) + f"  {verdict}"


def _text_rows(outcome: Outcome, backends: Sequence[str]) -> list[str]:
    from export.parity import table_rows

    if outcome.failure is not None:
        return [f"{outcome.system:17} FAILED   {outcome.failure}"]
    return [
        _text_row(row.system, row.case, row.stage, f"{row.limit:.1e}", _found(row, backends), _verdict(row.passed))
        for row in table_rows(outcome)
    ]


def _found(row: Row, backends: Sequence[str]) -> list[str]:
    return [_figure(row.found[engine]) if engine in row.found else "" for engine in ("-", *backends)]


def _figure(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"


def summary_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Lay out one Markdown row a system: the largest difference of a stage over its cases and backends."""
    titles = ["system", *(title for title, _, _ in _COLUMNS), "checks passed"]
    lines = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    for outcome in outcomes:
        cells = [outcome.system]
        for _, case, stage in _COLUMNS:
            wanted = [check for check in outcome.checks if check.stage == stage and _is_case(check.case, case)]
            cells.append(_figure(_worst(wanted)) if wanted else "")
        passed = sum(check.passed for check in outcome.checks)
        cells.append(f"{passed} of {len(outcome.checks)}" if outcome.failure is None else "does not convert")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _worst(checks: Sequence[Check]) -> float:
    """Largest difference; not a number where one is not."""
    return max((check.found for check in checks), key=lambda found: (math.isnan(found), found))


def _is_case(found: str, wanted: str) -> bool:
    return found == wanted or (wanted == "case_" and found.startswith("case_") and found != "case_3d")


def _markdown_lines(outcomes: Sequence[Outcome], backends: Sequence[str]) -> list[str]:
    from export.parity import table_rows

    titles = ["system", "case", "stage", "limit", "no engine", *backends, ""]
    lines = ["| " + " | ".join(titles) + " |", "| --- " * len(titles) + "|"]
    for outcome in outcomes:
        if outcome.failure is not None:
            lines.append(f"| {outcome.system} | | {outcome.failure} " + "| " * (len(titles) - 3) + "FAILED |")
        lines += [
            "| "
            + " | ".join(
                [row.system, row.case, row.stage, _figure(row.limit), *_found(row, backends), _verdict(row.passed)]
            )
            + " |"
            for row in table_rows(outcome)
        ]
    return lines
