"""``lite-infer-export merge``: merge checkpoints by given settings, or search for them.

Knows options and how results are printed; does nothing itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.errors import PromptError

if TYPE_CHECKING:
    from export.merge import Group, MergeSettings

__all__ = ["add_merge", "parse_group"]

_EPILOG = """\
examples:
  lite-infer-export merge --base sam.pth --model medsam.pth --weight 0.5 --output merged.pth
  lite-infer-export merge --base sam.pth --model medsam.pth --method ties --density 0.2 \\
      --group image_encoder.blocks.0-3:weight=0.1 --group mask_decoder:method=linear,weight=1 --output merged.pth
  lite-infer-export merge --base sam.pth --model medsam.pth --family medsam --search labelled --trials 100 \\
      --objective multi --output merged.pth"""


def add_merge(commands: Any) -> argparse.ArgumentParser:
    """Add the command to a parser's commands."""
    from export._merge_methods import METHODS

    parser: argparse.ArgumentParser = commands.add_parser(
        "merge",
        help="several checkpoints of one layout -> one, without training",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", type=Path, required=True, metavar="FILE", help="checkpoint that is merged into")
    parser.add_argument("--model", type=Path, action="append", default=[], metavar="FILE", help="may be repeated")
    parser.add_argument(
        "--output", "-o", type=Path, metavar="FILE", help="checkpoint to write, and FILE.json beside it"
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument("--list-groups", action="store_true", help="print the layer groups of the base, and stop")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    given = parser.add_argument_group("settings")
    given.add_argument(
        "--method", choices=METHODS, action="append", help="default: linear; with --search those to choose from"
    )
    given.add_argument("--weight", type=float, action="append", metavar="W", help="of each --model, in their order")
    given.add_argument("--density", type=float, metavar="D", help="share of changes that ties and dare keep")
    given.add_argument("--scale", type=float, metavar="S", help="of task vectors")
    given.add_argument("--seed", type=int, default=0, help="of dare's drawing, and of a search")
    given.add_argument(
        "--group", action="append", default=[], metavar="NAME:KEY=VALUE,...", help="settings of some layers; see epilog"
    )
    given.add_argument("--settings", type=Path, metavar="JSON", help="settings, or the record of an earlier merge")
    given.add_argument("--pareto", type=int, metavar="N", help="take member N of that record's Pareto set, from 0")
    search = parser.add_argument_group("search")
    search.add_argument("--search", type=Path, metavar="DIR", help="labelled folder with prompts.json")
    search.add_argument("--trials", type=int, default=50, metavar="N", help="in all, earlier ones included")
    search.add_argument("--objective", choices=("single", "multi"), default="single", help="multi: one per modality")
    search.add_argument("--family", help="what the base is a checkpoint of, where its names do not tell")
    search.add_argument("--held-out", type=float, default=1 / 3, metavar="SHARE", help="cases kept from the search")
    search.add_argument("--objects", type=int, default=8, metavar="N", help="at most so many of a case count")
    search.add_argument("--layers", type=int, default=2, metavar="N", help="numbered layers that make a group")
    search.add_argument("--study", type=Path, metavar="FILE", help="trials; default: FILE.study beside the output")
    parser.set_defaults(command=_merge)
    return parser


def _merge(options: argparse.Namespace) -> int:
    if options.list_groups:
        return _list_groups(options)
    if options.output is None or not options.model:
        msg = "the following arguments are required: --model, --output"
        raise PromptError(msg)
    return _given(options) if options.search is None else _search(options)


def _list_groups(options: argparse.Namespace) -> int:
    from export._merge_groups import layer_groups
    from export.load import read_checkpoint

    tensors = max((one.tensors for one in read_checkpoint(options.base).state_dicts), key=len)
    for group, names in layer_groups(tensors, layers=options.layers).items():
        print(f"{group:55} {len(names):5d} tensors {sum(tensors[name].numel() for name in names):12,d} weights")
    return 0


def _given(options: argparse.Namespace) -> int:
    from export.merge import merge_checkpoints

    record = merge_checkpoints(options.base, options.model, options.output, _settings(options), force=options.force)
    if not options.quiet:
        print(f"done: {options.output}; what was merged is in {record.name}")
    return 0


def _settings(options: argparse.Namespace) -> MergeSettings:
    """Settings of a merge that is not searched for."""
    from export.merge import MergeSettings, read_settings

    single = {"weights": options.weight, "density": options.density, "scale": options.scale}
    if options.settings is not None:
        if options.method or options.group or any(value is not None for value in single.values()):
            msg = "--settings says it all; leave out --method, --weight, --density, --scale and --group"
            raise PromptError(msg)
        return read_settings(options.settings, options.pareto)
    methods = options.method or ["linear"]
    if len(methods) > 1:
        msg = (
            f"{len(methods)} methods; a merge has one (--group gives layers another), a --search chooses among several"
        )
        raise PromptError(msg)
    chosen = {name: value for name, value in single.items() if value is not None}
    document = {"method": methods[0], "seed": options.seed, "groups": list(map(parse_group, options.group)), **chosen}
    return msgspec.convert(msgspec.to_builtins(document), type=MergeSettings)


def parse_group(text: str) -> Group:
    """Read ``NAME:KEY=VALUE,...``; the weights of several models are joined by ``/``. PromptError if malformed."""
    from export.merge import Group

    name, colon, rest = text.rpartition(":")
    try:
        pairs = dict(pair.split("=") for pair in rest.split(","))
        found: dict[str, Any] = {"names": name}
        for key, value in pairs.items():
            if key == "weight":
                found["weights"] = [float(weight) for weight in value.split("/")]
            else:
                found[key] = value if key == "method" else float(value)
        if colon and name:
            return msgspec.convert(found, type=Group)
    except (ValueError, msgspec.ValidationError):
        pass
    msg = f"--group {text!r}: wanted NAME:KEY=VALUE,... with method, weight (A/B for two models), density, scale"
    raise PromptError(msg)


def _search(options: argparse.Namespace) -> int:
    from export.merge_search import SearchOptions, search_merge

    unfit = [name for name in ("weight", "density", "scale", "settings") if getattr(options, name) is not None]
    if unfit or options.group:
        msg = f"--{(unfit or ['group'])[0]} is what a search finds; leave it out, or leave out --search"
        raise PromptError(msg)
    if not (0 < options.held_out < 1 and options.trials > 0 and options.objects > 0 and options.layers > 0):
        msg = "wanted --held-out between 0 and 1, and --trials, --objects and --layers from 1"
        raise PromptError(msg)
    record = search_merge(
        options.base,
        options.model,
        options.output,
        SearchOptions(
            folder=options.search,
            trials=options.trials,
            objective=options.objective,
            methods=tuple(dict.fromkeys(options.method or ())),
            held_out=options.held_out,
            objects=options.objects,
            layers=options.layers,
            seed=options.seed,
            family=options.family,
            study=options.study,
            force=options.force,
            report=(lambda _: None) if options.quiet else _line,
        ),
    )
    if not options.quiet:
        _print_scores(json.loads(record.read_text(encoding="utf-8"))["search"])
        print(f"done: {options.output}; settings and scores are in {record.name}")
    return 0


def _line(text: str) -> None:
    print(text, flush=True)


def _print_scores(search: dict[str, Any]) -> None:
    """Print parents and merge side by side."""
    print(f"\n{'mean Dice':10} {'searched on':>12} {'held out':>10}   95 % interval")
    for name, parts in search["scores"].items():
        low, high = parts["held_out"]["ci95"]
        held_out = parts["held_out"]["mean"]
        print(f"{name:10} {parts['search']['mean']:12.4f} {held_out:10.4f}   {low:.4f} to {high:.4f}")
    if search["pareto"]:
        print(f"Pareto set: {len(search['pareto'])} settings; take one with --settings RECORD --pareto N")
