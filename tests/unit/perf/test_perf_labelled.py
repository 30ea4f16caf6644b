"""Labelled folders, baselines without a network, and Dice between configurations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perf import labelled_worker
from perf.baselines import BASELINES
from perf.case_files import write_nifti
from perf.labelled import dice, read_labelled
from perf.stats import packed_dice
from runtime.errors import ImageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture with a dark disc, and a CT whose two objects want two windows of one slice."""
    rows, columns = np.ogrid[:48, :64]
    disc = (rows - 20) ** 2 + (columns - 30) ** 2 < 100
    Image.fromarray(np.where(disc, 20, 200).astype(np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "label.png")
    ct, label = np.full((20, 24, 3), -1000, np.int16), np.zeros((20, 24, 3), np.uint8)
    label[3:9, 5:12, 1], label[12:16, 5:12, 1] = 1, 2
    ct[label == 1], ct[label == 2] = 40, -600
    write_nifti(tmp_path / "image.nii.gz", ct)
    write_nifti(tmp_path / "label.nii.gz", label)
    picture = {"image": "image.png", "label": "label.png", "modality": "US"}
    picture |= {"objects": [{"label": 1, "name": "disc", "z": 0, "box2d": [21, 11, 39, 29]}]}
    volume = {"image": "image.nii.gz", "label": "label.nii.gz", "modality": "CT", "objects": [
        {"label": 1, "name": "liver", "z": 1, "box2d": [3, 5, 8, 11]},
        {"label": 2, "name": "Lung", "z": 1, "box2d": [12, 5, 15, 11]},
    ]}  # fmt: skip
    (tmp_path / "prompts.json").write_text(json.dumps({"cases": {"b": volume, "a": picture}}), encoding="utf-8")
    return tmp_path


def test_objects_of_one_slice_and_window_share_an_image_with_rows_first(folder: Path) -> None:
    picture, liver, lung = read_labelled(folder)
    assert (picture.image.shape, picture.masks.shape) == ((48, 64), (1, 48, 64))
    assert liver.image.shape == (24, 20)
    assert liver.image[liver.masks[0]].min() == 127  # 40 HU in the middle of -160..240
    assert lung.image[lung.masks[0]].min() == 127  # -600 HU in the middle of -1350..150
    for one in (picture, liver, lung):
        ((x0, y0, x1, y1),) = one.boxes.astype(int)
        assert one.masks[0][y0 : y1 + 1, x0 : x1 + 1].sum() == one.masks[0].sum() > 0


def test_a_folder_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="wanted a folder of labelled images"):
        next(read_labelled(tmp_path))


def test_baselines_find_what_they_must(folder: Path) -> None:
    picture = next(read_labelled(folder))
    x0, y0, x1, y1 = (int(value) for value in picture.boxes[0])
    found = {name: dice(make(picture.image, (x0, y0, x1, y1)), picture.masks[0]) for name, make in BASELINES.items()}
    assert found["otsu"] == 1.0
    assert found["ellipse"] > 0.95
    assert found["grabcut, seeded"] > 0.9
    assert 0.8 < found["box"] < found["ellipse"]


def test_a_box_as_large_as_the_image_breaks_no_baseline() -> None:
    image = np.random.default_rng(1).integers(0, 256, (300, 400), dtype=np.uint8)
    for make in BASELINES.values():
        assert make(image, (0, 0, 399, 299)).shape == image.shape


def test_the_worker_packs_masks_and_says_how_good_and_how_fast_they_are(folder: Path, tiny_bundle: Path) -> None:
    result, masks = folder / "result.json", folder / "masks.npz"
    spec = {
        "bundle": str(tiny_bundle),
        "modality": None,
        "expert": None,
        "backend": "auto",
        "precision": "fp32",
        "threads": 1,
    }
    spec |= {"folder": str(folder), "result": str(result), "masks": str(masks)}
    assert labelled_worker.main([json.dumps(spec)]) == 0
    found = json.loads(result.read_text(encoding="utf-8"))
    assert (found["slices"], found["objects"]) == (3, 3)
    assert 0 < found["dice"] < 1
    assert found["encode_ms"] > 0
    with np.load(masks) as kept:
        assert [kept[name].shape[0] for name in kept.files] == [1, 1, 1]
    assert labelled_worker.main([json.dumps({"baselines": True, "folder": str(folder), "result": str(result)})]) == 0
    assert set(json.loads(result.read_text(encoding="utf-8"))) == set(BASELINES)


def test_dice_of_packed_masks_is_dice_of_masks() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.random((5, 77)) < 0.3, rng.random((5, 77)) < 0.5
    one[2] = other[2] = False
    packed = packed_dice(np.packbits(one, axis=1), np.packbits(other, axis=1))
    assert packed.tolist() == pytest.approx([dice(mine, theirs) for mine, theirs in zip(one, other, strict=True)])
