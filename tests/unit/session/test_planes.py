"""A 3-D box that stays in doubt: the other two planes are asked as well, and the answers weighed voxel by voxel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import PLAIN, STORAGES, Storage, box_in, storage_id, stored, volume_of
from tiny_bundle import SIDE, open_session, tiny_bundle

from runtime import Box, Point, Segmentation, Volume, _volume_run
from runtime._planes import Answer, other_views, weighed
from runtime.errors import Cancelled
from runtime.geometry import plane_view
from runtime.segmentation import ObjectResult
from runtime.types import SliceResult

SOLID = (10, 8, 0, 39, 37, 26)
CHAIN = {"margin_px": 0, "starts": 3, "other_planes": True}
_WAISTS = (6, 13, 20)  # the box's middle and quarters


def waisted() -> NDArray[np.uint8]:
    """A block that is almost cut through on each slice from which a 3-D box is tried, but only along k."""
    array = np.full((SIDE, 48, 27), 20, np.uint8)
    array[10:40, 8:38] = 220
    array[:, :, _WAISTS] = 20
    array[24:27, 22:25, _WAISTS] = 220
    return array


def segmented(folder: Path, volume: Volume, *, axis: int = 2, box: Any = SOLID, **chain: Any) -> Segmentation:
    bundle = tiny_bundle(folder / "bundle", clicks=True, propagation={"chain": {**CHAIN, **chain}})
    with open_session(bundle, cache=False) as session:
        return session.segment(volume, box=box, slice_axis=axis, window=(120, 240))


def test_what_one_plane_misses_the_others_find(tmp_path: Path) -> None:
    truth = waisted() > 100
    alone = segmented(tmp_path / "alone", Volume(waisted()), other_planes=False)
    assert (alone.label_map > 0).sum() < 0.7 * truth.sum()
    found = segmented(tmp_path / "all", Volume(waisted()))
    np.testing.assert_array_equal(found.label_map > 0, truth)
    (one,) = found.objects
    assert [each.slice_index for each in one.slices] == list(range(27))
    assert [each.area for each in one.slices] == truth.sum((0, 1)).tolist()
    assert one.score == pytest.approx(np.mean([each.score for each in one.slices]))
    assert found.timings["prompts_decoded"] == alone.timings["prompts_decoded"] + 30 + 30
    assert found.slice_axis == 2


def test_where_no_other_plane_can_be_shown_the_runs_are_weighed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        _volume_run, "weighed", lambda answers, volume: asked.append(answers) or weighed(answers, volume)
    )
    volume = Volume(waisted(), spacing=(1.0, 1.0, 3.0))
    found = segmented(tmp_path, volume)
    (answers,) = asked
    assert [one.slice_axis for one in answers] == [2, 2, 2]
    assert [one.quality for one in answers] == sorted((one.quality for one in answers), reverse=True)
    wanted = weighed(answers, volume)
    assert wanted.crop.any()
    (one,) = found.objects
    assert (one.corner, one.score) == (wanted.corner, wanted.score)
    np.testing.assert_array_equal(one.crop, wanted.crop)
    assert found.timings["prompts_decoded"] == 3 * 27


def test_a_box_that_is_filled_well_is_not_asked_about_again(tmp_path: Path) -> None:
    block = np.full((SIDE, 48, 27), 20, np.uint8)
    block[10:40, 8:38] = 220
    found = segmented(tmp_path, Volume(block))
    assert found.timings["prompts_decoded"] == 27


def test_progress_says_which_plane_and_counts_the_asked_one_alone(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", clicks=True, propagation={"chain": CHAIN})
    steps = []
    with open_session(bundle, cache=False) as session:
        session.segment(Volume(waisted()), box=SOLID, window=(120, 240), progress=steps.append)
    assert {step.slice_axis for step in steps} == {0, 1, 2}
    assert {step.done for step in steps if step.slice_axis != 2} == {27}
    assert {step.total for step in steps if step.slice_axis != 2} == {None}
    assert [step.done for step in steps][:27] == list(range(1, 28))


def test_a_cancelled_trial_ends_the_call(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", clicks=True, propagation={"chain": CHAIN})
    axes: list[int] = []
    with open_session(bundle, cache=False) as session, pytest.raises(Cancelled):
        session.segment(
            Volume(waisted()),
            box=SOLID,
            window=(120, 240),
            progress=lambda step: axes.append(step.slice_axis),
            cancel=lambda: axes[-1:] == [0],
        )
    assert 2 in axes


def test_only_doubtful_objects_are_asked_about_and_each_keeps_its_extra_and_label(tmp_path: Path) -> None:
    array = waisted()
    array[45:60, 8:38] = 220  # a second block, whole
    bundle = tiny_bundle(tmp_path / "bundle", clicks=True, propagation={"chain": CHAIN})
    boxes = [Box((45, 8, 0, 59, 37, 26), name="whole"), Box(SOLID, name="waisted")]
    steps = []
    with open_session(bundle, cache=False) as session:
        found = session.segment(Volume(array), boxes=boxes, window=(120, 240), progress=steps.append)
    assert {step.name for step in steps if step.slice_axis != 2} == {"waisted"}
    np.testing.assert_array_equal(found.label_map == 2, waisted() > 100)
    assert (found.label_map == 1).sum() == 15 * 30 * 27


@pytest.mark.parametrize("prompts", [[Box((10, 8, 39, 37), slice_index=13)], [Box(SOLID), Point((25, 23, 13))]])
def test_other_prompts_than_a_3d_box_alone_stay_in_their_plane(tmp_path: Path, prompts: list[Box | Point]) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", clicks=True, propagation={"chain": {**CHAIN, "min_quality": 1.0}})
    steps = []
    with open_session(bundle, cache=False) as session:
        session.segment(Volume(waisted()), prompts=prompts, window=(120, 240), progress=steps.append)
    assert {step.slice_axis for step in steps} == {2}


@pytest.mark.parametrize("storage", STORAGES, ids=storage_id)
def test_every_orientation_weighs_to_the_same_voxels(tmp_path: Path, storage: Storage) -> None:
    array, affine = waisted(), np.diag([1.0, 1.2, 1.6, 1.0])
    array[:, 20:, 3] = 20  # no symmetry
    wanted = segmented(tmp_path / "plain", volume_of(array, PLAIN, affine)).label_map
    assert wanted.any()
    volume = volume_of(array, storage, affine)
    box = box_in(storage, SOLID, array.shape)
    found = segmented(tmp_path / "stored", volume, axis=volume.slice_axis_of("axial"), box=box)
    np.testing.assert_array_equal(found.label_map, stored(wanted, storage))
    assert found.timings["prompts_decoded"] > 3 * array.shape[2], "other planes were asked"


@pytest.mark.parametrize(
    ("shape", "spacing", "views"),
    [
        ((60, 50, 40), (1.0, 1.0, 1.0), 2),
        ((60, 50, 40), (1.0, 1.0, 2.0), 2),
        ((60, 50, 40), (1.0, 1.0, 2.1), 0),
        ((60, 50, 15), (1.0, 1.0, 1.0), 2),
        ((60, 50, 14), (1.0, 1.0, 1.0), 0),
        ((60, 50, 1), (1.0, 1.0, 1.0), 0),
    ],
)
def test_planes_whose_images_would_be_strips_or_distorted_are_left_out(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], views: int
) -> None:
    volume = Volume(np.zeros(shape, np.uint8), spacing=spacing)
    found = other_views(volume, 2)
    assert [view.slice_axis for view in found] == [0, 1][:views]
    assert [view.shape for view in found] == [plane_view(volume, axis).shape for axis in (0, 1)][:views]


def answer(axis: int, mask: NDArray[np.bool_], scores: list[float], fill: float = 1.0) -> Answer:
    result = ObjectResult("it", 3, 0.5, (), (0, 0, 0), np.zeros((0, 0, 0), np.bool_), (4, 4, 4))
    if mask.any():
        low = [int(np.nonzero(mask)[side].min()) for side in range(3)]
        high = [int(np.nonzero(mask)[side].max()) + 1 for side in range(3)]
        crop = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        result = replace(result, corner=(low[0], low[1], low[2]), crop=crop)
    slices = tuple(SliceResult(index, score, 1, None) for index, score in enumerate(scores))
    return Answer(replace(result, slices=slices), axis, fill, fill * float(np.mean(scores)))


def test_a_voxel_counts_with_fill_and_the_score_of_its_slice() -> None:
    volume = Volume(np.zeros((4, 4, 4), np.uint8))
    first, second, third = (np.zeros((4, 4, 4), np.bool_) for _ in range(3))
    first[0, 0, :] = True
    second[0, :2, 0] = True
    third[3, 3, 3] = True
    answers = [
        answer(2, first, [0.9, 0.1, 0.1, 0.6]),
        answer(1, second, [0.2, 0.8, 0.1, 0.1]),
        answer(0, third, [0.1, 0.1, 0.1, 0.9], fill=0.9),
    ]
    found = weighed(answers, volume)
    wanted = np.zeros((4, 4, 4), np.bool_)
    wanted[0, 0, 0] = True  # .9 + .2 of 1.19
    wanted[0, 0, 3] = True  # .6 of .89
    wanted[3, 3, 3] = True  # .81 of 1.51
    np.testing.assert_array_equal(found.mask, wanted)
    assert [one.area for one in found.slices] == [1, 0, 0, 2]
    assert [one.score for one in found.slices] == [0.9, 0.1, 0.1, 0.6]
    assert found.score == pytest.approx(0.75)
    assert (found.name, found.label) == ("it", 3)


def test_no_mask_in_any_plane_is_an_empty_answer() -> None:
    nothing = np.zeros((4, 4, 4), np.bool_)
    found = weighed([answer(axis, nothing, [0.5] * 4) for axis in (2, 0, 1)], Volume(np.zeros((4, 4, 4), np.uint8)))
    assert found.voxels == 0
    assert np.isnan(found.score)


def test_masks_without_any_weight_are_no_majority() -> None:
    mask = np.ones((4, 4, 4), np.bool_)
    found = weighed([answer(axis, mask, [0.0] * 4) for axis in (2, 0, 1)], Volume(np.zeros((4, 4, 4), np.uint8)))
    assert found.voxels == 0
