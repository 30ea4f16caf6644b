"""What a model consists of, be it a bundle or a set of bundles: one file that tells, and the digests of all others.

Knows manifests and ``set.json``; knows no archive, network or store. The file that tells is ``manifest.json`` or
``set.json``; whoever trusts it can trust every other file, because it states their digests or those of the manifests
that do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.bundle_set import SET_NAME, check_experts, parse_set
from runtime.errors import BundleIntegrityError, ManifestError
from runtime.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, FileRecord, Licence, Manifest, parse_manifest

__all__ = ["Content", "Head", "content_in", "content_of", "head_in"]

Head = Literal["manifest.json", "set.json"]
"""Name of the file that tells what there is."""

_DIGITS = 12


@dataclass(frozen=True)
class Content:
    """A bundle, or a set of bundles.

    Attributes
    ----------
    name, version, title : str
        Its own; a set's version is the beginning of its digest.
    licence : Licence
        Of a set whose experts have several, all of them.
    head : Head
        ``manifest.json`` or ``set.json``.
    text : bytes
        What that file holds.
    files : mapping of str to FileRecord
        Every other file by its relative path.
    manifests : tuple of Manifest
        The bundle's, or those of a set's experts.
    modalities : tuple of str
        What a set has an expert for; empty for a bundle.
    """

    name: str
    version: str
    title: str
    licence: Licence
    head: Head
    text: bytes
    files: Mapping[str, FileRecord]
    manifests: tuple[Manifest, ...]
    modalities: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Digest of the file that tells."""
        return hashlib.sha256(self.text).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files but that one."""
        return sum(record.bytes for record in self.files.values())


def content_of(head: Head, text: bytes, read: Callable[[str, str], bytes]) -> Content:
    """Tell what a model consists of.

    Parameters
    ----------
    head : str
        ``manifest.json`` or ``set.json``.
    text : bytes
        What that file holds.
    read : callable
        Gives the content of another file by its relative path and the digest that it must have, which is verified here
        again; asked for the manifests of a set's experts.

    Returns
    -------
    content : Content
        All of it.

    Raises
    ------
    ManifestError
        If the file, or the manifest of an expert, is none, or experts differ in more than their weights.
    BundleIntegrityError
        If a manifest is not the one that the set was made with.
    """
    if head == MANIFEST_NAME:
        one = parse_manifest(text)
        return Content(one.name, one.version, one.title, one.licence, head, text, dict(one.files), (one,))
    facts = parse_set(text, Path(head))
    files: dict[str, FileRecord] = {}
    manifests = []
    for expert in facts.experts:
        relative = f"{expert.bundle}/{MANIFEST_NAME}"
        inner = read(relative, expert.manifest_sha256)
        if hashlib.sha256(inner).hexdigest() != expert.manifest_sha256:
            msg = f"{relative}: is not the manifest that set {facts.name!r} was made with; make the set again"
            raise BundleIntegrityError(msg)
        manifest = parse_manifest(inner)
        files[relative] = FileRecord(sha256=expert.manifest_sha256, bytes=len(inner))
        files |= {f"{expert.bundle}/{file}": record for file, record in manifest.files.items()}
        manifests.append(manifest)
    check_experts(facts, manifests, Path(head))
    return Content(
        name=facts.name,
        version=hashlib.sha256(text).hexdigest()[:_DIGITS],
        title=facts.title,
        licence=_joined([manifest.licence for manifest in manifests]),
        head=head,
        text=text,
        files=files,
        manifests=tuple(manifests),
        modalities=tuple(name for expert in facts.experts for name in expert.modalities),
    )


def content_in(folder: Path) -> Content:
    """Tell what a folder with a model consists of; files are not verified. ManifestError if it holds none."""
    head = head_in(folder)
    return content_of(head, _read(folder / head), lambda relative, _: _read(folder / relative))


def head_in(folder: Path) -> Head:
    """Name of the file that tells what a folder holds: ``manifest.json`` where it has one, else ``set.json``."""
    is_set = (folder / SET_NAME).is_file() and not (folder / MANIFEST_NAME).is_file()
    return "set.json" if is_set else "manifest.json"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); wanted a bundle or a set of bundles"
        raise ManifestError(msg) from error
    if len(text) > MAX_MANIFEST_BYTES:
        msg = f"{path}: has more than {MAX_MANIFEST_BYTES} bytes; convert again"
        raise ManifestError(msg)
    return text


def _joined(licences: list[Licence]) -> Licence:
    """One licence where all are alike, else the expression that all of them are."""
    if all(licence == licences[0] for licence in licences):
        return licences[0]
    names = list(dict.fromkeys(licence.spdx for licence in licences))
    notices = list(dict.fromkeys(licence.notice for licence in licences if licence.notice))
    return Licence(spdx=" AND ".join(names), notice="; ".join(notices) or None)
