"""runtime.io.statistics: numbers against what numpy says of the same voxels."""

from __future__ import annotations

import csv
import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from results import mask_of, result_of, segment, some_segments
from scenes import STORAGES, volume_of

from runtime.geometry import Volume
from runtime.io import check_output, save
from runtime.io._saving import write_results
from runtime.io.statistics import measure

SHAPE = (9, 7, 6)
OBLIQUE = np.array([[0.8, -0.5, 0.9, -12.5], [0.48, 1.1, -1.2, 31.0], [-0.36, 0.3, 3.0, 7.25], [0, 0, 0, 1.0]])
PIXELS = np.random.default_rng(3).integers(-1000, 2000, SHAPE).astype(np.int16)


def test_json_and_csv_hold_the_same_numbers_by_name(tmp_path: Path) -> None:
    volume = volume_of(PIXELS, STORAGES[13], OBLIQUE)
    for name in ("out.json", "out.csv"):
        check_output(tmp_path / name, volume)
        write_results(tmp_path / name, result_of(volume, some_segments(volume.shape)))
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert list(data) == ["liver", "Niere, links", "nothing"]
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == list(data)
    for row, values in zip(rows, data.values(), strict=True):
        for key in ("volume", "intensity", "n_voxels", "intensity_std", "area_mm2", "diameter_mm"):
            assert row[key] == ("" if values[key] is None else str(values[key]))
        assert row["centroid_mm_y"] == ("" if values["centroid_mm"] is None else str(values["centroid_mm"][1]))
        assert row["bbox_vox_k_max"] == ("" if values["bbox_vox"] is None else str(values["bbox_vox"][2][1]))


@pytest.mark.parametrize("storage", STORAGES[::11])
def test_every_number_is_what_numpy_says(storage: tuple[tuple[int, int, int], tuple[bool, bool, bool]]) -> None:
    volume = volume_of(PIXELS, storage, OBLIQUE)
    assert volume.affine is not None
    for one in some_segments(volume.shape)[:2]:
        mask, values = mask_of(one, volume.shape), measure(one, volume)
        found, where = volume.array[mask].astype(float), np.argwhere(mask)
        assert values["n_voxels"] == mask.sum()
        assert values["volume"] == pytest.approx(mask.sum() * abs(np.linalg.det(OBLIQUE[:3, :3])))
        assert values["volume_ml"] == pytest.approx(values["volume"] / 1000)
        assert values["intensity"] == pytest.approx(found.mean())
        assert values["intensity_std"] == pytest.approx(found.std())
        assert (values["intensity_min"], values["intensity_max"]) == (found.min(), found.max())
        centroid = where.mean(axis=0)
        np.testing.assert_allclose(values["centroid_vox"], centroid)
        np.testing.assert_allclose(values["centroid_mm"], volume.affine[:3, :3] @ centroid + volume.affine[:3, 3])
        assert values["bbox_vox"] == np.stack([where.min(axis=0), where.max(axis=0)], axis=1).tolist()
        axes = volume.affine[:3, :2]
        pixel = np.linalg.norm(np.cross(axes[:, 0], axes[:, 1]))
        assert values["area_mm2"] == pytest.approx(max(mask.sum(axis=(0, 1))) * pixel)
        longest = 0.0
        for k in range(volume.shape[2]):
            ends = np.concatenate(
                [np.argwhere(mask[:, :, k]) + step for step in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))]
            )
            points = ends @ axes.T
            longest = max([longest, *(float(np.linalg.norm(a - b)) for a, b in combinations(points, 2))])
        assert values["diameter_mm"] == pytest.approx(longest)


def test_a_disc_has_its_area_and_its_diameter() -> None:
    i, j = np.ogrid[:101, :101]
    disc = ((i - 50) ** 2 + (j - 50) ** 2 <= 40**2)[:, :, np.newaxis]
    values = measure(segment(1, "disc", disc), Volume(np.zeros(disc.shape), affine=np.diag([0.5, 0.5, 3, 1])))
    assert values["diameter_mm"] == pytest.approx(40.5, abs=0.3)
    assert values["area_mm2"] == pytest.approx(math.pi * 20**2, rel=0.01)


def test_overlapping_objects_count_with_all_of_their_voxels() -> None:
    volume = volume_of(PIXELS, STORAGES[0])
    one, other, _ = some_segments(volume.shape)
    assert (mask_of(one, SHAPE) & mask_of(other, SHAPE)).any()
    assert measure(one, volume)["n_voxels"] == mask_of(one, SHAPE).sum()


def test_what_is_unknown_is_null() -> None:
    nothing = some_segments(SHAPE)[2]
    values = measure(nothing, volume_of(PIXELS, STORAGES[0]))
    assert (values["n_voxels"], values["volume"], values["area_mm2"]) == (0, 0.0, 0.0)
    unknown = ("intensity", "intensity_std", "intensity_min", "centroid_vox", "centroid_mm", "bbox_vox")
    assert [values[key] for key in unknown] == [None] * 6
    picture = np.zeros((9, 7, 1, 3), np.uint8)
    mask = np.ones((9, 7, 1), bool)
    values = measure(segment(1, "all", mask), Volume(picture, is_2d=True))
    assert values["n_voxels"] == 63
    assert values["centroid_vox"] == [4.0, 3.0, 0.0]
    lacks = ("volume", "volume_ml", "area_mm2", "diameter_mm", "intensity", "centroid_mm")
    assert [values[key] for key in lacks] == [None] * 6, "a picture has neither millimetres nor grey values"


def test_voxels_that_are_no_numbers_do_not_count_as_intensities(tmp_path: Path) -> None:
    pixels = np.full(SHAPE, 2.5, np.float32)
    pixels[0, 0, 0], pixels[1, 0, 0] = np.nan, np.inf
    labels = np.ones(SHAPE, int)
    save(tmp_path / "out.json", labels, Volume(pixels, affine=np.eye(4)), names={1: "all"})
    values = json.loads((tmp_path / "out.json").read_text())["all"]
    assert (values["intensity"], values["intensity_std"], values["n_voxels"]) == (2.5, 0.0, labels.size)


def test_intensities_far_from_zero_lose_no_digits() -> None:
    pixels = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3 + 2**30).astype(np.int32)
    values = measure(segment(1, "all", np.ones(SHAPE, bool)), Volume(pixels))
    assert values["intensity_std"] == pytest.approx(math.sqrt(2 / 3))


def test_objects_of_one_name_are_told_apart_by_their_labels(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, int)
    labels[1], labels[2] = 1, 4
    save(tmp_path / "out.json", labels, Volume(PIXELS), names={1: "cyst", 4: "cyst"})
    assert list(json.loads((tmp_path / "out.json").read_text())) == ["cyst (1)", "cyst (4)"]


def test_objects_of_one_name_and_names_that_look_numbered_are_all_kept(tmp_path: Path) -> None:
    labels = np.arange(1, 5, dtype=np.uint8).reshape(4, 1, 1).repeat(2, axis=1)
    names = {1: "node", 2: "node", 3: "node (2)", 4: "liver"}
    save(tmp_path / "out.json", labels, Volume(np.zeros(labels.shape)), names=names)
    data = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert {name: values["label"] for name, values in data.items()} == {
        "node (1)": 1,
        "node (2)": 2,
        "node (2) (3)": 3,
        "liver": 4,
    }
