"""``lite-infer perf``: parse, measure, print the table, write the JSON file.

Knows argparse, terminals and exit codes; measures nothing itself.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perf.cases import CASE_NAMES, DEFAULT_CASES, QUICK_CASES, SCALING_CASES, Case, UserFile, make_cases
from perf.machine import describe_machine
from perf.measure import Measurer
from perf.plan import Subject, configurations
from perf.processes import launch
from perf.recorder import Recorder
from perf.records import Option, Report, encode_report
from perf.report import Context, build_report, check_writable, write_report
from perf.subjects import make_subjects
from perf.suite import Outcome, Progress, deadline, run_suite
from perf.table import format_report
from runtime.command import CommandParser
from runtime.errors import PromptError

__all__ = ["main"]

_BACKENDS = ("openvino", "onnxruntime")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_LIMITS = ("AVX512_CORE_VNNI", "AVX2_VNNI", "AVX2")
_QUICK_SECONDS = 45.0
_DESCRIPTION = "Measure how fast lite-infer is on this computer: whole processes and the stages inside them."
_EPILOG = f"""\
cases: {", ".join(CASE_NAMES)}

examples:
  lite-infer perf --quick                              a first look, in less than a minute
  lite-infer perf --output laptop.json                 everything, in some minutes
  lite-infer perf --backends openvino --threads 1,2,4  how it scales
  lite-infer perf --cases ct-1 --file ct.nii.gz --box 60,70,20,140,160,55

exit codes: 0 done, 1 something could not be measured (the table says what), 2 usage, 130 interrupted; what was
measured before Ctrl-C is printed and written. What each figure contains is said in perf/README.md. Close other
programs, plug a laptop in, and leave it alone while this runs."""


class _AddFile(argparse.Action):
    """Begin a file of the user's; the ``--box`` and ``--volume`` that follow belong to it."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        namespace.files = [*namespace.files, UserFile(Path(values))]


class _AddToFile(argparse.Action):
    """Give the last file a box or a time point."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        if not namespace.files:
            parser.error(f"{option_string} belongs to a file; give --file before it")
        last = namespace.files[-1]
        change = {"volume": values} if self.dest == "volume" else {"boxes": (*last.boxes, values)}
        namespace.files = [*namespace.files[:-1], dataclasses.replace(last, **change)]


def main(argv: Sequence[str]) -> int:
    """Run the command; LiteInferError is left to ``runtime.cli.main``, which knows messages and exit codes."""
    options = _options(argv)
    check_writable(options.output)
    report = _measure(options)
    write_report(report, options.output)
    print(encode_report(report) if options.json else format_report(report))
    if not options.json:
        print(f"\nwritten   {options.output}")
    if report.stopped == "interrupted":
        return 130
    return 1 if any(one.status == "failed" for one in report.configurations) else 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    options = _parser().parse_args(argv)
    if options.quick:
        options.limit = min(options.limit or _QUICK_SECONDS, _QUICK_SECONDS)
    options.cases = options.cases or (QUICK_CASES if options.quick else () if options.files else DEFAULT_CASES)
    options.precisions = options.precisions or (("auto",) if options.quick else ("auto", "fp32"))
    if options.scaling:
        options.cases = (*options.cases, *(name for name in SCALING_CASES if name not in options.cases))
    known = (*CASE_NAMES, *SCALING_CASES)
    unknown = sorted(set(options.cases) - set(known))
    if unknown:
        msg = f"case {', '.join(unknown)}: wanted some of {', '.join(known)}"
        raise PromptError(msg)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="lite-infer perf",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("what")
    group.add_argument("--cases", type=_names, default=(), metavar="A,B", help=f"default: {','.join(DEFAULT_CASES)}")
    group.add_argument("--file", dest="files", action=_AddFile, default=[], metavar="F", help="your own; repeatable")
    group.add_argument("--box", action=_AddToFile, metavar="BOX", help="of the --file before it; repeatable")
    group.add_argument("--volume", action=_AddToFile, type=int, metavar="N", help="time point of the --file before it")
    group.add_argument("--scaling", action="store_true", help=f"add {SCALING_CASES[0]} to {SCALING_CASES[-1]}")
    group = parser.add_argument_group("how")
    group.add_argument("--bundle", action="append", metavar="NAME", help="name or folder; repeatable")
    group.add_argument("--modality", metavar="NAME", help="what the images show, for bundles that ask")
    group.add_argument("--no-reference", dest="reference", action="store_false", help="leave the plain pipeline out")
    group.add_argument(
        "--plain",
        action="append",
        default=[],
        metavar="NAME",
        help="run the plain pipeline on this bundle in place of the --bundle of the same place; repeatable",
    )
    group.add_argument("--backends", type=_known(_BACKENDS), default=_BACKENDS, metavar="A,B", help="default: both")
    group.add_argument("--precisions", type=_known(_PRECISIONS), metavar="A,B", help="default: auto,fp32")
    group.add_argument("--threads", type=_counts, default=(None,), metavar="N,M", help="default: physical cores")
    group.add_argument("--isa", type=_isa, default=(None,), metavar="A,B", help=f"native or {', '.join(_LIMITS)}")
    group.add_argument("--repeat", type=_positive, default=5, metavar="N", help="interleaved rounds (default 5)")
    group.add_argument("--limit", type=float, metavar="S", help="begin no measurement after that many seconds")
    group.add_argument("--quick", action="store_true", help="fewer cases, precision auto, less than a minute")
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, default=Path("lite-infer-perf.json"), metavar="FILE", help="JSON")
    group.add_argument("--json", action="store_true", help="print the JSON rather than the table")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _known(choices: Sequence[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        found = _names(text)
        unknown = sorted(set(found) - set(choices))
        if unknown or not found:
            msg = f"{', '.join(unknown) or 'nothing'}: wanted some of {', '.join(choices)}"
            raise argparse.ArgumentTypeError(msg)
        return found

    return parse


def _isa(text: str) -> tuple[str | None, ...]:
    names = tuple(name.upper() for name in _names(text))
    return tuple(None if name == "NATIVE" else name for name in _known(("NATIVE", *_LIMITS))(",".join(names)))


def _positive(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        msg = f"{text!r}: wanted a whole number from 1"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in _names(text))


def _measure(options: argparse.Namespace) -> Report:
    begun = time.monotonic()
    time_left = deadline(options.limit)
    subjects = make_subjects(options.bundle or [None], options.modality, options.plain)
    kinds = (options.backends, options.precisions, options.threads, options.isa)
    chosen = configurations(subjects, *kinds, reference=options.reference)
    recorder = Recorder()
    cases: list[Case] = []
    outcome = Outcome(0, "interrupted")
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="lite-infer-perf-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch).resolve()
        measurer = Measurer(folder, recorder, launch)
        with contextlib.suppress(KeyboardInterrupt), _progress() as progress:
            progress("draw images", 0, 0)
            cases = make_cases(options.cases, options.files, folder, twins=options.reference)
            chosen = [one for one in chosen if any(one.takes(case) for case in cases)]
            machine = describe_machine(measurer.capabilities())
            outcome = run_suite(measurer, chosen, cases, repeat=options.repeat, time_left=time_left, progress=progress)
        context = Context(machine, chosen, cases, _asked(options), _private(options, subjects))
        return build_report(recorder, context, outcome, time.monotonic() - begun)


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
        "reference": options.reference,
        "repeat": options.repeat,
        "limit_s": options.limit,
        "quick": options.quick,
    }


def _private(options: argparse.Namespace, subjects: Sequence[Subject]) -> list[tuple[str, str]]:
    """Texts that must not appear in the report, and what appears instead."""
    found: list[tuple[str, str]] = []
    for number, one in enumerate(options.files, start=1):
        found += [(str(one.path.resolve()), f"file-{number}"), (one.path.name, f"file-{number}")]
    for one in subjects:
        for folder in (one.plain, *([] if one.bundle is None else [Path(one.bundle)])):
            if folder.is_dir():
                found += [(str(folder), one.name), (folder.name, one.name)]
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
