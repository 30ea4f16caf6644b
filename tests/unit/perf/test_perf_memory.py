"""perf.bench_memory: what it writes, what it runs, and what it calls too much."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from perf import bench_memory
from perf.bench_memory import ALLOWANCE_BYTES, CASES, Measured, measure
from perf.processes import Finished


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_memory, "_SIDE", 64)


class _Run:
    """Reads the file that a process would segment, and answers as it would."""

    def __init__(self, **change: Any) -> None:
        self.change = change
        self.volumes: list[runtime.Volume] = []
        self.boxes: list[str] = []

    def __call__(self, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> Finished:
        words = list(command)
        path = next(Path(word) for word in words if Path(word).is_absolute() and folder in Path(word).parents)
        self.volumes.append(runtime.load(path))
        self.boxes.append(words[words.index("--box") + 1])
        assert Path(variables["LITE_INFER_CACHE"]).parent == folder
        answer = {"shape": list(self.volumes[-1].shape), "objects": [{"voxels": 7}], **self.change}
        return Finished(1.0, 1.0, 900_000_000, json.dumps(answer))


def test_every_case_holds_the_same_scan_in_its_own_dtype(tmp_path: Path) -> None:
    run = _Run()
    found = list(measure(list(CASES), 20, 7, tmp_path, run))
    ct, *others = run.volumes
    assert ct.shape == (64, 64, 20)
    assert [volume.array.dtype.name for volume in run.volumes] == ["int16"] * 4 + ["float32"]
    for volume in others[:2]:
        np.testing.assert_array_equal(volume.array, ct.array)
    for volume in others[2:]:
        np.testing.assert_array_equal(volume.array, np.maximum(ct.array.astype(int) + 200, 0))
    assert len({plane.tobytes() for plane in np.moveaxis(ct.array, 2, 0)}) == 20, "no slice twice"
    assert len(set(run.boxes)) == 1
    assert [one.volume_bytes for one in found] == [64 * 64 * 20 * 2] * 4 + [64 * 64 * 20 * 4]
    assert [one.voxels for one in found] == [7] * 5
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_empty_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"CT \.nii: the answer has shape .* and 0 voxels"):
        list(measure(["CT .nii"], 20, 7, tmp_path, _Run(objects=[{"voxels": 0}])))


def test_what_goes_beyond_the_allowance_fails(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    good = Measured("CT .nii", 10**9, 10**9 + ALLOWANCE_BYTES - 1, 7)
    bad = Measured("CT .nii", 10**9, 10**9 + ALLOWANCE_BYTES, 7)
    assert (good.passed, bad.passed) == (True, False)
    for one, code in ((good, 0), (bad, 1)):
        monkeypatch.setattr(bench_memory, "measure", lambda *_, one=one: iter([one]))
        assert bench_memory.main(["--cases", "CT .nii"]) == code
        assert ("TOO MUCH" in capsys.readouterr().out) == bool(code)
