"""A web server that misbehaves on demand, and a store of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from web_site import Site, running_site

from runtime.registry import fetch
from runtime.registry.store import Store


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site on this machine; attempts follow each other without a pause, and no proxy or mirror is in the way."""
    for name in ("LITE_INFER_ENDPOINT", "LITE_INFER_INDEX", "LITE_INFER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(fetch, "_PAUSE_SECONDS", 0.0)
    with running_site() as found:
        yield found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for models, not yet made."""
    monkeypatch.setenv("LITE_INFER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LITE_INFER_MODELS", raising=False)
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Store:
    return Store()
