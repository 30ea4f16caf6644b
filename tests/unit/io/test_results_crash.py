"""Writers of results that are killed, or find the disk full: whole files under final names, nothing else for long."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
import pytest
from crash import die_at_line, fork
from hard_folders import small_disk, unprivileged
from results import Layout, mask_of, result_of, segment, some_segments, write_series

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io import check_output, load
from runtime.io._result import Result
from runtime.io._saving import write_results

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the writers are forked and killed")

SERIES = Layout("axial", (1, 0, 0), (0, 1, 0), shape=(64, 48, 12))
REPEATABLE = ("out.nii", "out.nii.gz", "out.npz", "out.seg.nrrd", "out.obj", "out.glb", "out.json", "out.csv")
SEPARATE = ("part.stl", "part_1_liver.stl", "part_2_Niere-links.stl", "part_3_nothing.stl")
DICOM = ("out.seg.dcm", "out.rtstruct.dcm")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    pytest.importorskip("highdicom")
    pytest.importorskip("skimage")
    return load(write_series(tmp_path_factory.mktemp("series"), SERIES))


def two_results(volume: Volume) -> tuple[Result, Result]:
    """Results of the same objects that differ in every file."""
    one = some_segments(volume.shape)
    other = tuple(
        segment(each.label, each.name, np.roll(mask_of(each, volume.shape), 3, axis=1) | (each.label == 3))
        for each in one
    )
    return result_of(volume, one), result_of(volume, other)


def write_all(folder: Path, result: Result, names: tuple[str, ...]) -> None:
    for name in names:
        write_results(folder / name, result, separate=name == SEPARATE[0])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def write_for_ever(folder: Path, results: tuple[Result, Result], names: tuple[str, ...], seed: int, ready: int) -> None:
    rng = random.Random(seed)
    for count in range(10**9):
        write_all(folder, rng.choice(results), (rng.choice(names),))
        if count == 2:
            os.write(ready, b"!")


def wait_for(reading: int) -> None:
    assert os.read(reading, 1) == b"!"


def kill_writers(folder: Path, volume: Volume, rounds: int, names: tuple[str, ...]) -> int:
    """Kill a writer at random moments; how often it was in the middle of a file."""
    results = two_results(volume)
    known = []
    for index, result in enumerate(results):
        (folder.parent / str(index)).mkdir()
        write_all(folder.parent / str(index), result, names)
        known.append(contents(folder.parent / str(index)))
    rng, caught = random.Random(rounds), 0
    for attempt in range(rounds):
        reading, writing = os.pipe()
        child = fork(partial(write_for_ever, folder, results, names, attempt, writing))
        wait_for(reading)
        time.sleep(rng.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the writer died by itself"
        os.close(reading)
        os.close(writing)
        caught += bool(leftovers(folder))
        for path in folder.iterdir():
            if path.name in leftovers(folder):
                continue
            if path.suffix == ".dcm":
                assert_whole(path, results)
            else:
                assert path.read_bytes() in [each[path.name] for each in known], path.name
        if leftovers(folder):
            write_all(folder, results[attempt % 2], names)
        assert leftovers(folder) == [], "what a killed process left is removed by the next one"
    return caught


def assert_whole(path: Path, results: tuple[Result, Result]) -> None:
    dataset = pydicom.dcmread(path)
    if dataset.Modality == "RTSTRUCT":
        assert len(dataset.ROIContourSequence) == 3
        assert dataset.RTROIObservationsSequence[2].ReferencedROINumber == 3, "the last attribute of the file"
        return
    voxels = [sum(int(np.count_nonzero(one.crop)) for one in result.segments) for result in results]
    assert int(np.count_nonzero(dataset.pixel_array)) in voxels


def test_results_survive_12_kills(tmp_path: Path, volume: Volume) -> None:
    (tmp_path / "out").mkdir()
    kill_writers(tmp_path / "out", volume, 12, ("out.nii.gz", "out.seg.nrrd", "out.json", SEPARATE[0]))


@pytest.mark.slow
def test_results_survive_200_kills(tmp_path: Path, volume: Volume) -> None:
    (tmp_path / "out").mkdir()
    assert kill_writers(tmp_path / "out", volume, 200, (*REPEATABLE, SEPARATE[0], *DICOM)) > 20


def kill_at_lines(tmp_path: Path, volume: Volume, step: int) -> int:
    """Kill a writer of several files before every ``step``-th line of the code that makes them whole; the kills."""
    old, new = two_results(volume)
    folder = tmp_path / "out"
    folder.mkdir()
    write_all(folder, new, (SEPARATE[0],))
    wanted = contents(folder)

    def work(line: int) -> None:
        sys.settrace(die_at_line("_atomic.py", line))
        write_all(folder, new, (SEPARATE[0],))
        sys.settrace(None)

    for kills, line in enumerate(range(1, 10_000, step)):
        write_all(folder, old, (SEPARATE[0],))
        before = contents(folder)
        _, status = os.waitpid(fork(partial(work, line)), 0)
        after = {name: data for name, data in contents(folder).items() if not name.startswith(".")}
        assert set(after) == set(wanted)
        changed = [name for name in sorted(after) if after[name] != before[name]]
        assert all(after[name] == wanted[name] for name in changed), "a file is the old one or the new one"
        assert changed == sorted(wanted)[: len(changed)], "files get their names in order"
        if os.waitstatus_to_exitcode(status) == 0:
            assert after == wanted
            assert leftovers(folder) == []
            return kills
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return 10_000


def test_files_that_appear_together_survive_a_kill_at_every_fifteenth_line(tmp_path: Path, volume: Volume) -> None:
    assert 5 < kill_at_lines(tmp_path, volume, step=15) < 10_000


@pytest.mark.slow
def test_files_that_appear_together_survive_a_kill_at_every_line(tmp_path: Path, volume: Volume) -> None:
    assert 100 < kill_at_lines(tmp_path, volume, step=1) < 10_000


def test_two_processes_that_write_the_same_names_do_not_disturb_each_other(tmp_path: Path, volume: Volume) -> None:
    results = two_results(volume)
    names = ("out.nii", SEPARATE[0])
    known = []
    for index, result in enumerate(results):
        (tmp_path / str(index)).mkdir()
        write_all(tmp_path / str(index), result, names)
        known.append(contents(tmp_path / str(index)))
    folder = tmp_path / "out"
    folder.mkdir()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(25):
            write_all(folder, rng.choice(results), (rng.choice(names),))

    children = [fork(partial(work, seed)) for seed in range(3)]
    while os.waitpid(children[0], os.WNOHANG) == (0, 0):
        for path in folder.iterdir():
            if not path.name.startswith("."):
                assert path.read_bytes() in [each[path.name] for each in known]
        time.sleep(0.002)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children[1:]] == [0, 0]
    assert leftovers(folder) == []


def test_a_full_disk_keeps_what_was_there_and_adds_nothing(tmp_path: Path) -> None:
    for package in ("highdicom", "skimage"):
        pytest.importorskip(package)
    noise = np.random.default_rng(0).random((96, 80, 20)) < 0.5
    folder = tmp_path / "disk"
    folder.mkdir()
    volume = load(write_series(tmp_path / "in", Layout("axial", (1, 0, 0), (0, 1, 0), shape=(96, 80, 20))))
    result = result_of(volume, tuple(segment(n, f"object {n}", noise) for n in (1, 2)))
    small = result_of(volume, some_segments(volume.shape)[2:])
    with small_disk(folder, "20k"):
        for name in ("out.nii.gz", "out.npz", "out.seg.nrrd", "out.seg.dcm", "out.rtstruct.dcm", "out.obj", "out.glb"):
            write_results(folder / name, small)
            before = contents(folder)
            with pytest.raises(OutputError, match=rf"{name}: no space left while writing; free some"):
                write_results(folder / name, result)
            assert contents(folder) == before
            (folder / name).unlink()
        with pytest.raises(OutputError, match=r"part_1_object-1\.stl: no space left"):
            write_results(folder / "part.stl", result, separate=True)
        assert contents(folder) == {}


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_folder_that_cannot_be_written_is_reported_early_and_late() -> None:
    volume = Volume(np.zeros((5, 4, 3)), affine=np.eye(4))
    with unprivileged() as folder:
        (folder / "out.nii").write_bytes(b"old")
        folder.chmod(0o500)
        message = r"out\.nii: writing is not permitted there; choose another folder"
        with pytest.raises(OutputError, match=message):
            check_output(folder / "out.nii", volume)
        with pytest.raises(OutputError, match=message):
            write_results(folder / "out.nii", result_of(volume, some_segments((5, 4, 3))))
        assert contents(folder) == {"out.nii": b"old"}
        folder.chmod(0o700)
