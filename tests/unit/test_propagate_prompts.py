"""lite-infer's own way from slice to slice: known extents, several prompted slices, points and masks as prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from phantoms import FRAME, Phantom, disk, free, kept, run, solid, sphere, stack, stops, tight_box

from runtime.errors import PromptError
from runtime.manifest import ChainSettings
from runtime.propagate import ObjectPlan, SlicePrompt, propagate
from runtime.types import Prediction

# Known extents


def test_a_solid_box_is_decoded_through_and_through_and_nowhere_else() -> None:
    phantom = sphere()
    steps = run(phantom, solid(phantom, (30.0, 15.0, 60.0, 45.0), (6, 20)))
    assert phantom.order == [*range(13, 21), *range(12, 5, -1)]
    assert stops(steps) == {}
    np.testing.assert_array_equal(kept(steps)[6], phantom.truth[6])


def test_no_box_leaves_the_solid_one() -> None:
    phantom = stack(*[20.0] * 7)
    limit = (40.0, 20.0, 55.0, 35.0)
    run(phantom, solid(phantom, limit, (0, 6)), margin_px=9)
    for index in range(7):
        assert phantom.box(index) == list(limit)


def test_the_rectangle_of_a_3d_box_is_a_limit_while_nothing_else_is_known() -> None:
    box = (30.0, 15.0, 60.0, 45.0)
    phantom, lost, drawn = stack(9, 9, 9, 9), stack(9, 9, 0, 9, 9), stack(9, 9, 9)
    run(phantom, solid(phantom, box, (0, 3)), mask_prompt=True)
    run(lost, solid(lost, box, (0, 4)), mask_prompt=True)
    run(drawn, ObjectPlan(1, {1: box}, extent=(0, 2)), mask_prompt=True)
    limits = [{index for index, prompt in one.asked if prompt.is_limit} for one in (phantom, lost, drawn)]
    assert limits == [{1}, {1, 2, 3}, set()], "the middle; until something is found; not where one slice has the box"


def overflowing(phantom: Phantom) -> Callable[[int, SlicePrompt], Prediction]:
    """A decoder that answers beyond its box."""

    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        return phantom.decode(index, SlicePrompt(None, prompt.points, prompt.point_labels))

    return decode


def test_masks_are_cut_to_the_solid_box() -> None:
    phantom = stack(20.0, 20.0, 20.0)
    plan = solid(phantom, (39.6, 21.0, 50.4, 59.5), (0, 2))
    for step in propagate(overflowing(phantom), plan, FRAME, ChainSettings()):
        wanted = phantom.truth[step.slice_index].copy()
        wanted[:21] = wanted[:, :40] = wanted[:, 51:] = False
        np.testing.assert_array_equal(step.prediction.masks[0], wanted)
        np.testing.assert_array_equal(step.prediction.candidates[0, 0], wanted)
        assert step.prediction.boxes.tolist() == [list(tight_box(wanted))]
        assert step.prediction.areas.tolist() == [wanted.sum()]


def test_masks_are_not_cut_to_the_box_of_one_slice() -> None:
    phantom = stack(20.0, 20.0, 20.0)
    for known in (True, False):
        plan = ObjectPlan(1, {1: (40.0, 21.0, 50.0, 59.0)}, extent=(0, 2), known_extent=known)
        for step in propagate(overflowing(phantom), plan, FRAME, ChainSettings()):
            np.testing.assert_array_equal(step.prediction.masks[0], phantom.truth[step.slice_index])


def test_an_empty_mask_keeps_the_box_before_it_within_a_known_extent() -> None:
    phantom = stack(9, 6, 0, 0, 6, 9)
    box = (30.0, 15.0, 60.0, 45.0)
    steps = run(phantom, ObjectPlan(1, {1: box}, extent=(0, 5), known_extent=True, limit=box), margin_px=1)
    expected = [38.0, 23.0, 52.0, 37.0]
    assert [phantom.box(index) for index in (2, 3, 4)] == [expected] * 3
    np.testing.assert_array_equal(kept(steps)[4], phantom.truth[4])
    assert stops(steps) == {}


def test_an_empty_prompted_slice_keeps_its_box_within_a_known_extent() -> None:
    phantom = stack(9, 9, 0, 9, 9)
    box = (30.0, 15.0, 60.0, 45.0)
    steps = run(phantom, solid(phantom, box, (0, 4)))
    assert phantom.box(1) == phantom.box(3) == list(box)
    assert sum(mask.any() for mask in kept(steps).values()) == 4


def test_a_range_of_slices_limits_the_slices_and_not_the_boxes() -> None:
    phantom = sphere()
    plan = ObjectPlan(1, {10: tight_box(phantom.truth[10])}, extent=(8, 13), known_extent=True)
    steps = run(phantom, plan, margin_px=2)
    assert sorted(kept(steps)) == [8, 9, 10, 11, 12, 13]
    x0, y0, x1, y1 = tight_box(phantom.truth[10])
    assert phantom.box(11) == [x0 - 2, y0 - 2, x1 + 2, y1 + 2]


def test_a_mask_beside_the_solid_box_does_not_turn_the_next_box_inside_out() -> None:
    """A decoder may answer beside its box."""
    phantom = stack(9, 9, 9)
    plan = solid(phantom, (5.0, 5.0, 12.0, 12.0), (0, 2))
    asked = []

    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        asked.append((prompt.box / np.float32(FRAME.scale_xy[0])).round(3).tolist())
        return overflowing(phantom)(index, prompt)

    steps = list(propagate(decode, plan, FRAME, ChainSettings()))
    assert asked == [[5, 5, 12, 12]] * 3
    assert not any(step.prediction.masks.any() for step in steps), "the mask is beside the box altogether"


@pytest.mark.parametrize("extent", [(4, 4), (0, 0), (20, 20)])
def test_an_extent_of_one_slice_is_one_call(extent: tuple[int, int]) -> None:
    phantom = sphere()
    run(phantom, solid(phantom, (30.0, 15.0, 60.0, 45.0), extent))
    assert phantom.order == [extent[0]]


# Several prompted slices


def test_boxes_between_prompted_slices_are_interpolated() -> None:
    phantom = stack(*[9.0] * 12)
    plan = ObjectPlan(1, {3: (20.0, 10.0, 60.0, 40.0), 7: (28.0, 18.0, 64.0, 44.0)}, extent=(0, 11), known_extent=False)
    run(phantom, plan)
    assert phantom.box(3) == [20, 10, 60, 40]
    assert phantom.box(4) == [22, 12, 61, 41]
    assert phantom.box(5) == [24, 14, 62, 42]
    assert phantom.box(7) == [28, 18, 64, 44]
    assert phantom.order == [3, 4, 5, 6, 7, 8, 9, 10, 11, 2, 1, 0]


def bent(*columns: float, radius: float = 6.0) -> Phantom:
    """A disk whose centre is at a given column on each slice."""
    return Phantom(np.stack([disk((30, column), radius) for column in columns]))


BEND = (12, 12, 12, 12, 15, 18, 21, 24, 27, 30, 33)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("turned", [False, True])
def test_what_has_gone_far_between_prompted_slices_is_followed_on_its_way(known: bool, turned: bool) -> None:
    """Half-way it is at 18, where a straight line from 12 to 33 has it at 22.5 and cuts it."""
    phantom = bent(*BEND[:: -1 if turned else 1])
    plan = replace(free(phantom, 0, 10), known_extent=known)
    steps = run(phantom, plan, margin_px=4)
    assert [step.slice_index for step in steps] == list(range(11))
    for index, mask in kept(steps).items():
        np.testing.assert_array_equal(mask, phantom.truth[index])
    assert all(count <= 2 for count in Counter(phantom.order).values()), "there and back, and nothing straight"


def test_what_is_not_followed_into_the_other_box_is_looked_for_on_a_straight_line() -> None:
    """Two things: the one on the first slice ends there, and the one on the last begins there."""
    phantom = bent(12, 12, 12, 12, 12, 12, 60, 60, 60, 60, 60)
    plan = free(phantom, 0, 10)
    run(phantom, plan, margin_px=1)
    straight = [prompt.box for index, prompt in phantom.asked if index == 5 and prompt.box is not None]
    assert (straight[-1] / np.float32(FRAME.scale_xy[0])).round(3).tolist() == [30.0, 24.0, 42.0, 36.0]


def test_boxes_that_overlap_are_interpolated_however_it_goes() -> None:
    phantom = bent(20, 20, 20, 20, 24)
    run(phantom, free(phantom, 0, 4), margin_px=4)
    assert phantom.order == [0, 1, 2, 3, 4]
    assert phantom.box(2) == [16, 24, 28, 36]


def test_beyond_the_outer_prompted_slices_it_is_followed_as_from_one() -> None:
    phantom = sphere()
    steps = run(phantom, free(phantom, 7, 13), max_area_ratio=100, min_overlap=0.01)
    assert sorted(kept(steps)) == list(range(2, 19))
    assert stops(steps) == {19: "empty", 1: "empty"}
    assert sorted(phantom.order) == list(range(1, 20))


def test_an_empty_slice_between_prompted_ones_does_not_stop_anything() -> None:
    phantom = stack(9, 9, 0, 9, 9, 9)
    box = (30.0, 15.0, 60.0, 45.0)
    steps = run(phantom, ObjectPlan(1, {1: box, 4: box}, extent=(0, 5), known_extent=False))
    assert stops(steps) == {}
    assert sorted(phantom.order) == [0, 1, 2, 3, 4, 5]


def test_neighbouring_prompted_slices_need_nothing_between_them() -> None:
    phantom = stack(*[9.0] * 6)
    box = (30.0, 15.0, 60.0, 45.0)
    run(phantom, ObjectPlan(1, {2: box, 3: box, 5: box}, extent=(0, 5), known_extent=True))
    assert phantom.order == [2, 3, 4, 5, 1, 0]


# Points and mask prompts


def test_points_go_to_their_slices_in_the_input_frame() -> None:
    phantom = stack(*[9.0] * 5)
    points = {2: ((45.0, 30.0, 1.0), (5.0, 6.0, 0.0)), 4: ((44.0, 31.0, 1.0),)}
    run(phantom, free(phantom, 2, points=points))
    prompts = dict(phantom.asked)
    scale = np.float32(256 / 90)
    np.testing.assert_allclose(prompts[2].points, np.float32([[45, 30], [5, 6]]) * scale, rtol=1e-6)
    assert prompts[2].points.dtype == prompts[2].point_labels.dtype == np.float32
    assert prompts[2].point_labels.tolist() == [1, 0]
    assert prompts[4].point_labels.tolist() == [1]
    assert prompts[3].points.shape == (0, 2)


def test_an_object_of_points_alone_starts_without_a_box_and_goes_on_with_one() -> None:
    phantom = stack(*[9.0] * 5)
    plan = ObjectPlan(1, {}, {2: ((45.0, 30.0, 1.0),)}, extent=(0, 4), known_extent=False)
    run(phantom, plan, margin_px=1)
    assert dict(phantom.asked)[2].box is None
    assert phantom.box(3) == [35, 20, 55, 40]


def test_points_that_find_nothing_end_at_once() -> None:
    for known in (True, False):
        phantom = stack(9, 9, 0, 9, 9)
        plan = ObjectPlan(1, {}, {2: ((45.0, 30.0, 1.0),)}, extent=(0, 4), known_extent=known)
        steps = run(phantom, plan)
        assert phantom.order == [2]
        assert not steps[0].prediction.areas[0]


@pytest.mark.parametrize("wanted", [False, True])
def test_the_logits_of_the_slice_before_are_a_prompt_where_the_bundle_wants_them(wanted: bool) -> None:
    phantom = stack(9, 9, 0, 9, 9)
    box = (30.0, 15.0, 60.0, 45.0)
    run(phantom, ObjectPlan(1, {1: box}, extent=(0, 4), known_extent=True, limit=box), mask_prompt=wanted)
    logits = {index: prompt.mask_logits for index, prompt in phantom.asked}
    assert logits[1] is None
    if not wanted:
        assert not any(value is not None for value in logits.values())
        return
    for index, before in ((0, 1), (2, 1), (4, 3)):
        found = logits[index]
        assert found is not None
        assert found.shape == (2, 2)
        assert found[0, 0] == before
    assert logits[3] is None, "an empty mask is no prompt"


def test_an_object_without_a_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match=r"an object without a prompt"):
        run(sphere(), ObjectPlan(1, {}, extent=(0, 4)))
