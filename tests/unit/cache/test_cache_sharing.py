"""EmbeddingCache beside others: permissions, full disks, busy processes, threads and forks."""

from __future__ import annotations

import logging
import os
import random
import signal
import sqlite3
import threading
import warnings
from pathlib import Path

import pytest
from hard_folders import small_disk, unprivileged
from stores import A, B, C, embedding, same

from runtime.cache import EmbeddingCache
from runtime.errors import LiteInferError, OutputError

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


# Permissions, full disks


@posix
def test_only_the_owner_can_read_the_folder_and_its_files(directory: Path) -> None:
    mask = os.umask(0)
    try:
        with EmbeddingCache(directory=directory) as cache:
            cache.put(A, embedding(1))
            modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    finally:
        os.umask(mask)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}
    assert {"index.sqlite3", f"{A}.embedding"} <= set(modes)


def one_warning(caplog: pytest.LogCaptureFixture) -> str:
    assert [(record.name, record.levelno) for record in caplog.records] == [("runtime.cache", logging.WARNING)]
    return caplog.records[0].getMessage()


@posix
def test_a_read_only_folder_serves_what_it_holds_and_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with unprivileged() as home:
        directory = home / "embeddings"
        with EmbeddingCache(directory=directory) as cache:
            cache.put(A, embedding(1))
        directory.chmod(0o500)
        (directory / "index.sqlite3").chmod(0o400)
        with EmbeddingCache(directory=directory, memory_bytes=5000) as cache:
            assert same(cache.get(A), embedding(1))
            cache.put(B, embedding(2))
            cache.put(C, embedding(3))
            assert same(cache.get(B), embedding(2))
            assert cache.info().disk_entries == 1
            with pytest.raises(OutputError, match=r"cannot clear .*Permission denied; remove the folder by hand"):
                cache.clear()
            directory.chmod(0o700)
            (directory / "index.sqlite3").chmod(0o600)
            cache.put("d" * 64, embedding(4))  # what was given up is not tried again
            assert cache.info().disk_entries == 1
    message = one_warning(caplog)
    assert "keeps new embeddings in memory only" in message
    assert str(home) not in message


@posix
def test_a_folder_that_cannot_be_entered_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with unprivileged() as home:
        (home / "embeddings").mkdir(mode=0)
        with EmbeddingCache(directory=home / "embeddings") as cache:
            assert cache.get(A) is None
            cache.put(B, embedding(2))
            assert same(cache.get(B), embedding(2))
            with pytest.raises(LiteInferError, match=r"cannot list the embedding cache .*Permission denied; check"):
                cache.info()
        (home / "embeddings").chmod(0o700)
    assert "Permission denied" in one_warning(caplog)


def test_a_file_in_the_place_of_the_folder_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("mine")
    with EmbeddingCache(directory=tmp_path / "file" / "embeddings") as cache:
        assert cache.get(A) is None
        cache.put(A, embedding(1))
        assert same(cache.get(A), embedding(1))
        assert cache.info().disk_entries == 0
    assert "Not a directory" in one_warning(caplog)
    assert (tmp_path / "file").read_text() == "mine"


@posix
def test_a_file_size_limit_is_reported_and_leaves_nothing_behind(
    stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EmbeddingCache(directory=stored) as cache:
        cache.put(B, embedding(2))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        try:
            cache.put(C, embedding(3, 300_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert same(cache.get(C), embedding(3, 300_000))
    assert "File too large" in one_warning(caplog)
    assert sorted(path.suffix for path in stored.iterdir() if "index" not in path.name) == [".embedding"] * 2


@posix
def test_a_full_disk_is_reported_and_what_was_stored_stays_readable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path, "1m"):
        with EmbeddingCache(directory=tmp_path / "embeddings") as cache:
            for number in range(12):
                cache.put(f"{number:064x}", embedding(number, 100_000))
            assert all(same(cache.get(f"{number:064x}"), embedding(number, 100_000)) for number in range(12))
        with EmbeddingCache(directory=tmp_path / "embeddings") as cache:
            kept = [number for number in range(12) if cache.get(f"{number:064x}") is not None]
            assert all(same(cache.get(f"{number:064x}"), embedding(number, 100_000)) for number in kept)
        assert 7 <= len(kept) <= 10
        assert not list(tmp_path.rglob("*.tmp"))
    assert "No space left on device" in one_warning(caplog)


def test_a_store_that_another_process_holds_for_long_is_given_up_with_a_warning(
    stored: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime._store._BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(stored / "index.sqlite3", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with EmbeddingCache(directory=stored) as cache:
        cache.put(B, embedding(2))
        assert same(cache.get(B), embedding(2))
        assert same(cache.get(A), embedding(1))
        holder.execute("ROLLBACK")
        holder.close()
        assert cache.info().disk_entries == 1
    assert "database is locked" in one_warning(caplog)


# Threads and forks


def test_threads_share_one_cache(directory: Path) -> None:
    failures: list[str] = []

    def work(cache: EmbeddingCache, seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(60):
                number = rng.randrange(12)
                key = f"{number:064x}"
                if rng.random() < 0.5:
                    cache.put(key, embedding(number, 500 + 400 * number))
                else:
                    found = cache.get(key)
                    if found is not None and not same(found, embedding(number, 500 + 400 * number)):
                        failures.append(f"wrong embedding {number}")
        except Exception as error:  # noqa: BLE001 - to be reported by the main thread
            failures.append(repr(error))

    with EmbeddingCache(directory=directory, memory_bytes=6000, disk_bytes=15_000) as cache:
        threads = [threading.Thread(target=work, args=(cache, seed)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        info = cache.info()
    assert failures == []
    assert info.memory_bytes <= 6000
    assert 0 < info.disk_bytes <= 15_000
    assert info.hits > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.parametrize("locked", [False, True])
def test_parent_and_forked_child_both_go_on(locked: bool, directory: Path) -> None:
    with EmbeddingCache(directory=directory) as cache:
        cache.put(A, embedding(1))
        if locked:  # as if another thread were inside the cache at the moment of the fork
            cache._lock.acquire()
            assert cache._store is not None
            cache._store._lock.acquire()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            good = False
            signal.alarm(20)  # a child that waits for a lock of its parent must not wait for ever
            try:
                good = same(cache.get(A), embedding(1))
                cache.put(B, embedding(2))
                cache.close()
                cache = EmbeddingCache(directory=directory)
                good = good and same(cache.get(B), embedding(2))
            finally:
                os._exit(0 if good else 1)
        if locked:
            cache._lock.release()
            cache._store._lock.release()
        cache.put(C, embedding(3))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert same(cache.get(B), embedding(2))
        cache.put("d" * 64, embedding(4))
    connection = sqlite3.connect(directory / "index.sqlite3")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("SELECT count(*) FROM entries").fetchone() == (4,)
    connection.close()
