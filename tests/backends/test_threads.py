"""The default number of threads, from what each system tells about its cores."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

from runtime.backends import threads
from runtime.backends.threads import default_threads


def topology(folder: Path, siblings: list[str]) -> Path:
    for processor, text in enumerate(siblings):
        place = folder / f"cpu{processor}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(text + "\n")
    return folder


def test_the_default_is_possible_on_this_machine() -> None:
    assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_two_hardware_threads_of_one_core_count_once(tmp_path: Path) -> None:
    folder = topology(tmp_path, ["0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7"])
    assert threads._linux_cores(set(range(8)), folder) == 4
    assert threads._linux_cores({0, 4}, folder) == 1
    assert threads._linux_cores({0, 1, 4}, folder) == 2


def test_cores_of_different_kinds_all_count(tmp_path: Path) -> None:
    folder = topology(tmp_path, ["0-1", "0-1", "2", "3"])
    assert threads._linux_cores({0, 1, 2, 3}, folder) == 3


def test_a_hidden_topology_is_no_answer(tmp_path: Path) -> None:
    assert threads._linux_cores({0, 1}, tmp_path) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("max 100000", None), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("", None), ("-1 0", None)],
)
def test_the_quota_of_a_container_is_rounded_up(tmp_path: Path, text: str, wanted: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert threads._quota(tmp_path) == wanted


@pytest.mark.parametrize(("quota", "wanted"), [("-1", None), ("300000", 3)])
def test_the_older_files_of_a_quota_are_read_too(tmp_path: Path, quota: str, wanted: int | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert threads._quota(tmp_path) == wanted


def test_no_control_groups_mean_no_quota(tmp_path: Path) -> None:
    assert threads._quota(tmp_path) is None


@pytest.mark.parametrize(
    ("allowed", "cores", "quota", "wanted"),
    [
        ({0, 1, 2, 3}, 2, None, 2),
        ({0, 1, 2, 3}, None, None, 4),
        ({0, 1, 2, 3}, 2, 1, 1),
        ({0, 1}, 2, 8, 2),
        ({0}, None, None, 1),
    ],
)
def test_the_least_of_all_limits_counts(
    monkeypatch: pytest.MonkeyPatch, allowed: set[int], cores: int | None, quota: int | None, wanted: int
) -> None:
    monkeypatch.setattr(threads, "_allowed_processors", lambda: allowed)
    monkeypatch.setattr(threads, "_count_cores", lambda _allowed: cores)
    monkeypatch.setattr(threads, "_quota", lambda: quota)
    assert default_threads() == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is set through a Linux call")
def test_affinity_limits_the_default() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_windows_records_are_counted_one_a_core() -> None:
    record = struct.pack("<II", 0, 48) + bytes(40)
    longer = struct.pack("<II", 0, 80) + bytes(72)
    assert threads._count_records(record * 3 + longer) == 4
    assert threads._count_records(b"") is None
    assert threads._count_records(struct.pack("<II", 0, 0)) is None
