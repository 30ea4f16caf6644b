"""Embeddings to store, and whether they come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def embedding(seed: int, nbytes: int = 1000) -> dict[str, np.ndarray]:
    return {"image_embeddings": np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)}


def same(found: dict[str, np.ndarray] | None, wanted: dict[str, np.ndarray]) -> bool:
    return (
        found is not None
        and list(found) == list(wanted)
        and all(found[name].dtype == wanted[name].dtype for name in wanted)
        and all(np.array_equal(found[name], wanted[name]) for name in wanted)
    )


def entry_file(directory: Path, key: str = A) -> Path:
    return directory / f"{key}.embedding"
