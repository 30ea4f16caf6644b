"""Command line: train, evaluate, export. Parses and calls; computes nothing."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run one of the sub-commands; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m export.pretrain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train", help="train from synthetic images, continuing a killed run")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--output", type=Path, required=True)
    run.add_argument("--images", type=int, help="length of the run, instead of the configuration's")
    options = parser.parse_args(arguments)
    if options.command == "train":
        from export.pretrain.config import load_config
        from export.pretrain.loop import train

        config = load_config(options.config)
        train(replace(config, images=options.images or config.images), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
