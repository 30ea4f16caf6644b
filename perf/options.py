"""Words of ``lite-infer perf``: what may be asked for, and what goes without saying.

Knows argparse and the names of cases; measures nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.budget import Budget, parse_budget
from perf.cases import CASE_NAMES, DEFAULT_CASES, QUICK_CASES, SCALING_CASES, UserFile
from perf.peers import parse_peers
from runtime.command import CommandParser
from runtime.errors import PromptError

__all__ = ["parse_options"]

BACKENDS = ("openvino", "onnxruntime")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "int8-bf16")
_LIMITS = ("AVX512_CORE_VNNI", "AVX2_VNNI", "AVX2")
_QUICK_SECONDS = 45.0
_BUDGET_HELP = "[BUNDLE/]CASE[:QUANTITY]=LIMIT, such as ct-1-npz=0.5 (of the reference) or ct-1=floor+0.6; repeatable"
_PEER_HELP = "somebody's program for the challenge's NPZ, with {input} and {output} in its command; repeatable"
_SKIP_HELP = "leave out what CONFIGURATION/CASE (or /start, /graphs, /labelled) matches, with * and ?; repeatable"
_DESCRIPTION = "Measure how fast lite-infer is on this computer: whole processes and the stages inside them."
_EPILOG = f"""\
cases: {", ".join(CASE_NAMES)}

examples:
  lite-infer perf --quick                              a first look, in less than a minute
  lite-infer perf --output laptop.json                 processes and stages, in some minutes
  lite-infer perf --full --output laptop.json          with all series, the roofline and the project's goals
  lite-infer perf --backends openvino --threads 1,2,4  how it scales
  lite-infer perf --bundle ./daft --modality CT --cases ct-1-npz --budget ct-1-npz=0.67
  lite-infer perf --cases ct-1 --file ct.nii.gz --box 60,70,20,140,160,55
  lite-infer perf --cases ct-1-npz --peer "theirs=./theirs {{input}} {{output}}" --budget "ct-1-npz=0.33*theirs"
  lite-infer perf compare before.json after.json       ratios with intervals
  lite-infer perf report laptop.json                   table and HTML of an earlier run

exit codes: 0 done, 1 something could not be measured or a budget was missed (the table says what), 2 usage, 130
interrupted; what was measured before Ctrl-C is printed and written. What each figure contains is said in
perf/README.md. Close other programs, plug a laptop in, and leave it alone while this runs."""


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


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the words of the command and settle what depends on what else was asked for; PromptError on wrong use."""
    options = _parser().parse_args(argv)
    if options.quick:
        options.limit = min(options.limit or _QUICK_SECONDS, _QUICK_SECONDS)
    options.cases = options.cases or (QUICK_CASES if options.quick else () if options.files else DEFAULT_CASES)
    options.precisions = options.precisions or ("auto", "fp32")
    options.backends = options.backends or (BACKENDS[:1] if options.quick else BACKENDS)
    options.references = () if not options.reference else ("default",) if options.quick else ("default", "fp32")
    if options.full:
        options.scaling = options.roofline = options.goals = True
    if options.scaling:
        options.cases = (*options.cases, *(name for name in SCALING_CASES if name not in options.cases))
    if options.html is None:
        options.html = options.output.with_suffix(".html")
    known = (*CASE_NAMES, *SCALING_CASES)
    unknown = sorted(set(options.cases) - set(known))
    if unknown:
        msg = f"case {', '.join(unknown)}: wanted some of {', '.join(known)}"
        raise PromptError(msg)
    options.peers = parse_peers(options.peers)
    options.budget = [_budget(text, options) for text in options.budget]
    return options


def _budget(text: str, options: argparse.Namespace) -> Budget:
    """Parse a budget and see that it can be judged."""
    budget = parse_budget(text)
    if budget.case not in options.cases and not budget.case.startswith("file-"):
        msg = f"budget {text!r}: case {budget.case} is not measured; wanted some of {', '.join(options.cases)}"
        raise PromptError(msg)
    if budget.peer not in (None, *(one.name for one in options.peers)):
        msg = f"budget {text!r}: there is no peer {budget.peer}; give --peer {budget.peer}=COMMAND"
        raise PromptError(msg)
    if budget.against.startswith("reference") and (not options.reference or not _may_be_npz(budget.case)):
        msg = f"budget {text!r}: no reference is measured on {budget.case}; give a case *-npz, without --no-reference"
        raise PromptError(msg)
    return budget


def _may_be_npz(case: str) -> bool:
    return case.endswith("-npz") or case.startswith("file-")


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
    group.add_argument("--roofline", action="store_true", help="add peaks of the machine and graphs layer by layer")
    group.add_argument("--labelled", type=Path, metavar="DIR", help="add Dice on labelled images, beside baselines")
    group.add_argument("--full", action="store_true", help="--scaling --roofline --goals")
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
    group.add_argument("--backends", type=_known(BACKENDS), metavar="A,B", help="default: both")
    group.add_argument("--precisions", type=_known(_PRECISIONS), metavar="A,B", help="default: auto,fp32")
    group.add_argument("--threads", type=_counts, default=(None,), metavar="N,M", help="default: physical cores")
    group.add_argument("--isa", type=_isa, default=(None,), metavar="A,B", help=f"native or {', '.join(_LIMITS)}")
    group.add_argument("--peer", dest="peers", action="append", default=[], metavar="NAME=COMMAND", help=_PEER_HELP)
    group.add_argument("--skip", action="append", default=[], metavar="PATTERN", help=_SKIP_HELP)
    group.add_argument("--repeat", type=_positive, default=5, metavar="N", help="interleaved rounds (default 5)")
    group.add_argument("--once", type=float, metavar="S", help="do not repeat what takes longer than S seconds a round")
    group.add_argument("--limit", type=float, metavar="S", help="begin no measurement after that many seconds")
    group.add_argument("--quick", action="store_true", help="fewer cases, precision auto, less than a minute")
    group = parser.add_argument_group("judge")
    group.add_argument("--budget", action="append", default=[], metavar="B", help=_BUDGET_HELP)
    group.add_argument("--goals", action="store_true", help="show which of the project's own goals are met")
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, default=Path("lite-infer-perf.json"), metavar="FILE", help="JSON")
    group.add_argument("--html", type=Path, metavar="FILE", help="default: beside the JSON file")
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
