"""Checkpoints of the published systems, made by the rule of the goldens, and the bundles converted from them."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="conversion needs the export extra")


@pytest.fixture(scope="session")
def checkpoint_of(conformance: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a system's checkpoint, laid out as the published file; made once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    rule = runpy.run_path(str(conformance / "make_checkpoint.py"))

    def checkpoint(system: str) -> Path:
        path = folder / f"{system}.pth"
        if not path.exists():
            rule["build"](conformance / system / "manifest.json", path)
        return path

    return checkpoint


@pytest.fixture(scope="session")
def bundle_of(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a system's bundle in a precision, converted once; the family is named, as some share a layout."""
    from export.convert import ConvertOptions, convert

    folder = tmp_path_factory.mktemp("bundles")

    def bundle(system: str, precision: str = "fp32") -> Path:
        path = folder / f"{system}_{precision}"
        if not path.exists():
            convert(checkpoint_of(system), path, family=system, options=ConvertOptions(precision=precision))
        return path

    return bundle
