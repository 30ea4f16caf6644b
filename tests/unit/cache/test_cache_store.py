"""EmbeddingCache in a folder in disorder: damaged and forged entries, ruined indexes, foreign files."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest
from stores import A, B, C, embedding, entry_file, same

from runtime.cache import EmbeddingCache

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX links and pipes")


# Damaged and forged entries


def test_every_damaged_byte_makes_a_miss_and_removes_the_file(stored: Path) -> None:
    intact = entry_file(stored).read_bytes()
    bits = random.Random(0).sample(range(8 * len(intact)), 300) + list(range(8 * 16))
    with EmbeddingCache(directory=stored, memory_bytes=0) as cache:
        for bit in bits:
            damaged = bytearray(intact)
            damaged[bit // 8] ^= 1 << bit % 8
            entry_file(stored).write_bytes(damaged)
            assert cache.get(A) is None, f"bit {bit}"
            assert not entry_file(stored).exists()
        entry_file(stored).write_bytes(intact)
        assert same(cache.get(A), embedding(1))


def test_a_file_cut_or_extended_anywhere_is_a_miss(stored: Path) -> None:
    intact = entry_file(stored).read_bytes()
    with EmbeddingCache(directory=stored, memory_bytes=0) as cache:
        for damaged in (*(intact[:length] for length in range(0, len(intact), 37)), intact + bytes(64)):
            entry_file(stored).write_bytes(damaged)
            assert cache.get(A) is None
            assert not entry_file(stored).exists()


def test_the_file_of_another_key_is_a_miss(stored: Path) -> None:
    entry_file(stored, B).write_bytes(entry_file(stored, A).read_bytes())
    with EmbeddingCache(directory=stored) as cache:
        assert cache.get(B) is None
        assert cache.get(A) is not None


def test_a_damaged_entry_may_be_stored_again(stored: Path) -> None:
    entry_file(stored).write_bytes(b"garbage")
    with EmbeddingCache(directory=stored) as cache:
        assert cache.get(A) is None
        cache.put(A, embedding(1))
    with EmbeddingCache(directory=stored) as cache:
        assert same(cache.get(A), embedding(1))


def forged(header: object, payload: bytes = bytes(64)) -> bytes:
    """An entry with a right checksum and a header that was made to mislead."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    text = text.ljust(-(-(16 + len(text)) // 64) * 64 - 16)
    body = len(text).to_bytes(4, "little") + text + payload
    return b"LIEMBED\x01" + zlib.crc32(body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    "tensors",
    [
        [["t", "|O", [1]]],
        [["t", "|V64", [1]]],
        [["t", ">f4", [16]]],
        [["t", "<f4", [17]]],
        [["t", "<f4", [-1, 16]]],
        [["t", "<f4", [-4, -4]]],
        [["t", "<f4", [0]]],
        [["t", "<f4", [True]]],
        [["t", "<f4", [1.0]]],
        [["t", "<f4", [10**30, 10**30]]],
        [["t", "<f4", [1] * 40]],
        [["t", "<f4", 16]],
        [["t", ["<f4"], [16]]],
        [[5, "<f4", [16]]],
        [["t", "<f4"]],
        [["t", "<f4", [8]], ["u", "<f4", [8]]],
        [["t", "<f4", [16]], ["u", "<f4", [16]], ["v", "<f4", [16]]],
        [],
        5,
        "abc",
        None,
    ],
)
def test_a_forged_header_is_a_miss(tensors: object, stored: Path) -> None:
    entry_file(stored).write_bytes(forged({"key": A, "tensors": tensors}))
    with EmbeddingCache(directory=stored) as cache:
        assert cache.get(A) is None


@pytest.mark.parametrize("header", ["", "[]", "nul", '{"key": 5}', "[" * 5000, '"\\ud800"', "{}"])
def test_a_header_that_is_not_ours_is_a_miss(header: str, stored: Path) -> None:
    entry_file(stored).write_bytes(forged(header))
    with EmbeddingCache(directory=stored) as cache:
        assert cache.get(A) is None


def test_the_forgery_of_these_tests_is_accepted_when_its_header_is_honest(stored: Path) -> None:
    entry_file(stored).write_bytes(forged({"key": A, "tensors": [["t", "<f4", [16]]]}))
    with EmbeddingCache(directory=stored) as cache:
        assert same(cache.get(A), {"t": np.zeros(16, np.float32)})


def test_bytes_after_the_last_tensor_make_a_miss(stored: Path) -> None:
    entry_file(stored).write_bytes(forged({"key": A, "tensors": [["t", "<f4", [16]]]}, payload=bytes(128)))
    with EmbeddingCache(directory=stored) as cache:
        assert cache.get(A) is None


def test_a_file_above_the_named_limit_is_neither_read_nor_written(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime._store._MAX_ENTRY_BYTES", entry_file(stored).stat().st_size - 1)
    with EmbeddingCache(directory=stored, memory_bytes=0) as cache:
        assert cache.get(A) is None
        cache.put(B, embedding(2))
        assert cache.info().disk_entries == 0


@posix
def test_links_and_pipes_in_the_place_of_an_entry_are_misses(stored: Path, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere"
    secret.write_bytes(entry_file(stored).read_bytes())
    entry_file(stored).unlink()
    entry_file(stored).symlink_to(secret)
    os.mkfifo(entry_file(stored, B))
    with EmbeddingCache(directory=stored) as cache:
        assert cache.get(A) is None
        assert cache.get(B) is None
    assert secret.exists()


# The index


def ruin_with_garbage(index: Path) -> None:
    index.write_bytes(random.Random(0).randbytes(8192))


def ruin_by_cutting(index: Path) -> None:
    os.truncate(index, index.stat().st_size // 2 + 100)


def ruin_the_middle(index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[100:] = bytes(len(content) - 100)
    index.write_bytes(content)


def ruin_by_another_layout(index: Path) -> None:
    index.unlink()
    with sqlite3.connect(index) as connection:
        connection.execute("CREATE TABLE entries (key TEXT)")
    connection.close()


def ruin_by_removing(index: Path) -> None:
    index.unlink()


@pytest.mark.parametrize(
    "ruin",
    [ruin_with_garbage, ruin_by_cutting, ruin_the_middle, ruin_by_another_layout, ruin_by_removing],
)
def test_a_damaged_index_is_made_again_and_the_entries_stay(
    ruin: object, stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert callable(ruin)
    ruin(stored / "index.sqlite3")
    size = entry_file(stored).stat().st_size
    with EmbeddingCache(directory=stored, disk_bytes=2 * size, memory_bytes=0) as cache:
        cache.put(B, embedding(2))
        assert same(cache.get(A), embedding(1))
        cache.put(C, embedding(3))  # the adopted entries count: one of the three has to go
        assert cache.info().disk_bytes == 2 * size
    assert caplog.records == []


def test_flipped_bits_in_the_index_lose_no_embedding_and_no_bound(directory: Path) -> None:
    with EmbeddingCache(directory=directory) as cache:
        for number in range(20):
            cache.put(f"{number:064x}", embedding(number))
    index = directory / "index.sqlite3"
    intact = index.read_bytes()
    rng = random.Random(1)
    for _ in range(25):
        damaged = bytearray(intact)
        for _ in range(20):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        index.write_bytes(damaged)
        with EmbeddingCache(directory=directory, disk_bytes=40_000, memory_bytes=0) as cache:
            cache.put(A, embedding(99))
            assert same(cache.get(A), embedding(99))
            assert same(cache.get(f"{3:064x}"), embedding(3))
            assert cache.info().disk_entries == 21
    with EmbeddingCache(directory=directory, disk_bytes=5000, memory_bytes=0) as cache:
        cache.put(A, embedding(99))
        assert cache.info().disk_bytes <= 5000


def test_an_index_that_is_damaged_while_open_is_made_again(stored: Path) -> None:
    with EmbeddingCache(directory=stored, memory_bytes=0) as cache:
        cache.put(B, embedding(2))
        ruin_with_garbage(stored / "index.sqlite3")
        cache.put(C, embedding(3))
        assert [same(cache.get(key), embedding(seed)) for seed, key in enumerate((A, B, C), 1)] == [True] * 3


def test_leftovers_of_killed_writers_are_removed_by_the_next_writer(stored: Path) -> None:
    leftover = stored / f"{B}.{'0' * 16}.tmp"
    leftover.write_bytes(bytes(5000))
    with EmbeddingCache(directory=stored) as cache:
        cache.get(A)
        cache.put(C, embedding(3))
    assert not leftover.exists()


def test_foreign_files_are_never_touched(stored: Path) -> None:
    foreign = {
        name: stored / name
        for name in (
            "notes.txt",
            "a.embedding",
            f"{A}.embedding.bak",
            f"{A.upper()}.embedding",
            "x.tmp",
            ".hidden",
        )
    }
    for path in foreign.values():
        path.write_bytes(bytes(10_000))
    (stored / f"{B}.embedding").mkdir()
    with EmbeddingCache(directory=stored, disk_bytes=3000) as cache:
        for number in range(6):
            cache.put(f"{number:064x}", embedding(number))
        assert cache.info().disk_bytes <= 3000
        assert cache.info().disk_entries == 2
        cache.clear()
    assert sorted(path.name for path in stored.iterdir()) == sorted([*foreign, f"{B}.embedding"])
    assert all(path.stat().st_size == 10_000 for path in foreign.values())
