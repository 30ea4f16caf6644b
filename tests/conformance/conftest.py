"""Checkpoints of the published systems, made by the rule of the goldens, and the bundles converted from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="conversion needs the export extra")

from export.families import load_family
from export.load import load_model, match, read_checkpoint
from export.parity import make_bundle, make_checkpoint


@pytest.fixture(scope="session")
def _work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="session")
def checkpoint_of(conformance: Path, _work: Path) -> Callable[[str], Path]:
    """Path of a system's checkpoint, laid out as the published file; made once."""
    return lambda system: make_checkpoint(conformance, system, _work)


@pytest.fixture(scope="session")
def bundle_of(conformance: Path, _work: Path) -> Callable[..., Path]:
    """Folder of a system's bundle in a precision, converted once."""
    return lambda system, precision="fp32": make_bundle(conformance, system, _work, precision=precision)


@pytest.fixture(scope="module")
def bundle(request: pytest.FixtureRequest, bundle_of: Callable[..., Path]) -> Path:
    """Bundle of the system that the module of tests names."""
    return bundle_of(request.module.SYSTEM)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> Any:
    """The torch model of that system, with its pseudo-weights."""
    system = request.module.SYSTEM
    return load_model(*match(read_checkpoint(checkpoint_of(system)), [load_family(system)]))
