"""A tiny bundle of each kind, and one open session for the tests that only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import open_session, tiny_bundle

from runtime import Session
from runtime import _engine as engine_module


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes alone, no scores."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "boxes")


@pytest.fixture(scope="session")
def clicks_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes, points and masks; two candidates with scores."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "clicks", clicks=True)


@pytest.fixture(scope="session")
def session(bundle: Path) -> Iterator[Session]:
    """One session for all tests that only read; embeddings stay in memory."""
    with open_session(bundle, cache=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def clicks(clicks_bundle: Path) -> Iterator[Session]:
    with open_session(clicks_bundle, cache=False) as opened:
        yield opened


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Role and streams of every graph that is opened, in that order."""
    graphs: list[tuple[str, int]] = []
    original = engine_module.open_backend

    def noted(name: str, found: Any, role: str, options: Any) -> Any:
        graphs.append((role, options.streams))
        return original(name, found, role, options)

    monkeypatch.setattr(engine_module, "open_backend", noted)
    return graphs
