"""``lite-infer models``: parse, call the registry, print.

Knows argparse and terminals; decides nothing about what may be pulled.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from runtime.bundle import available_bundles
from runtime.command import CommandParser
from runtime.errors import BundleError, Cancelled, DownloadError, LiteInferError, PromptError
from runtime.registry import report
from runtime.registry.archive import import_archive, pack
from runtime.registry.content import content_in
from runtime.registry.fetch import Progress, is_offline
from runtime.registry.index import Offer, index_source, offers, write_index
from runtime.registry.published import all_published, find_published
from runtime.registry.pull import Pulled, pull_bundle, pull_checkpoint
from runtime.registry.store import Store
from runtime.registry.web import shown

__all__ = ["main"]

_EPILOG = """\
examples:
  lite-infer models list                                  what is here, what can be had, where the field publishes
  lite-infer models pull NAME --index https://models.example.org/index.json
  lite-infer models pack NAME -o NAME.zip                 for a machine without internet, where this installs it:
  lite-infer models import NAME.zip
  lite-infer ct.nii.gz --bundle NAME --box 10,20,80,90

environment: LITE_INFER_HOME (where models are kept), LITE_INFER_INDEX (as --index), LITE_INFER_ENDPOINT (mirrors that
serve files under their sha256, separated by commas), LITE_INFER_OFFLINE or HF_HUB_OFFLINE (1: never use the network),
HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE, REQUESTS_CA_BUNDLE."""

_Command = Callable[[argparse.Namespace, Store], int]


def main(argv: list[str]) -> int:
    """Run the command; LiteInferError is left to `runtime.command.run_command`."""
    options = _parser().parse_args(argv or ["--help"])
    logging.basicConfig(level=logging.WARNING, format="lite-infer: %(message)s")
    command: _Command = options.command
    return command(options, Store())


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="lite-infer models",
        description="Bundles on this computer, bundles and checkpoints that can be had.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", parser_class=CommandParser)

    def action(name: str, command: _Command, help_text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=help_text, description=help_text)
        added.add_argument("--debug", action="store_true", help="show tracebacks")
        added.set_defaults(command=command)
        return added

    listing = action("list", _list, "list bundles here, bundles offered, and published checkpoints")
    show = action("show", _show, "say all that is known of one")
    pull = action("pull", _pull, "fetch a bundle that is offered, or a published checkpoint")
    bring = action("import", _import, "install a bundle from a zip archive")
    send = action("pack", _pack, "write a bundle into a zip archive")
    index = action("index", _index, "write the index.json of a folder of bundles, to offer them")
    path = action("path", _path, "print where a bundle or checkpoint is")
    remove = action("remove", _remove, "remove bundles and checkpoints that were pulled or imported")

    for each in (show, pull, path):
        each.add_argument("name", metavar="NAME")
    for each in (listing, show, pull):
        each.add_argument("--index", metavar="URL", help="URL or file of an index of bundles, as LITE_INFER_INDEX")
        each.add_argument("--offline", action="store_true", help="never use the network, as LITE_INFER_OFFLINE=1")
    for each in (listing, show):
        each.add_argument("--json", action="store_true", help="print as JSON")
    pull.add_argument("--url", help="where a published checkpoint may be had, as you know it")
    pull.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    bring.add_argument("archive", type=Path, metavar="ZIP")
    send.add_argument("bundle", metavar="NAME", help="name or folder of a bundle or a set")
    send.add_argument("-o", "--output", type=Path, metavar="ZIP", help="default: NAME-VERSION.zip")
    index.add_argument("folder", type=Path, metavar="DIR")
    remove.add_argument("names", nargs="*", metavar="NAME")
    remove.add_argument("--unfinished", action="store_true", help="remove what interrupted downloads left")
    for each in (pull, bring, send):
        each.add_argument("--force", action="store_true", help="replace what has the name")
    for each in (pull, bring):
        each.add_argument("--sha256", type=_digest, metavar="HEX", help="what the digest of the file must be")
    return parser


def _digest(text: str) -> str:
    digest = text.strip().lower().removeprefix("sha256:")
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        msg = "wanted 64 hexadecimal digits"
        raise argparse.ArgumentTypeError(msg)
    return digest


def _list(options: argparse.Namespace, store: Store) -> int:
    try:
        offered = offers(options.index, offline=is_offline(options.offline))
    except DownloadError as error:
        print(f"lite-infer: {error}", file=sys.stderr)
        offered = []
    summary = {
        "store": str(store.root),
        "bundles": [_bundle(listing.name, listing.folder) for listing in available_bundles()],
        "offered": [_offer(offer) for offer in offered],
        "published": [_published(each.name, store) for each in all_published()],
        "unfinished_bytes": sum(path.stat().st_size for path in store.unfinished()),
    }
    print(json.dumps(summary, indent=2) if options.json else report.listing(summary))
    return 0


def _show(options: argparse.Namespace, store: Store) -> int:
    name = options.name
    found: dict[str, Any] = {}
    here = _here(name)
    if here is not None:
        found["bundle"] = _bundle(name, here)
    if find_published(name) is not None:
        found["published"] = _published(name, store)
    offer = _offered(options, needed=not found)
    if offer is not None:
        found["offered"] = _offer(offer)
    if not found:
        raise _unknown(options)
    print(json.dumps(found, indent=2) if options.json else report.details(found))
    return 0


def _pull(options: argparse.Namespace, store: Store) -> int:
    name, offline = options.name, is_offline(options.offline)
    published, here = find_published(name), _here(name)
    offer = None
    if not (options.sha256 or options.url):
        offer = _offered(options, needed=published is None and here is None)
    say = (lambda _: None) if options.quiet else print
    try:
        with _progress(options) as progress:
            if offer is not None:
                say(report.licence(_offer(offer)))
                pulled = pull_bundle(offer, store, force=options.force, offline=offline, progress=progress)
            elif published is not None:
                say(report.licence(_published(name, store)))
                pulled = pull_checkpoint(
                    published, store, sha256=options.sha256, url=options.url, offline=offline, progress=progress
                )
            elif here is not None:
                pulled = Pulled(here, was_there=True)
            else:
                raise _unknown(options)
    except KeyboardInterrupt:
        msg = "interrupted; what has arrived is kept, the same command goes on from there"
        raise Cancelled(msg) from None
    if pulled.was_there:
        say("is here already")
    if offer is None and published is not None:
        say(report.conversion(published.name, published.family, pulled.path))
    return _say_path(pulled.path)


def _say_path(path: Path) -> int:
    print(path)
    return 0


def _here(name: str) -> Path | None:
    """Folder of a bundle or set that is found by name."""
    return next((listing.folder for listing in available_bundles() if listing.name == name), None)


def _offered(options: argparse.Namespace, *, needed: bool) -> Offer | None:
    """What the index offers under the name; an index that cannot be had is said, and no error unless needed."""
    try:
        found = offers(options.index, offline=is_offline(options.offline))
    except DownloadError as error:
        if needed:
            raise
        print(f"lite-infer: {error}", file=sys.stderr)
        return None
    return next((offer for offer in found if offer.entry.name == options.name), None)


def _unknown(options: argparse.Namespace) -> BundleError:
    where = index_source(options.index)
    none = "no index of bundles is named (--index or LITE_INFER_INDEX)"
    asked = none if where is None else f"not offered by {shown(where)}"
    return BundleError(
        f"{options.name!r} is neither here nor published: {asked}; lite-infer models list shows what there is"
    )


def _import(options: argparse.Namespace, store: Store) -> int:
    try:
        folder = import_archive(options.archive, store, sha256=options.sha256, force=options.force)
    except KeyboardInterrupt:
        msg = "interrupted; nothing was installed"
        raise Cancelled(msg) from None
    print(report.licence(_bundle(folder.name, folder)))
    return _say_path(folder)


def _pack(options: argparse.Namespace, store: Store) -> int:
    del store
    path, digest = pack(options.bundle, options.output, force=options.force)
    print(f"{path}\nsha256 {digest}")
    return 0


def _index(options: argparse.Namespace, store: Store) -> int:
    del store
    return _say_path(write_index(options.folder))


def _path(options: argparse.Namespace, store: Store) -> int:
    found = _here(options.name) or store.checkpoint(options.name)
    if found is None:
        msg = f"{options.name!r} is not here; lite-infer models list shows what is"
        raise BundleError(msg)
    return _say_path(found)


def _remove(options: argparse.Namespace, store: Store) -> int:
    if not options.names and not options.unfinished:
        msg = "nothing to remove; give names, or --unfinished; see lite-infer models remove --help"
        raise PromptError(msg)
    with store.changing():
        for name in options.names:
            removed = store.remove(name)
            print(f"removed {', '.join(map(str, removed.folders))} ({report.size(removed.bytes)})")
        if options.unfinished:
            print(f"removed {report.size(store.remove_unfinished())} of unfinished downloads")
    return 0


def _bundle(name: str, folder: Path) -> dict[str, Any]:
    """A bundle or set here as JSON; one that cannot be opened is listed with the reason."""
    try:
        content = content_in(folder)
    except LiteInferError as error:
        return {"name": name, "folder": str(folder), "problem": str(error)}
    families = dict.fromkeys(manifest.family for manifest in content.manifests)
    precisions = set.intersection(*(set(manifest.graphs) for manifest in content.manifests))
    return {
        "name": name,
        "title": content.title,
        "version": content.version,
        "family": ", ".join(families),
        "licence": msgspec.to_builtins(content.licence),
        "precisions": sorted(precisions),
        "bytes": content.bytes,
        "folder": str(folder),
        **({"modalities": list(content.modalities)} if content.modalities else {}),
    }


def _offer(offer: Offer) -> dict[str, Any]:
    entry: dict[str, Any] = msgspec.to_builtins(offer.entry)
    return {**entry, "url": shown(offer.place)}


def _published(name: str, store: Store) -> dict[str, Any]:
    path = store.checkpoint(name)
    return {**msgspec.to_builtins(find_published(name)), "path": None if path is None else str(path)}


@contextlib.contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Progress | None]:
    """A bar on a terminal, nothing elsewhere."""
    if options.quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, leave=False) as bar:

        def progress(there: int, total: int | None) -> None:
            bar.total = total
            bar.update(there - bar.n)

        yield progress
