"""EmbeddingCache: what it returns, what it keeps, what it refuses, and what its keys stand for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from stores import A, B, C, embedding, entry_file, same

from runtime.cache import CacheInfo, EmbeddingCache, content_digest, embedding_key
from runtime.directories import cache_directory
from runtime.errors import InferenceError, LiteInferError, SessionStateError

DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "float16", "int32", "float32", "int64", "float64"]


# What goes in comes out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 5), (1, 2, 1, 3, 1, 2, 2)])
def test_every_dtype_and_shape_comes_back_from_memory_and_from_disk(
    dtype: str, shape: tuple[int, ...], directory: Path
) -> None:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    tensors = {"first": values, "zweites/ä": np.asfortranarray(values[..., None])}
    with EmbeddingCache(directory=directory) as cache:
        cache.put(A, tensors)
        in_memory = cache.get(A)
    with EmbeddingCache(directory=directory) as cache:
        on_disk = cache.get(A)
    assert same(in_memory, tensors)
    assert same(on_disk, tensors)
    assert in_memory is not None
    assert on_disk is not None
    for tensor in (*in_memory.values(), *on_disk.values()):
        assert (tensor.flags.c_contiguous, tensor.flags.aligned, tensor.flags.writeable) == (
            True,
            True,
            False,
        )


def test_big_endian_tensors_come_back_with_the_same_values(directory: Path) -> None:
    with EmbeddingCache(directory=directory, memory_bytes=0) as cache:
        cache.put(A, {"t": np.array([1.5, -2.0], dtype=">f4")})
        found = cache.get(A)
    assert same(found, {"t": np.array([1.5, -2.0], dtype="<f4")})


def test_nan_and_negative_zero_keep_their_bits(directory: Path) -> None:
    values = np.array([np.nan, -0.0, np.inf, 6e-8], dtype=np.float16)
    with EmbeddingCache(directory=directory, memory_bytes=0) as cache:
        cache.put(A, {"t": values})
        found = cache.get(A)
    assert found is not None
    assert found["t"].tobytes() == values.tobytes()


def test_a_later_change_of_the_array_does_not_reach_the_cache() -> None:
    tensors = embedding(1)
    with EmbeddingCache(disk_bytes=0) as cache:
        cache.put(A, tensors)
        tensors["image_embeddings"][:] = 0
        assert same(cache.get(A), embedding(1))


def test_a_read_only_array_is_taken_without_a_copy_but_a_view_of_one_is_not() -> None:
    settled = embedding(1)["image_embeddings"]
    settled.flags.writeable = False
    base = embedding(2)["image_embeddings"]
    view = base[:10]
    view.flags.writeable = False
    with EmbeddingCache(disk_bytes=0) as cache:
        cache.put(A, {"settled": settled, "view": view})
        base[:] = 0
        found = cache.get(A)
    assert found is not None
    assert found["settled"] is settled
    assert np.array_equal(found["view"], embedding(2)["image_embeddings"][:10])


def test_removing_a_tensor_from_a_result_does_not_reach_the_cache() -> None:
    with EmbeddingCache(disk_bytes=0) as cache:
        cache.put(A, embedding(1))
        found = cache.get(A)
        assert found is not None
        found.clear()
        assert same(cache.get(A), embedding(1))


def test_a_second_value_replaces_the_first_everywhere(directory: Path) -> None:
    with EmbeddingCache(directory=directory) as cache:
        cache.put(A, embedding(1, 5000))
        cache.put(A, embedding(2, 100))
        assert same(cache.get(A), embedding(2, 100))
        assert cache.info().disk_entries == 1
    with EmbeddingCache(directory=directory) as cache:
        assert same(cache.get(A), embedding(2, 100))


# What is kept


def test_memory_evicts_the_least_recently_used_first() -> None:
    with EmbeddingCache(disk_bytes=0, memory_bytes=2500) as cache:
        cache.put(A, embedding(1))
        cache.put(B, embedding(2))
        assert cache.get(A) is not None  # B is now the oldest
        cache.put(C, embedding(3))
        assert [cache.get(key) is not None for key in (A, B, C)] == [True, False, True]


def test_disk_evicts_the_least_recently_used_first_also_when_another_object_read_it(directory: Path) -> None:
    with EmbeddingCache(directory=directory, memory_bytes=0, disk_bytes=2500) as cache:
        cache.put(A, embedding(1))
        cache.put(B, embedding(2))
        with EmbeddingCache(directory=directory, disk_bytes=2500) as reader:
            assert reader.get(A) is not None  # B is now the oldest
        cache.put(C, embedding(3))
        assert [cache.get(key) is not None for key in (A, B, C)] == [True, False, True]


def test_an_embedding_above_the_limit_is_not_kept_and_evicts_nothing(directory: Path) -> None:
    with EmbeddingCache(directory=directory, memory_bytes=2000, disk_bytes=2000) as cache:
        cache.put(A, embedding(1))
        cache.put(B, embedding(2, 3000))
        assert cache.get(B) is None
        assert same(cache.get(A), embedding(1))


def test_a_replacement_above_the_limit_removes_the_old_value(directory: Path) -> None:
    with EmbeddingCache(directory=directory, memory_bytes=2000, disk_bytes=2000) as cache:
        cache.put(A, embedding(1))
        cache.put(A, embedding(2, 3000))
        assert cache.get(A) is None


def test_a_smaller_limit_is_enforced_by_the_next_write(directory: Path) -> None:
    with EmbeddingCache(directory=directory) as cache:
        for number in range(8):
            cache.put(f"{number:064x}", embedding(number))
    with EmbeddingCache(directory=directory, disk_bytes=3000) as cache:
        cache.put(A, embedding(9))
        info = cache.info()
        assert (info.disk_entries, info.disk_limit) == (2, 3000)
        assert info.disk_bytes <= 3000


def test_entries_of_earlier_processes_are_found_and_counted(stored: Path) -> None:
    with EmbeddingCache(directory=stored) as cache:
        assert same(cache.get(A), embedding(1))
        assert cache.get(B) is None
        info = cache.info()
    assert info == CacheInfo(
        memory_entries=1,
        memory_bytes=1000,
        memory_limit=512 << 20,
        disk_entries=1,
        disk_bytes=entry_file(stored).stat().st_size,
        disk_limit=4 << 30,
        directory=stored,
        hits=1,
        misses=1,
    )


def test_a_hit_in_memory_keeps_the_file_young_but_does_not_touch_it_every_time(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr("runtime.cache.time.monotonic", lambda: clock)
    with EmbeddingCache(directory=stored) as cache:
        cache.get(A)
        os.utime(entry_file(stored), ns=(5, 5))
        clock += 30
        cache.get(A)
        assert entry_file(stored).stat().st_mtime_ns == 5
        clock += 31
        cache.get(A)
        assert entry_file(stored).stat().st_mtime_ns > 5


def test_nothing_is_written_before_the_first_embedding(directory: Path) -> None:
    with EmbeddingCache(directory=directory) as cache:
        assert cache.get(A) is None
        assert cache.info().disk_entries == 0
        assert cache.clear().disk_entries == 0
    assert not directory.parent.exists()


def test_clear_removes_everything_of_ours_and_says_how_much(stored: Path) -> None:
    with EmbeddingCache(directory=stored) as cache:
        cache.put(B, embedding(2))
        size = sum(entry_file(stored, key).stat().st_size for key in (A, B))
        removed = cache.clear()
        assert (removed.memory_entries, removed.memory_bytes) == (1, 1000)
        assert (removed.disk_entries, removed.disk_bytes) == (2, size)
        assert not stored.exists()
        assert cache.get(B) is None
        cache.put(B, embedding(2))
        assert same(cache.get(B), embedding(2))


def test_a_folder_removed_under_an_open_cache_is_made_again(directory: Path) -> None:
    with EmbeddingCache(directory=directory, memory_bytes=0) as cache:
        cache.put(A, embedding(1))
        with EmbeddingCache(directory=directory) as other:
            other.clear()
        cache.put(B, embedding(2))
        assert same(cache.get(B), embedding(2))
        assert cache.get(A) is None


# What is refused


@pytest.mark.parametrize("key", ["", "abc", "A" * 64, "../" + "a" * 61, "a" * 63 + "\n", "g" * 64, "a" * 200])
def test_a_key_that_is_not_hexadecimal_is_refused(key: str) -> None:
    with EmbeddingCache(disk_bytes=0) as cache:
        with pytest.raises(LiteInferError, match="wanted 16 to 128 lower-case hexadecimal"):
            cache.get(key)
        with pytest.raises(LiteInferError, match="wanted 16 to 128 lower-case hexadecimal"):
            cache.put(key, embedding(1))


@pytest.mark.parametrize(
    "tensor",
    [
        np.array([object()]),
        np.array(["text"]),
        np.zeros(3, np.complex64),
        np.zeros((3, 0), np.float32),
        np.zeros([1] * 9, np.float32),
        np.zeros(2, [("x", "f4")]),
        np.zeros(2, "M8[s]"),
    ],
)
def test_a_tensor_that_no_encoder_makes_is_refused(tensor: np.ndarray) -> None:
    with EmbeddingCache(disk_bytes=0) as cache:
        with pytest.raises(InferenceError, match=r"embedding tensor 't' has dtype .* wanted bool, integers"):
            cache.put(A, {"t": tensor})
        assert cache.get(A) is None


def test_an_embedding_without_tensors_is_refused() -> None:
    with (
        EmbeddingCache(disk_bytes=0) as cache,
        pytest.raises(InferenceError, match="has no tensors: an encoder must have at least one output"),
    ):
        cache.put(A, {})


def test_negative_limits_are_refused() -> None:
    with pytest.raises(LiteInferError, match="limits of -1 and 0 bytes: wanted 0"):
        EmbeddingCache(memory_bytes=-1, disk_bytes=0)


def test_a_closed_cache_says_so(directory: Path) -> None:
    cache = EmbeddingCache(directory=directory)
    cache.put(A, embedding(1))
    cache.close()
    cache.close()
    for use in (lambda: cache.get(A), lambda: cache.put(A, embedding(1)), cache.info, cache.clear):
        with pytest.raises(SessionStateError, match="this embedding cache is closed: make a new one"):
            use()


# Keys and folders

PARTS = {"graph_sha256": "ab", "backend": "openvino 2026.1", "precision": "fp32", "transform": "256 longest"}


def test_a_key_is_stable_across_versions_of_this_program() -> None:
    assert embedding_key(b"content", **PARTS) == "3986df8f444cfc9fee4ffee82d1b9a7dadf2da3c767de290a980e66012292db0"


def test_every_part_changes_the_key_and_parts_cannot_run_into_each_other() -> None:
    variants = [(b"content", PARTS), (b"other", PARTS), (b"", PARTS)]
    variants += [(b"content", {**PARTS, name: "x"}) for name in PARTS]
    variants.append((b"content", {**PARTS, "graph_sha256": "abo", "backend": "penvino 2026.1"}))
    variants.append((b"contentab", {**PARTS, "graph_sha256": ""}))
    variants.append((b"content", {**PARTS, "precision": "256 longest", "transform": "fp32"}))
    assert len({embedding_key(content, **parts) for content, parts in variants}) == len(variants)


def test_the_digest_depends_on_values_shape_and_dtype() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)
    other = image.copy()
    other[3, 5] ^= 1
    images = [image, other, image.reshape(6, 4), image.T, image.view(np.int8), image.view(np.uint16)]
    images += [image.astype(np.float32), image.reshape(4, 2, 3), image[:, ::-1]]
    assert len({content_digest(each) for each in images}) == len(images)
    assert {len(content_digest(each)) for each in images} == {32}


def test_the_digest_does_not_depend_on_how_the_array_is_stored() -> None:
    image = np.arange(2 * 35, dtype=np.uint16).reshape(7, 10)
    spread = np.zeros((14, 30), np.uint16)[::2, ::3]
    spread[...] = image
    stored = [np.asfortranarray(image), spread, image[::-1][::-1], image.astype(">u2")]
    assert {content_digest(each) for each in stored} == {content_digest(image)}


def test_the_environment_chooses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITE_INFER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LITE_INFER_CACHE", str(tmp_path / "cache"))
    assert cache_directory() == tmp_path / "cache"
    assert EmbeddingCache().info().directory == tmp_path / "cache" / "embeddings"
    monkeypatch.setenv("LITE_INFER_CACHE", "")
    assert cache_directory() == tmp_path / "home" / "cache"
    monkeypatch.delenv("LITE_INFER_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory().name.startswith(("lite-infer", "Cache"))
    assert cache_directory().is_absolute()
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITE_INFER_CACHE", "~no-such-user-at-all/cache")
    with pytest.raises(LiteInferError, match=r"LITE_INFER_CACHE is '~no-such-user.*set it to an absolute path"):
        cache_directory()


def test_a_relative_folder_stays_the_same_when_the_program_changes_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with EmbeddingCache(directory=Path("store")) as cache:
        monkeypatch.chdir("/")
        cache.put(A, embedding(1))
    assert entry_file(tmp_path / "store").exists()
