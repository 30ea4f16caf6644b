"""The NIfTI zoo of the shared data beyond its table: what nibabel reads of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from zoo import main as zoo_main
from zoo_nifti import IMAGES, REFERENCES

from runtime.io import load, save


@pytest.fixture(scope="module")
def zoo(shared: Path) -> Path:
    return shared / "data" / "nifti_zoo"


NIBABEL_READS = [
    name
    for name in (*REFERENCES, *IMAGES)
    if not name.startswith(("broken/", "orient/")) and name.endswith((".nii", ".nii.gz", ".hdr", ".mgz"))
]


@pytest.mark.parametrize("name", NIBABEL_READS)
def test_a_row_has_nibabels_voxels_and_its_labels_nibabels_affine(zoo: Path, tmp_path: Path, name: str) -> None:
    volume, image = load(zoo / name), nibabel.load(zoo / name)
    raw = np.asanyarray(image.dataobj)
    if raw.dtype.names:
        raw = np.stack([raw[channel] for channel in raw.dtype.names], axis=-1)
    np.testing.assert_allclose(volume.array, raw.reshape(volume.array.shape), rtol=1e-6)
    save(tmp_path / "seg.nii.gz", np.ones(volume.shape, np.uint8), volume)
    written = nibabel.load(tmp_path / "seg.nii.gz")
    np.testing.assert_array_equal(written.affine, image.affine)
    for form in ("qform_code", "sform_code") if not name.endswith(".mgz") else ():
        assert written.header[form] == image.header[form]


def test_the_command_prints_the_table_and_fails_where_a_row_falls_short(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zoo_main(["nifti", "--shared", str(shared)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "125 rows, 0 fall short"
    assert all(line.startswith("ok") and line.count(" | ") >= 2 for line in lines[:-1])
    folder = tmp_path / "data" / "nifti_zoo"
    folder.mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps([{"path": "ref_label.nii.gz", "expected": "label"}]))
    (folder / "ref_label.nii.gz").write_text("no image")
    assert zoo_main(["nifti", "--shared", str(tmp_path)]) == 1
    assert "SHORT ref_label.nii.gz | label" in capsys.readouterr().out
