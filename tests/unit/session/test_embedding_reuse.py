"""Which embeddings a session finds again, and that they decode to the same."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import ENGINES, skip_without
from scenes import STORAGES, box_in
from tiny_bundle import (
    BOX,
    SCENE_SHAPE,
    disc,
    inside,
    open_session,
    scene_volume,
    unstored,
)

from runtime import _engine as engine_module
from runtime.cache import EmbeddingCache, content_digest
from runtime.segmentation import Segmentation

# The cache


def test_a_second_session_reads_the_embeddings_and_finds_the_same(bundle: Path, cache_folder: Path) -> None:
    results: list[Segmentation] = []
    for _ in range(2):
        with open_session(bundle) as session:
            results.append(session.segment(scene_volume(dtype=np.int16), box=BOX))
    first, second = results
    assert (first.timings["slices_encoded"], first.timings["slices_cached"]) == (7, 0)
    assert (second.timings["slices_encoded"], second.timings["slices_cached"]) == (0, 7)
    np.testing.assert_array_equal(first.label_map, second.label_map)
    assert (cache_folder / "embeddings").is_dir()


def test_another_box_and_another_storage_of_the_file_share_the_embeddings(bundle: Path) -> None:
    storage = STORAGES[13]
    with open_session(bundle) as session:
        session.segment(scene_volume(), box=BOX)
    with open_session(bundle) as session:
        volume = scene_volume(storage)
        axis = volume.slice_axis_of("axial")
        box = box_in(storage, (10, 20, 1, 30, 45, 7), SCENE_SHAPE)
        result = session.segment(volume, box=box, slice_axis=axis)
    assert result.timings["slices_encoded"] == 0
    np.testing.assert_array_equal(unstored(result.label_map, storage), inside((10, 20, 1, 30, 45, 7)))


def test_a_cached_embedding_decodes_to_the_same_logits(bundle: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 64), dtype=np.uint8)
    logits = []
    for cache in (True, True, False):
        with open_session(bundle, cache=cache) as session:
            logits.append(session.decode(session.encode(image), boxes=[[3, 4, 50, 30]]).low_res_logits)
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


def test_nothing_is_kept_on_disk_without_a_cache(bundle: Path, cache_folder: Path) -> None:
    with open_session(bundle, cache=False) as session:
        session.segment(scene_volume(), box=BOX)
        assert session.segment(scene_volume(), box=BOX).timings["slices_encoded"] == 0, "memory is kept"
    assert not (cache_folder / "embeddings").exists()


@pytest.mark.parametrize("changes", [{"window": (100, 150)}, {"slice_axis": 1}], ids=["another window", "another axis"])
def test_other_pixels_are_other_embeddings(bundle: Path, changes: dict[str, Any]) -> None:
    with open_session(bundle) as session:
        session.segment(scene_volume(), box=BOX)
        result = session.segment(scene_volume(), box=BOX, **changes)
    assert result.timings["slices_cached"] == 0


def test_another_engine_does_not_share_the_embeddings(bundle: Path) -> None:
    for engine in ENGINES:
        skip_without(engine)
    for engine in ENGINES:
        with open_session(bundle, backend=engine, precision="fp32") as session:
            assert session.segment(scene_volume(), box=BOX).timings["slices_cached"] == 0


def test_the_key_covers_pixels_graph_engine_precision_and_transform(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = engine_module.embedding_key
    keys: list[tuple[bytes, dict[str, str]]] = []

    def recorded(content: bytes, **parts: str) -> str:
        keys.append((content, parts))
        return original(content, **parts)

    monkeypatch.setattr(engine_module, "embedding_key", recorded)
    image, _ = disc()
    with open_session(bundle, cache=False) as session:
        session.encode(image)
        facts = session.manifest
    ((content, parts),) = keys
    assert content == content_digest(image)
    assert parts["graph_sha256"] == facts.files["encoder.onnx"].sha256
    assert parts["backend"] == f"onnxruntime {version('onnxruntime')}"
    assert parts["precision"] == "fp32"
    for fact in ("longest_side", "area", "min_max", "bottom_right", "stored_dtype", "float16"):
        assert fact in parts["transform"], fact


def test_a_cache_of_the_caller_stays_open(bundle: Path) -> None:
    with EmbeddingCache(disk_bytes=0) as cache:
        for _ in range(2):
            with open_session(bundle, cache=cache) as session:
                assert session.cache is cache
                result = session.segment(scene_volume(), box=BOX)
        assert result.timings["slices_encoded"] == 0
        assert cache.info().hits == 7
