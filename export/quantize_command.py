"""``lite-infer-export quantize``: smaller or faster copies of bundles; the options of calibration.

Knows options; does nothing itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_calibration", "add_quantize"]


def add_calibration(command: argparse.ArgumentParser) -> None:
    """Add what INT8 graphs need to a command."""
    command.add_argument(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="images to calibrate int8 with and to measure on; else three drawn ones are measured",
    )
    command.add_argument(
        "--max-drop", type=_points, default=0.5, metavar="POINTS", help="Dice points that it may cost; default: 0.5"
    )


def _points(text: str) -> float:
    """Dice points, 0 to 100."""
    points = float(text)
    if not 0 <= points <= 100:
        raise ValueError
    return points


def add_quantize(commands: Any) -> argparse.ArgumentParser:
    """Add the command to a parser's commands."""
    from export.quantize import QUANTIZED

    parser: argparse.ArgumentParser = commands.add_parser("quantize", help="bundle -> smaller or faster bundle")
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or name")
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="BUNDLE", help="folder to write")
    parser.add_argument("--precision", choices=QUANTIZED, default="int8", help="default: int8")
    add_calibration(parser)
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.set_defaults(command=_quantize)
    return parser


def _quantize(options: argparse.Namespace) -> int:
    from export.quantize import QuantizeOptions, quantize

    how = QuantizeOptions(
        precision=options.precision,
        max_drop=options.max_drop,
        force=options.force,
        report=(lambda _: None) if options.quiet else print,
    )
    quantize(options.bundle, options.output, calibration=options.calibration, options=how)
    return 0
