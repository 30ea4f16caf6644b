"""Command line: reproduce, train, mean, evaluate, gallery, export. Parses and calls; computes nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime import errors
from runtime.command import CommandParser, run_command

__all__ = ["main"]

_PROGRAM = "python -m export.pretrain"
_CONFIGS = Path(__file__).parent / "configs"
_STAGES = ("images", "rollouts", "settled", "boxes")
"""Configurations in the order they are trained in, each from the weights of the one before."""
_LAST = (("displaced", 2), ("coarse", 1))
"""Configurations of the last stage, all from the same weights, and how many runs of each, from seeds counted up."""


def main(arguments: list[str] | None = None) -> int:
    """Run one of the sub-commands; returns the exit code."""
    parser = CommandParser(prog=_PROGRAM, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    remake = commands.add_parser("reproduce", help="all stages and the bundle, as shipped; continues a killed run")
    remake.add_argument("--output", type=Path, required=True, help="folder of the runs and of the bundle")
    remake.add_argument("--seed", type=int, help="of the first stage, counted up for the next; not the shipped ones")
    run = commands.add_parser("train", help="train from synthetic images, continuing a killed run")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--output", type=Path, required=True)
    run.add_argument("--start", type=Path, help="checkpoint, or folder of a bundle, that a new run starts from")
    run.add_argument("--images", type=int, help="length of the run, instead of the configuration's")
    average = commands.add_parser("mean", help="mean of the weights of several runs of one network")
    average.add_argument("checkpoints", type=Path, nargs="+")
    average.add_argument("--output", type=Path, required=True, help="checkpoint to write")
    measure = commands.add_parser("evaluate", help="figures on a labelled folder with prompts.json")
    measure.add_argument("folder", type=Path)
    model = measure.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", type=Path)
    model.add_argument("--bundle", help="folder or name of a bundle, run by lite-infer itself")
    measure.add_argument("--volumes", action="store_true", help="3-D protocols instead of 2-D (with --bundle)")
    measure.add_argument("--backend", default="auto")
    measure.add_argument("--precision", default="auto")
    measure.add_argument("--quick", action="store_true", help="boxes only")
    measure.add_argument("--json", type=Path, help="write all figures here")
    draw = commands.add_parser("gallery", help="pictures of every object of a labelled folder, the worst first")
    source = draw.add_mutually_exclusive_group(required=True)
    source.add_argument("folder", type=Path, nargs="?")
    source.add_argument("--drawn", type=int, metavar="N", help="the worst answers on N drawn images, in one picture")
    draw.add_argument("--bundle", default="default")
    draw.add_argument("--output", type=Path, required=True, help="folder, one PNG a case; with --drawn the picture")
    convert = commands.add_parser("export", help="checkpoint to bundle")
    convert.add_argument("--checkpoint", type=Path, required=True)
    convert.add_argument("--output", type=Path, required=True, help="bundle folder")
    convert.add_argument(
        "--figures", type=Path, nargs="+", default=[], help="what evaluate --json wrote, to be quoted in the manifest"
    )
    convert.add_argument("--curve", type=Path, nargs="+", default=[], help="the same, of checkpoints on the way")
    convert.add_argument("--seeds", type=Path, nargs="+", default=[], help="the same, of models from other seeds")
    convert.add_argument("--int8", action="store_true", help="INT8 graphs as well, calibrated on drawn images")
    convert.add_argument("--dataset", default="labelled development folder", help="name of what was evaluated")
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    if options.command == "export":
        return _export(options)
    if options.command == "evaluate":
        return _evaluate(options)
    if options.command == "gallery":
        return _gallery(options)
    if options.command == "reproduce":
        with _resumable():
            return _reproduce(options.output, options.seed)
    if options.command == "mean":
        from export.pretrain.checkpoint import mean_checkpoint, write_checkpoint

        mean = mean_checkpoint(options.checkpoints)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(options.output, mean)
    if options.command == "train":
        from export.pretrain.config import load_config
        from export.pretrain.loop import train

        config = load_config(options.config)
        with _resumable():
            train(replace(config, images=options.images or config.images), options.output, options.start)
    return 0


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        msg = "interrupted; the same command goes on from the last checkpoint"
        raise errors.Cancelled(msg) from None


def _reproduce(output: Path, seed: int | None) -> int:
    from export.pretrain.bundle import write_bundle
    from export.pretrain.checkpoint import mean_checkpoint, write_checkpoint
    from export.pretrain.config import load_config
    from export.pretrain.int8 import add_int8
    from export.pretrain.loop import CHECKPOINT_NAME, train

    start = None
    for number, stage in enumerate(_STAGES):
        config = load_config(_CONFIGS / f"{stage}.json")
        train(config if seed is None else replace(config, seed=seed + number), output / stage, start)
        start = output / stage / CHECKPOINT_NAME
    means, ran = [], len(_STAGES)
    for stage, runs in _LAST:
        config, ends = load_config(_CONFIGS / f"{stage}.json"), []
        for number in range(runs):
            run = output / f"{stage}-{number + 1}"
            train(replace(config, seed=config.seed + number if seed is None else seed + ran), run, start)
            ends.append(run / CHECKPOINT_NAME)
            ran += 1
        means.append(output / f"{stage}.pt")
        write_checkpoint(means[-1], mean_checkpoint(ends))
    write_checkpoint(output / "mean.pt", mean_checkpoint(means))
    written = write_bundle(output / "mean.pt", output / "bundle")
    add_int8(written.parent, report=print)
    sys.stdout.write(f"{written}\n")
    return 0


def _export(options: argparse.Namespace) -> int:
    from export.pretrain.bundle import write_bundle
    from export.pretrain.card import Facts

    figures, curve, seeds = (
        [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        for paths in (options.figures, options.curve, options.seeds)
    )
    summary = _joined(figures) if figures else None
    written = write_bundle(options.checkpoint, options.output, Facts(summary, options.dataset, curve, seeds))
    if options.int8:
        from export.pretrain.int8 import add_int8

        add_int8(written.parent, report=print)
    sys.stdout.write(f"{written}\n")
    return 0


def _joined(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one model that were measured in several runs."""
    summary: dict[str, Any] = {"protocols": {}}
    for found in figures:
        summary["protocols"] |= found["protocols"]
        for table in ("by_modality", "by_size"):
            summary[table] = found.get(table) or summary.get(table, {})
    return summary


def _gallery(options: argparse.Namespace) -> int:
    from export.pretrain.gallery import write_drawn, write_gallery
    from export.pretrain.predictors import BundlePredictor
    from runtime import Session

    with Session(options.bundle, cache=False) as session:
        predictor = BundlePredictor(session)
        if options.drawn:
            written = [write_drawn(predictor, options.drawn, options.output)]
        else:
            written = write_gallery(predictor, options.folder, options.output)
        for path in written:
            sys.stdout.write(f"{path}\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _evaluate(options: argparse.Namespace) -> int:
    from export.pretrain.evaluate import evaluate_slices, format_table
    from export.pretrain.predictors import BundlePredictor, CheckpointPredictor

    if options.checkpoint is not None:
        if options.volumes:
            sys.stderr.write("--volumes runs the bundle's own propagation; export the checkpoint, give --bundle\n")
            return 2
        figures = evaluate_slices(
            CheckpointPredictor.from_file(options.checkpoint), options.folder, quick=options.quick, report=_say
        )
    else:
        from export.pretrain.evaluate_volumes import evaluate_volumes
        from runtime import Session

        with Session(options.bundle, backend=options.backend, precision=options.precision, cache=False) as session:
            if options.volumes:
                figures = evaluate_volumes(session, options.folder, report=_say)
            else:
                predictor = BundlePredictor(session)
                figures = evaluate_slices(predictor, options.folder, quick=options.quick, report=_say)
    summary = figures.summary()
    if options.checkpoint is not None:
        from export.pretrain.checkpoint import read_checkpoint

        state = read_checkpoint(options.checkpoint)
        summary |= {"images": state["images"], "seed": state["config"]["seed"]}
    if options.json is not None:
        options.json.write_text(json.dumps({**summary, "objects": figures.objects}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(format_table(summary) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(_PROGRAM, main))
