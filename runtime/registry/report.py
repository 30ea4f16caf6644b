"""What ``lite-infer models`` prints for people, from the same facts that ``--json`` prints for programs.

Knows text only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["conversion", "details", "licence", "listing", "size"]


def size(nbytes: int) -> str:
    """Bytes as people read them."""
    return f"{nbytes / (1 << 20):.1f} MiB"


def licence(facts: dict[str, Any]) -> str:
    """Name of a model and the terms it comes with."""
    terms = facts["licence"]
    if isinstance(terms, dict):
        rest = "".join(f", {terms[key]}" for key in ("notice", "url") if terms.get(key))
        return _plain(f"{facts['name']} {facts['version']}: {facts['title']}, licence {terms['spdx']}{rest}")
    return f"{facts['name']}: {facts['title']}, licence of the repository {terms or 'none'}, {facts['repository']}"


def _plain(text: str) -> str:
    """Text of others without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def conversion(name: str, family: str | None, path: Path | str) -> str:
    """What to do with a checkpoint."""
    option = f" --family {family}" if family else ""
    file = f'"{path}"' if " " in str(path) else path
    command = f"lite-infer-export convert{option} --checkpoint {file} --output {name.replace('_', '-')}"
    return f"this is PyTorch's checkpoint; make a bundle of it with: {command}"


def listing(summary: dict[str, Any]) -> str:
    """All that is here, offered and published."""
    lines = ["on this computer (--bundle NAME):"]
    lines += [_here(each) for each in summary["bundles"]]
    lines.append("offered (lite-infer models pull NAME):")
    lines += [f"  {licence(each)}, {size(each['bytes'])}" for each in summary["offered"]]
    if not summary["offered"]:
        lines.append("  nothing; name an index of bundles with --index or LITE_INFER_INDEX")
    lines.append("published checkpoints, to be converted (lite-infer models show NAME):")
    lines += [
        f"  {each['name']}: {each['title']}, {each['licence'] or 'no licence, so never pulled'}"
        f"{', here' if each['path'] else ', can be pulled' if each.get('sha256') else ''}"
        for each in summary["published"]
    ]
    if summary["unfinished_bytes"]:
        left = size(summary["unfinished_bytes"])
        lines.append(f"{left} of unfinished downloads; lite-infer models remove --unfinished removes them")
    return "\n".join(lines)


def _here(facts: dict[str, Any]) -> str:
    if "problem" in facts:
        return f"  {facts['name']}: cannot be used: {_plain(facts['problem'])}"
    names = [_plain(name) for name in facts.get("modalities", ())]
    experts = f", a set for {', '.join(names)}" if names else ""
    return f"  {licence(facts)}{experts}, {size(facts['bytes'])}, {facts['folder']}"


def details(found: dict[str, Any]) -> str:
    """All that is known of one name."""
    lines = []
    if "bundle" in found:
        lines.append(f"on this computer: {_here(found['bundle']).strip()}")
    if "offered" in found:
        offer = found["offered"]
        lines.append(f"offered: {licence(offer)}, {size(offer['bytes'])}, {_plain(offer['url'])}")
    if "published" in found:
        lines += _of_published(found["published"])
    return "\n".join(lines)


def _of_published(facts: dict[str, Any]) -> list[str]:
    terms = facts["licence"] or "none, so it is never pulled"
    lines = [f"published: {facts['title']}, {facts['repository']}", f"  licence of the repository: {terms}"]
    lines += [f"  {page['url']} ({page['what']})" for page in facts["pages"]]
    if facts.get("note"):
        lines.append(f"  {facts['note']}")
    if facts["path"]:
        lines.append(f"  here: {facts['path']}")
    elif facts["licence"] and facts.get("sha256"):
        lines.append(f"  sha256 {facts['sha256']}; lite-infer models pull {facts['name']} fetches it")
    elif facts["licence"]:
        place = "" if facts.get("direct") else " --url URL"
        lines.append(
            "  its sha256 is not known: download it yourself, or name a digest that you trust with: "
            f"lite-infer models pull {facts['name']} --sha256 HEX{place}"
        )
    if facts.get("family"):
        lines.append(f"  {conversion(facts['name'], facts['family'], facts['path'] or facts.get('file') or 'FILE')}")
    elif not facts.get("note"):
        lines.append("  lite-infer does not convert it")
    return lines
