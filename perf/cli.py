"""``lite-infer perf``: measure, print, write JSON and HTML; ``compare`` and ``report`` of such files.

Knows terminals, files and exit codes; measures nothing itself.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from perf.budget import GOALS, check_budgets, parse_budget
from perf.cases import Case, make_cases
from perf.compare import main as compare_main
from perf.compare import read_report
from perf.extras import extra_tasks
from perf.html import html_report
from perf.machine import describe_machine
from perf.measure import Measurer
from perf.options import parse_options
from perf.peers import private_texts
from perf.plan import Subject, check_patterns, configurations
from perf.processes import launch, launch_within
from perf.recorder import Recorder
from perf.records import Option, Report, encode_report
from perf.report import Context, build_report, check_writable, write_text
from perf.subjects import make_subjects
from perf.suite import Outcome, Progress, deadline, run_suite
from perf.table import format_report
from runtime.command import CommandParser

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command; LiteInferError is left to ``runtime.cli.main``, which knows messages and exit codes."""
    if argv and argv[0] == "compare":
        return compare_main(argv[1:])
    if argv and argv[0] == "report":
        return _show(argv[1:])
    options = parse_options(argv)
    for path in (options.output, options.html):
        check_writable(path)
    with _terminated_as_interrupted():
        report = _measure(options)
    write_text(options.output, encode_report(report))
    write_text(options.html, html_report(report))
    print(encode_report(report) if options.json else format_report(report))
    if not options.json:
        print(f"\nwritten   {options.output}, {options.html}")
    return _exit_code(report, asked=bool(options.budget))


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM keep what was measured and remove the scratch folder, which holds images, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # where no handler can be put in place
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_code(report: Report, *, asked: bool) -> int:
    """1 for what failed, and for a missed budget that was asked for; the project's own goals are only shown."""
    if report.stopped == "interrupted":
        return 130
    own = [one for one in report.configurations if asked or one.backend != "reference"]
    missed = asked and any(one.asked and not one.met for one in report.budgets)
    return 1 if missed or report.failures or any(one.status == "failed" for one in own) else 0


def _show(argv: Sequence[str]) -> int:
    """Print the table of an earlier run and write its HTML file."""
    parser = CommandParser(prog="lite-infer perf report", description="Table and HTML file of an earlier run.")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--html", type=Path, metavar="FILE", help="default: beside the JSON file")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    report, path = read_report(options.file), options.html or options.file.with_suffix(".html")
    write_text(path, html_report(report))
    print(format_report(report))
    print(f"\nwritten   {path}")
    return 0


def _measure(options: argparse.Namespace) -> Report:
    begun = time.monotonic()
    time_left = deadline(options.limit)
    subjects = make_subjects(options.bundle or [None], options.modality, options.plain)
    kinds = (options.backends, options.precisions, options.threads, options.isa)
    more = {"references": options.references, "peers": options.peers, "skip": options.skip}
    chosen = configurations(subjects, *kinds, **more)
    numbers = range(1, len(options.files) + 1)
    own = (f"file-{number}{end}" for number in numbers for end in ("", "-npz"))
    check_patterns(options.skip, chosen, [*options.cases, *own])
    recorder = Recorder()
    cases: list[Case] = []
    outcome = Outcome(0, "interrupted")
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="lite-infer-perf-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch).resolve()
        labelled = None if options.labelled is None else options.labelled.resolve()
        measurer = Measurer(folder, recorder, launch_within(time_left, launch), labelled=labelled)

        def made(ended: Outcome) -> Report:
            context = Context(machine, chosen, cases, _asked(options), _private(options, subjects))
            report = build_report(recorder, context, ended, time.monotonic() - begun)
            return _judged(report, options)

        def keep(rounds: int) -> None:
            write_text(options.output, encode_report(made(Outcome(rounds, "interrupted"))))

        with contextlib.suppress(KeyboardInterrupt), _progress() as progress:
            progress("draw images", 0, 0)
            cases = make_cases(options.cases, options.files, folder, twins=options.reference)
            chosen = [one for one in chosen if any(one.takes(case) for case in cases)]
            machine = describe_machine(measurer.capabilities())
            extras = extra_tasks(chosen, roofline=options.roofline, labelled=labelled is not None)
            outcome = run_suite(
                measurer,
                chosen,
                cases,
                repeat=options.repeat,
                once=options.once,
                extras=extras,
                time_left=time_left,
                progress=progress,
                kept=keep,
            )
        return made(outcome)


def _judged(report: Report, options: argparse.Namespace) -> Report:
    """Hold the report against the budgets that were asked for, and the project's goals as far as they were measured."""
    found = check_budgets(report, options.budget)
    if options.goals:
        found += check_budgets(report, [parse_budget(text) for text in GOALS], asked=False)
    return msgspec.structs.replace(report, budgets=found)


def _asked(options: argparse.Namespace) -> dict[str, Option]:
    """Options as they were settled, without paths."""
    return {
        "cases": list(options.cases),
        "files": len(options.files),
        "backends": list(options.backends),
        "precisions": list(options.precisions),
        "threads": [count for count in options.threads if count is not None],
        "isa": [limit or "native" for limit in options.isa],
        "modality": options.modality,
        "references": list(options.references),
        "peers": [one.name for one in options.peers],
        "skip": list(options.skip),
        "budgets": [budget.text for budget in options.budget],
        "goals": options.goals,
        "roofline": options.roofline,
        "labelled": options.labelled is not None,
        "repeat": options.repeat,
        "once_s": options.once,
        "limit_s": options.limit,
        "quick": options.quick,
    }


def _private(options: argparse.Namespace, subjects: Sequence[Subject]) -> list[tuple[str, str]]:
    """Texts that must not appear in the report, and what appears instead."""
    found = list(private_texts(options.peers))
    for number, one in enumerate(options.files, start=1):
        found += [(str(one.path.resolve()), f"file-{number}"), (one.path.name, f"file-{number}")]
    for subject in subjects:
        given = [] if subject.bundle is None else [Path(subject.bundle)]
        for folder in (subject.folder, subject.plain, *given):
            if folder.is_dir():
                found += [(str(folder), subject.name), (folder.name, subject.name)]
    if options.labelled is not None:
        found.append((str(options.labelled.resolve()), "labelled"))
    return found


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _title, _done, _total: None
        return
    from tqdm import tqdm

    with tqdm(unit="run", leave=False, dynamic_ncols=True) as bar:

        def show(title: str, done: int, total: int) -> None:
            bar.total = total or None
            bar.set_description(title, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        yield show
