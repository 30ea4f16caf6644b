"""Writers that are killed: the store opens again, serves only intact embeddings and stays bounded."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from crash import die_at_line, fork

from runtime.cache import EmbeddingCache

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the writers are forked and killed")

LIMIT = 150_000
NUMBERS = range(24)


def key_of(number: int) -> str:
    return f"{number:064x}"


def embedding(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {
        "image_embeddings": rng.integers(0, 256, 200 + 1700 * number, dtype=np.uint8).view(np.int8),
        "skip": rng.random((3, 5, 7), dtype=np.float32),
    }


def bytes_in(directory: Path) -> int:
    """Bytes of entries and of temporary files, as they lie there."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.suffix in (".embedding", ".tmp"))


def check(directory: Path) -> int:
    """Open the store as the next process would; the number of embeddings that survived."""
    survivors = 0
    with EmbeddingCache(directory=directory, memory_bytes=0, disk_bytes=LIMIT) as cache:
        for number in NUMBERS:
            found = cache.get(key_of(number))
            if found is not None:
                survivors += 1
                wanted = embedding(number)
                assert list(found) == list(wanted)
                assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        cache.put("f" * 64, {"t": np.zeros(10, np.uint8)})
        assert cache.get("f" * 64) is not None
        info = cache.info()
    assert not list(directory.glob("*.tmp"))
    assert info.disk_bytes == bytes_in(directory) <= LIMIT
    index = sqlite3.connect(directory / "index.sqlite3")
    assert index.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = dict(index.execute("SELECT key, size FROM entries"))
    totals = index.execute("SELECT bytes FROM totals").fetchall()
    index.close()
    files = {path.stem: path.stat().st_size for path in directory.glob("*.embedding")}
    assert rows == files
    assert totals == [(sum(files.values()),)]
    return survivors


def write_for_ever(directory: Path, seed: int, ready: int) -> None:
    rng = random.Random(seed)
    with EmbeddingCache(directory=directory, memory_bytes=0, disk_bytes=LIMIT) as cache:
        for count in range(10**9):
            number = rng.choice(NUMBERS)
            if rng.random() < 0.8:
                cache.put(key_of(number), embedding(number))
            else:
                cache.get(key_of(number))
            if count == 0:
                os.write(ready, b"!")


def kill_writers(directory: Path, rounds: int, writers: int) -> None:
    rng = random.Random(rounds)
    survivors = 0
    for attempt in range(rounds):
        reading, writing = os.pipe()
        seeds = range(attempt * writers, (attempt + 1) * writers)
        children = [fork(partial(write_for_ever, directory, seed, writing)) for seed in seeds]
        assert os.read(reading, 1) == b"!"
        time.sleep(rng.uniform(0, 0.04))
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the writer died by itself"
        os.close(reading)
        os.close(writing)
        assert bytes_in(directory) <= LIMIT
        survivors += check(directory)
    assert survivors > rounds


def test_a_store_survives_15_kills_of_its_only_writer(tmp_path: Path) -> None:
    kill_writers(tmp_path / "embeddings", rounds=15, writers=1)


def test_a_store_survives_5_kills_of_two_writers_at_once(tmp_path: Path) -> None:
    kill_writers(tmp_path / "embeddings", rounds=5, writers=2)


@pytest.mark.slow
def test_a_store_survives_200_kills(tmp_path: Path) -> None:
    kill_writers(tmp_path / "one", rounds=200, writers=1)
    kill_writers(tmp_path / "three", rounds=50, writers=3)


def kill_at_lines(directory: Path, step: int) -> int:
    """Kill a writer before every ``step``-th line of its first two writes; the number of kills.

    Another writer, which was there before and has no reason to look for leftovers, keeps the bound meanwhile.
    """
    base = [*range(8, 13), 20]

    def write(line: int) -> None:
        with EmbeddingCache(directory=directory, memory_bytes=0, disk_bytes=LIMIT) as cache:
            sys.settrace(die_at_line("_store.py", line))
            cache.put(key_of(10), embedding(10))  # replaces an entry
            cache.put(key_of(23), embedding(23))  # evicts two or more
            sys.settrace(None)

    for kills, line in enumerate(range(1, 10_000, step)):
        with EmbeddingCache(directory=directory, memory_bytes=0, disk_bytes=LIMIT) as other:
            other.clear()
            for number in base:
                other.put(key_of(number), embedding(number))
            _, status = os.waitpid(fork(partial(write, line)), 0)
            assert bytes_in(directory) <= LIMIT
            for number in range(8):
                other.put(key_of(number), embedding(number))
                assert bytes_in(directory) <= LIMIT, f"line event {line}"
        assert check(directory) >= 9, f"line event {line}"
        if os.waitstatus_to_exitcode(status) == 0:
            return kills
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return 10_000


def test_a_store_survives_a_kill_at_every_seventh_line_of_a_write(tmp_path: Path) -> None:
    assert 20 < kill_at_lines(tmp_path / "embeddings", step=7) < 10_000


@pytest.mark.slow
def test_a_store_survives_a_kill_at_every_line_of_a_write(tmp_path: Path) -> None:
    assert 140 < kill_at_lines(tmp_path / "embeddings", step=1) < 10_000


def test_processes_that_share_a_store_read_only_what_was_written_and_keep_its_bound(tmp_path: Path) -> None:
    directory = tmp_path / "embeddings"

    def work(seed: int) -> None:
        rng = random.Random(seed)
        hits = 0
        with EmbeddingCache(directory=directory, memory_bytes=0, disk_bytes=LIMIT) as cache:
            for _ in range(250):
                number = rng.choice(NUMBERS)
                found = cache.get(key_of(number))
                if found is None:
                    cache.put(key_of(number), embedding(number))
                    continue
                hits += 1
                wanted = embedding(number)
                if not all(np.array_equal(found[name], wanted[name]) for name in wanted):
                    os._exit(2)
            if cache._store is None or cache._store.problem is not None:
                os._exit(3)
        if hits < 10:
            os._exit(4)

    children = [fork(partial(work, seed)) for seed in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert bytes_in(directory) <= LIMIT
    assert check(directory) >= 3


def test_clearing_a_store_that_another_process_writes_to_stops_neither(tmp_path: Path) -> None:
    directory = tmp_path / "embeddings"
    reading, writing = os.pipe()
    child = fork(partial(write_for_ever, directory, 0, writing))
    assert os.read(reading, 1) == b"!"
    with EmbeddingCache(directory=directory, disk_bytes=LIMIT) as cache:
        for number in range(30):
            cache.clear()
            cache.put(key_of(number % 24), embedding(number % 24))
            time.sleep(0.002)
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "the writer died by itself"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    check(directory)
