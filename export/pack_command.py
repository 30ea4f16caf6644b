"""``lite-infer-export pack-set``: bundles of experts into one set.

Knows options; does nothing itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import PromptError

if TYPE_CHECKING:
    from export.pack import Member

__all__ = ["add_pack_set"]


def add_pack_set(commands: Any) -> argparse.ArgumentParser:
    """Add the command to a parser's commands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "pack-set",
        help="bundles of experts -> a set that chooses among them by modality",
        epilog="example: lite-infer-export pack-set --expert CT,MR,PET=daft-3d --expert x-ray=daft-xray --output daft",
    )
    parser.add_argument(
        "--expert",
        action="append",
        required=True,
        metavar="MODALITY,...=BUNDLE",
        help="what images show, and the bundle for them; repeated",
    )
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="SET", help="folder to write")
    parser.add_argument("--name", help="of the set; default: the folder's")
    parser.add_argument("--title", help="default: the name")
    parser.add_argument("--force", action="store_true", help="replace an existing set")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.set_defaults(command=_pack_set)
    return parser


def _pack_set(options: argparse.Namespace) -> int:
    from export.pack import pack_set

    name = options.name or options.output.name
    members = [_member(text) for text in options.expert]
    pack_set(members, options.output, name=name, title=options.title or name, force=options.force)
    if not options.quiet:
        print(f"done: {options.output}, {len(members)} experts")
    return 0


def _member(text: str) -> Member:
    from export.pack import Member

    names, equals, bundle = text.partition("=")
    modalities = tuple(name.strip() for name in names.split(","))
    if not (equals and bundle and all(modalities)):
        msg = f"--expert {text!r}: wanted MODALITY,...=BUNDLE, for example CT,MR=bundles/daft-3d"
        raise PromptError(msg)
    return Member(Path(bundle), modalities)
