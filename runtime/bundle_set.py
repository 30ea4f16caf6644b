"""A set of bundles that share everything but their weights: one expert for each group of modalities.

``set.json`` and its rules are in ``docs/bundle-format.md``, section 10. Knows folders, manifests and names of
modalities. Must not know engines, images or prompts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from runtime._manifest_records import Name
from runtime.arrival import bundle_files
from runtime.bundle import SET_NAME, Bundle, open_bundle, search_folders
from runtime.errors import BundleError, BundleIntegrityError, BundleVersionError, ManifestError, PromptError
from runtime.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, load_manifest
from runtime.types import whole

__all__ = [
    "SET_NAME",
    "SET_VERSION",
    "BundleSet",
    "Expert",
    "SetFacts",
    "check_experts",
    "folded",
    "model_files",
    "open_model",
    "parse_set",
    "set_files",
    "shared_facts",
]

SET_VERSION = 1
_DIGITS = 12
_Text = Annotated[str, Meta(min_length=1, max_length=64)]


class Expert(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One bundle of a set: its folder, what it is for, and the sha256 of its manifest."""

    bundle: Name
    modalities: Annotated[tuple[_Text, ...], Meta(min_length=1)]
    manifest_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    dicom: tuple[_Text, ...] = ()


class SetFacts(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``set.json`` holds."""

    format_version: int
    name: Name
    title: str
    experts: Annotated[tuple[Expert, ...], Meta(min_length=1, max_length=64)]


@dataclass(frozen=True)
class BundleSet:
    """An opened set: its facts, and its bundles in the order of the experts, whose graphs are not touched yet."""

    folder: Path
    facts: SetFacts
    bundles: tuple[Bundle, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of all modalities, in the order of their index."""
        return tuple(name for expert in self.facts.experts for name in expert.modalities)

    def choose(self, modality: str | int | None, dicom: str | None) -> int:
        """Return the number of the expert for a modality, or where none is given for a DICOM modality.

        PromptError lists the modalities where it is given wrong or not known.
        """
        owners = [number for number, expert in enumerate(self.facts.experts) for _ in expert.modalities]
        if isinstance(modality, str):
            for number, expert in enumerate(self.facts.experts):
                if folded(modality) in map(folded, (*expert.modalities, *expert.dicom)):
                    return number
        elif modality is not None:
            if 0 <= whole(modality, "modality") < len(owners):
                return owners[whole(modality, "modality")]
        elif dicom is not None:
            for number, expert in enumerate(self.facts.experts):
                if dicom in expert.dicom:
                    return number
        if modality is not None:
            found = f"modality {modality!r}"
        else:
            found = "no modality" if dicom is None else f"no modality given, and none is for DICOM's {dicom}"
        known = ", ".join(f"{index} {name}" for index, name in enumerate(self.modalities))
        msg = f"{found}: set {self.facts.name!r} has an expert for each of {known}; say which (--modality, modality=)"
        raise PromptError(msg)


def folded(name: str) -> str:
    """Name of a modality without case, spaces and hyphens: ``X-Ray`` is ``xray``."""
    return "".join(character for character in name.casefold() if character not in " -_")


def open_model(name_or_path: str | os.PathLike[str] | None = None) -> Bundle | BundleSet:
    """Open a bundle as `open_bundle` does, or a set of bundles from its folder or by its name."""
    folder = _set_folder(name_or_path)
    return open_bundle(name_or_path) if folder is None else _open_set(folder.absolute())


def _set_folder(name_or_path: str | os.PathLike[str] | None) -> Path | None:
    """Folder of a set; None where this is not the name or the path of one."""
    if name_or_path is None:
        return None
    given = Path(name_or_path).expanduser()
    is_word = isinstance(name_or_path, str) and name_or_path not in {"", ".", ".."} and given.name == name_or_path
    for folder in (*(one / given.name for one in search_folders() if is_word), given):
        if (folder / MANIFEST_NAME).is_file():
            return None
        if (folder / SET_NAME).is_file():
            return folder
    return None


def _open_set(folder: Path) -> BundleSet:
    facts = _read_facts(folder)
    bundles = tuple(_open_expert(folder, expert) for expert in facts.experts)
    check_experts(facts, [bundle.manifest for bundle in bundles], folder / SET_NAME)
    return BundleSet(folder, facts, bundles)


def check_experts(facts: SetFacts, manifests: Sequence[Manifest], path: Path) -> None:
    """Refuse experts that differ in more than their weights, or take a modality themselves.

    BundleError or ManifestError names the first one; `path` is that of ``set.json``.
    """
    first = shared_facts(manifests[0])
    for expert, manifest in zip(facts.experts, manifests, strict=True):
        if manifest.prompts.modality is not None:
            msg = f"{path.parent / expert.bundle} takes a modality itself and cannot be an expert; open it alone"
            raise BundleError(msg)
        different = [field for field, value in shared_facts(manifest).items() if value != first[field]]
        if different:
            msg = f"{path}: {expert.bundle} has another {different[0]} than {facts.experts[0].bundle}"
            raise ManifestError(msg + "; the experts of a set differ in their weights alone")


def set_files(folder: Path) -> list[str]:
    """Relative paths of a set's files, those of its bundles among them; ManifestError if the folder is no set."""
    experts = [expert.bundle for expert in _read_facts(folder).experts]
    return [SET_NAME, *(f"{name}/{file}" for name in experts for file in bundle_files(folder / name))]


def model_files(folder: Path) -> list[str]:
    """Relative paths of the files of a bundle or a set; ManifestError if the folder is neither."""
    is_set = (folder / SET_NAME).is_file() and not (folder / MANIFEST_NAME).is_file()
    return set_files(folder) if is_set else bundle_files(folder)


def shared_facts(manifest: Manifest) -> dict[str, object]:
    """Fields of a manifest that the experts of a set have in common."""
    fields = ("layout_revision", "input", "embedding", "prompts", "output", "propagation")
    return {field: getattr(manifest, field) for field in fields}


def _read_facts(folder: Path) -> SetFacts:
    path = folder / SET_NAME
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); wanted a set of bundles"
        raise ManifestError(msg) from error
    return parse_set(text, path)


def parse_set(text: bytes, path: Path) -> SetFacts:
    """Parse and validate the content of ``set.json``, found at `path`; ManifestError or BundleVersionError."""
    if len(text) > MAX_MANIFEST_BYTES:
        msg = f"{path} is longer than {MAX_MANIFEST_BYTES} bytes; make the set again"
        raise ManifestError(msg)
    try:
        data = msgspec.json.decode(text)
        version = data.get("format_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SET_VERSION:
            msg = f"{path}: format_version {version}, this version reads up to {SET_VERSION}; upgrade lite-infer"
            raise BundleVersionError(msg)
        facts = msgspec.convert(data, SetFacts)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        msg = f"{path}: {error}; see docs/bundle-format.md, section 10"
        raise ManifestError(msg) from error
    return _without_contradictions(facts, path)


def _without_contradictions(facts: SetFacts, path: Path) -> SetFacts:
    problems = []
    if facts.format_version < 1:
        problems.append(f"format_version {facts.format_version}")
    for what, names in (
        ("modality", [folded(name) for expert in facts.experts for name in expert.modalities]),
        ("DICOM modality", [code for expert in facts.experts for code in expert.dicom]),
        ("bundle", [expert.bundle for expert in facts.experts]),
    ):
        problems += [f"{what} {name!r} twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if problems:
        msg = f"{path}: {'; '.join(problems)}"
        raise ManifestError(msg)
    return facts


def _open_expert(folder: Path, expert: Expert) -> Bundle:
    """Open the bundle of an expert, whose manifest must be the one that the set was made with."""
    inside = folder / expert.bundle
    path = inside / MANIFEST_NAME
    try:
        if not path.resolve(strict=True).is_relative_to(folder.resolve()):
            msg = f"{path}: leads out of the set; wanted a bundle inside; make the set again"
            raise BundleIntegrityError(msg)
        with path.open("rb") as file:
            found = hashlib.sha256(file.read(MAX_MANIFEST_BYTES + 1)).hexdigest()
    except (OSError, RuntimeError) as error:
        msg = f"{path}: the manifest of an expert is missing or cannot be read; make the set again"
        raise BundleIntegrityError(msg) from error
    if found != expert.manifest_sha256:
        wanted = expert.manifest_sha256[:_DIGITS]
        msg = f"{path}: sha256 {found[:_DIGITS]}..., wanted {wanted}...; it was changed: make the set again"
        raise BundleIntegrityError(msg)
    return Bundle(inside, load_manifest(inside))
