"""The schema of ``manifest.json``: parse, validate, write.

The normative text is ``docs/bundle-format.md``; this module follows it. It is the only module that
``export`` shares with the runtime, so it knows msgspec and the error tree and nothing else: no graph, no
backend, no numpy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec

from runtime._contradictions import contradictions
from runtime._manifest_records import (
    BoxPrompt,
    ChainSettings,
    Closer,
    Crop,
    EmbeddingTensor,
    FileRecord,
    GraphFiles,
    GraphSet,
    Input,
    Licence,
    LoopSettings,
    Manifest,
    MaskPrompt,
    Metric,
    Normalise,
    Output,
    PointPrompt,
    Prompts,
    Propagation,
    Source,
)
from runtime._missing import missing_fields
from runtime.errors import BundleVersionError, ManifestError, OutputError

__all__ = [
    "FORMAT_VERSION",
    "LAYOUT_REVISION",
    "MANIFEST_NAME",
    "MAX_MANIFEST_BYTES",
    "BoxPrompt",
    "ChainSettings",
    "Closer",
    "Crop",
    "EmbeddingTensor",
    "FileRecord",
    "GraphFiles",
    "GraphSet",
    "Input",
    "Licence",
    "LoopSettings",
    "Manifest",
    "MaskPrompt",
    "Metric",
    "Normalise",
    "Output",
    "PointPrompt",
    "Prompts",
    "Propagation",
    "Source",
    "load_manifest",
    "parse_manifest",
    "write_manifest",
]

FORMAT_VERSION = 1
"""Version of the container: the folder and the manifest's own layout."""
LAYOUT_REVISION = 1
"""Newest revision of the graphs' inputs and outputs that this version understands."""
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20


def _check_versions(data: Any) -> None:
    if not isinstance(data, dict):
        msg = f"{MANIFEST_NAME} holds a {type(data).__name__}; wanted a JSON object"
        raise ManifestError(msg)
    for key, newest in (("format_version", FORMAT_VERSION), ("layout_revision", LAYOUT_REVISION)):
        value = data.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            msg = f"{MANIFEST_NAME}: {key} is {value!r}; wanted a whole number from 1 to {newest}"
            raise ManifestError(msg)
        if value > newest:
            msg = (
                f"{MANIFEST_NAME}: {key} {value}, this version reads up to {newest}; "
                "upgrade lite-infer or convert again"
            )
            raise BundleVersionError(msg)


def parse_manifest(text: bytes | str) -> Manifest:
    """Parse and validate a manifest.

    Parameters
    ----------
    text : bytes or str
        JSON, at most `MAX_MANIFEST_BYTES`.

    Returns
    -------
    manifest : Manifest
        The validated manifest.

    Raises
    ------
    BundleVersionError
        If the bundle was written for a newer version.
    ManifestError
        If it is no JSON object, lacks fields (all are named), has a field of a wrong type or value, or
        contradicts itself.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        msg = f"{MANIFEST_NAME} has {len(text)} bytes; wanted at most {MAX_MANIFEST_BYTES}"
        raise ManifestError(msg)
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        msg = f"{MANIFEST_NAME} is not valid JSON ({error}); convert or download the bundle again"
        raise ManifestError(msg) from error
    _check_versions(data)
    try:
        manifest = msgspec.convert(data, Manifest)
    except (msgspec.ValidationError, RecursionError) as error:
        missing = missing_fields(Manifest, data)  # it names the first one alone
        lacks = f" lacks {', '.join(missing)}; convert the bundle again"
        msg = f"{MANIFEST_NAME}{lacks if missing else f': {error}; see docs/bundle-format.md'}"
        raise ManifestError(msg) from error
    return validate(manifest)


def validate(manifest: Manifest) -> Manifest:
    """Return the manifest if it does not contradict itself; ManifestError names every contradiction."""
    problems = contradictions(manifest)
    if problems:
        msg = f"{MANIFEST_NAME}: {'; '.join(problems)}"
        raise ManifestError(msg)
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """Read and validate ``manifest.json`` of a bundle folder; errors as `parse_manifest`."""
    path = folder / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); wanted a bundle folder with {MANIFEST_NAME}"
        raise ManifestError(msg) from error
    return parse_manifest(text)


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Validate a manifest and write it into a bundle folder, atomically; OutputError where that fails."""
    text = json.dumps(msgspec.to_builtins(validate(manifest)), indent=2, ensure_ascii=False) + "\n"
    parse_manifest(text)
    path = folder / MANIFEST_NAME
    temporary = path.with_name(f".{MANIFEST_NAME}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}); check the folder and the space on the disk"
        raise OutputError(msg) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
