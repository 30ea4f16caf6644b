"""A 3-D box whose middle slice misleads: propagation is tried from other slices as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import SIDE, open_session, tiny_bundle

from runtime import Segmentation, Volume
from runtime.errors import ManifestError
from runtime.manifest import load_manifest
from runtime.propagate import ObjectPlan, other_starts

SOLID = (10, 8, 0, 39, 37, 8)


def waist(narrow: tuple[int, ...]) -> Volume:
    """A block that is almost cut through on some slices, so that a box that follows from there stays small."""
    array = np.full((SIDE, 48, 9), 20, np.uint8)
    array[10:40, 8:38] = 220
    array[:, :, narrow] = 20
    array[24:27, 22:25, narrow] = 220
    return Volume(array)


def segmented(
    folder: Path, box: tuple[int, ...] = SOLID, narrow: tuple[int, ...] = (4,), **chain: Any
) -> tuple[Segmentation, list[int]]:
    done: list[int] = []
    bundle = tiny_bundle(folder / "bundle", clicks=True, propagation={"chain": {"margin_px": 1, **chain}})
    with open_session(bundle, cache=False) as session:
        found = session.segment(waist(narrow), box=box, window=(120, 240), progress=lambda step: done.append(step.done))
    return found, done


@pytest.mark.parametrize(("narrow", "runs", "wide"), [((4,), 2, slice(0, 4)), ((2, 4), 3, slice(5, 9))])
def test_starts_are_tried_until_a_run_fills_the_box(
    tmp_path: Path, narrow: tuple[int, ...], runs: int, wide: slice
) -> None:
    found, done = segmented(tmp_path, narrow=narrow, starts=3)
    truth = waist(narrow).array > 100
    np.testing.assert_array_equal(found.label_map[:, :, wide] > 0, truth[:, :, wide])
    assert [one.slice_index for one in found.objects[0].slices] == list(range(9))
    assert max(done) == 9, "trials are no progress"
    assert len(done) == runs * 9


def test_the_best_run_is_kept_where_all_are_in_doubt(tmp_path: Path) -> None:
    found, done = segmented(tmp_path, narrow=(2, 4), starts=3, min_quality=1.0)
    assert (found.label_map > 0).any(axis=2).sum() == 900
    assert len(done) == 3 * 9


def test_one_start_is_the_middle(tmp_path: Path) -> None:
    found, done = segmented(tmp_path)
    assert (found.label_map > 0).sum(axis=(0, 1)).max() < 200
    assert len(done) == 9


def test_what_fills_the_box_is_not_tried_again(tmp_path: Path) -> None:
    _, done = segmented(tmp_path, (10, 8, 5, 39, 37, 8), starts=3)
    assert len(done) == 4


def test_only_a_solid_box_can_start_elsewhere() -> None:
    rectangle = (1.0, 2.0, 30.0, 40.0)
    plan = ObjectPlan(1, {14: rectangle}, extent=(10, 19), limit=rectangle)
    assert [tuple(one.boxes) for one in other_starts(plan, 3)] == [(12,), (17,)]
    assert other_starts(plan, 1) == []
    assert other_starts(ObjectPlan(1, {14: rectangle}, extent=(10, 19)), 3) == []
    thin = ObjectPlan(1, {10: rectangle}, extent=(10, 10), limit=rectangle)
    assert other_starts(thin, 3) == [], "there is no other slice"


@pytest.mark.parametrize("starts", [1, 2, 3, 4, 5])
def test_a_box_of_any_depth_is_followed_from_its_middle_once(starts: int) -> None:
    """Rounded another way, the middle of 40 slices would be its neighbour, which finds nothing else."""
    rectangle = (1.0, 2.0, 30.0, 40.0)
    for depth in range(1, 50):
        low, high = 7, 6 + depth
        start = (low + high) // 2
        plan = ObjectPlan(1, {start: rectangle}, extent=(low, high), limit=rectangle)
        others = [place for one in other_starts(plan, starts) for place in one.boxes]
        assert set(others) <= set(range(low, high + 1)) - {start}
        assert len(others) <= starts - starts % 2
        if depth > 6 * starts:
            assert {start - 1, start + 1}.isdisjoint(others)


def test_runs_cannot_be_compared_without_scores(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundle", propagation={"chain": {"starts": 2, "other_planes": True}})
    with pytest.raises(ManifestError, match=r"starts: runs are compared by output\.scores") as refused:
        load_manifest(folder)
    assert "other_planes: planes are weighed by output.scores" in str(refused.value)
