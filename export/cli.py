"""The command line ``lite-infer-export``: parse, call, print.

Knows argparse and exit codes; does nothing itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runtime
from runtime import errors
from runtime.command import CommandParser, run_command

if TYPE_CHECKING:
    from export.families import Family
    from runtime.manifest import Prompts

__all__ = ["main"]

FAILED = 1
"""Exit code of a verification that found a difference."""

_ROW = "{:8}  {:11}  {:22}  {:>8}  {:>8}  {}"
_FAMILY_ROW = "{:17} {:20} {:10} {:22} {:22} {}"
_PACKAGES = ("torch", "nncf", "onnx", "onnxscript", "onnx_ir", "safetensors", "optuna")

_EPILOG = """\
examples:
  lite-infer-export families
  lite-infer-export convert --checkpoint lite_medsam.pth --output lite-medsam
  lite-infer-export quantize lite-medsam --calibration scans/ --output lite-medsam-int8
  lite-infer-export verify lite-medsam --goldens shared/conformance/lite_medsam
  lite-infer-export parity shared/conformance
  lite-infer ct.nii.gz --bundle ./lite-medsam --box 10,20,80,90"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 done, 1 a check failed, 2 usage, 4 bad checkpoint or bundle."""
    return run_command("lite-infer-export", _run, argv)


def _run(arguments: list[str]) -> int:
    try:
        options = _parser().parse_args(arguments or ["--help"])
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _PACKAGES:
            raise
        msg = f"{error.name} is not installed; install it with: pip install 'lite-infer[export]'"
        raise errors.BackendUnavailable(msg) from error


def _parser() -> argparse.ArgumentParser:
    from export.convert import FORMATS, PRECISIONS
    from export.families import FAMILIES
    from export.merge_command import add_merge
    from export.pack_command import add_pack_set
    from export.parity_command import add_parity
    from export.quantize_command import add_calibration, add_quantize
    from runtime.backends import BACKENDS

    parser = CommandParser(
        prog="lite-infer-export",
        description="Convert published PyTorch checkpoints into bundles, and show that they are right.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lite-infer {runtime.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=CommandParser)

    convert = commands.add_parser("convert", help="checkpoint -> bundle")
    convert.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="published PyTorch weights")
    convert.add_argument("--output", "-o", type=Path, required=True, metavar="BUNDLE", help="folder to write")
    convert.add_argument("--family", choices=FAMILIES, help="default: found out from the names of the weights")
    convert.add_argument(
        "--extra", type=Path, metavar="FILE", help="second file that some families take (see families)"
    )
    convert.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the stored weights, or of graphs")
    add_calibration(convert)
    convert.add_argument(
        "--format", dest="formats", choices=(*FORMATS, "both"), default="onnx", help="both engines read onnx"
    )
    convert.add_argument("--name", help="of the bundle; default: the family's")
    convert.add_argument("--force", action="store_true", help="replace an existing bundle")
    convert.add_argument("--unsafe-pickle", action="store_true", help="run code from the file: only if you trust it")
    convert.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    convert.set_defaults(command=_convert)

    verify = commands.add_parser("verify", help="replay what the authors' code gave")
    verify.add_argument("bundle", type=Path, metavar="BUNDLE")
    verify.add_argument("--goldens", type=Path, required=True, metavar="DIR", help="folder with case_0.npz")
    verify.add_argument("--backend", choices=(*BACKENDS, "all"), default="all")
    verify.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verify.set_defaults(command=_verify)

    families = commands.add_parser("families", help="list the systems that convert")
    families.add_argument("--json", action="store_true", help="print JSON instead of a table")
    families.set_defaults(command=_families)
    added = (add_quantize(commands), add_parity(commands), add_merge(commands), add_pack_set(commands))
    for command in (convert, verify, families, *added):
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _convert(options: argparse.Namespace) -> int:
    from export.convert import FORMATS, ConvertOptions, convert

    convert(
        options.checkpoint,
        options.output,
        family=options.family,
        options=ConvertOptions(
            precision=options.precision,
            formats=FORMATS if options.formats == "both" else (options.formats,),
            name=options.name,
            force=options.force,
            unsafe_pickle=options.unsafe_pickle,
            extra=options.extra,
            calibration=options.calibration,
            max_drop=options.max_drop,
            report=(lambda _: None) if options.quiet else print,
        ),
    )
    return 0


def _verify(options: argparse.Namespace) -> int:
    from export.verify import verify
    from runtime.backends import BACKENDS

    backends = BACKENDS if options.backend == "all" else (options.backend,)
    if not options.json:
        print(_ROW.format("case", "backend", "stage", "found", "limit", "").rstrip())
    checks = []
    for check in verify(options.bundle, options.goldens, backends=backends):
        checks.append(check)
        if not options.json:
            found, limit = f"{check.found:.1e}", f"{check.limit:.1e}"
            verdict = "ok" if check.passed else "FAILED"
            print(_ROW.format(check.case, check.backend, check.stage, found, limit, verdict), flush=True)
    failed = [check for check in checks if not check.passed]
    if options.json:
        rows = [asdict(check) | {"passed": check.passed} for check in checks]
        print(json.dumps({"passed": not failed, "checks": rows}, indent=2))
    else:
        print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    return FAILED if failed else 0


def _families(options: argparse.Namespace) -> int:
    from export.families import load_families

    families = load_families()
    if options.json:
        print(json.dumps([_row(family) for family in families], indent=2))
        return 0
    rows = list(map(_row, families))
    print(_FAMILY_ROW.format("family", "system", "input", "prompts", "GFLOPs a slice", "licence"))
    for row in rows:
        row["gflops"] = f"{row['encoder_gflops']} + {row['decoder_gflops']} a prompt"
        columns = (row["name"], row["title"], row["input"], ", ".join(row["prompts"]), row["gflops"], row["licence"])
        print(_FAMILY_ROW.format(*columns))
    for row in rows:
        print(
            f"\n{row['name']}\n  paper    {row['paper']}\n  code     {row['repository']}\n  weights  {row['weights']}"
        )
        if row["extra"] is not None:
            print(f"  --extra  {row['extra']['title']}, {row['extra']['licence']}: {row['extra']['weights']}")
            print(f"           {row['extra']['without'] or 'required'}")
    return 0


def _row(family: Family) -> dict[str, Any]:
    """One family as JSON."""
    return {
        "name": family.name,
        "title": family.title,
        "input": "x".join(map(str, family.facts.input.size)),
        "prompts": _prompts(family.facts.prompts),
        "encoder_gflops": family.gflops[0],
        "decoder_gflops": family.gflops[1],
        "licence": family.licence.spdx,
        "paper": family.paper,
        "repository": family.repository,
        "weights": family.weights,
        "extra": _extra_row(family),
    }


def _extra_row(family: Family) -> dict[str, Any] | None:
    """The second file of a family as JSON."""
    extra = family.extra
    if extra is None:
        return None
    return {
        "title": extra.title,
        "weights": extra.weights,
        "licence": extra.licence.spdx,
        "required": extra.required,
        "without": extra.without,
    }


def _prompts(prompts: Prompts) -> list[str]:
    """What a system is prompted with, in the words of the command line."""
    mask = [] if prompts.mask is None else ["scribble" if prompts.mask.kind == "scribble" else "mask"]
    box = ["auto"] if prompts.finds_alone else ["box"] if prompts.box is not None else []
    points = ["points"] if prompts.points is not None else []
    modality = ["modality"] if prompts.modality is not None else []
    return [*box, *points, *mask, *modality, *prompts.vectors]
