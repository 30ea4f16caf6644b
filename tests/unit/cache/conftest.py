"""The folder that an embedding cache writes to, empty or with one entry."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import A, embedding

from runtime.cache import EmbeddingCache


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "embeddings"


@pytest.fixture
def stored(directory: Path) -> Path:
    """A folder that holds one entry, A."""
    with EmbeddingCache(directory=directory) as cache:
        cache.put(A, embedding(1))
    return directory
