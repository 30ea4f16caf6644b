"""lite-infer's own way from slice to slice: what is followed, with which boxes, and where it ends."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import Phantom, disk, free, kept, run, sphere, stack, stops, tight_box

from runtime.propagate import ObjectPlan


def test_a_sphere_is_followed_from_its_equator_to_both_poles_and_no_further() -> None:
    phantom = sphere()
    steps = run(phantom, free(phantom, 10), max_area_ratio=100, min_overlap=0.01)
    found = kept(steps)
    assert sorted(found) == list(range(2, 19))
    for index, mask in found.items():
        np.testing.assert_array_equal(mask, phantom.truth[index])
    assert stops(steps) == {1: "empty", 19: "empty"}


def test_slices_are_decoded_up_first_each_once() -> None:
    phantom = sphere()
    steps = run(phantom, free(phantom, 10), max_area_ratio=100, min_overlap=0.01)
    assert phantom.order == [*range(10, 20), *range(9, 0, -1)]
    assert [step.slice_index for step in steps] == phantom.order


def test_the_next_box_is_the_tight_box_of_this_mask_grown_by_the_margin() -> None:
    phantom = sphere()
    run(phantom, free(phantom, 10), margin_px=3.5)
    assert phantom.box(10) == list(tight_box(phantom.truth[10]))
    for index, step in ((11, -1), (9, 1)):
        x0, y0, x1, y1 = tight_box(phantom.truth[index + step])
        assert phantom.box(index) == [x0 - 3.5, y0 - 3.5, x1 + 3.5, y1 + 3.5]


def test_a_growing_object_is_followed_only_as_fast_as_the_margin_allows() -> None:
    cone = Phantom(np.stack([disk((30, 45), 4 + 3 * k) for k in range(8)]))
    steps = run(cone, free(cone, 0), margin_px=1)
    x0, _, x1, _ = tight_box(cone.truth[0])
    last = kept(steps)[7]
    assert tight_box(last)[0] == x0 - 7
    assert tight_box(last)[2] == x1 + 7


def test_boxes_never_leave_the_image() -> None:
    corner = Phantom(np.stack([disk((0, 89), 6)] * 5))
    run(corner, free(corner, 2), margin_px=20)
    assert corner.box(3) == [63, 0, 89, 26]


# Stops


def test_it_stops_at_the_first_empty_mask() -> None:
    steps = run(phantom := stack(0, 9, 9, 0, 9), free(phantom, 2))
    assert stops(steps) == {3: "empty", 0: "empty"}
    assert sorted(kept(steps)) == [1, 2]


def test_it_stops_at_a_low_score_and_not_without_a_score() -> None:
    phantom = stack(9, 9, 9, 9, 9, 9)
    phantom.scores = {4: 0.49, 1: 0.5}
    steps = run(phantom, free(phantom, 3), min_score=0.5)
    assert stops(steps) == {4: "score"}
    assert sorted(kept(steps)) == [0, 1, 2, 3]
    phantom = stack(9, 9, 9)
    phantom.scores = dict.fromkeys(range(3), float("nan"))
    assert stops(run(phantom, free(phantom, 1), min_score=1.0)) == {}


@pytest.mark.parametrize("radii", [(9, 9, 4), (4, 4, 9)])
def test_it_stops_where_the_area_grows_or_shrinks_too_much(radii: tuple[float, ...]) -> None:
    phantom = stack(*radii)
    steps = run(phantom, free(phantom, 1), max_area_ratio=3, min_overlap=0, margin_px=10)
    assert stops(steps) == {2: "area"}
    phantom = stack(*radii)
    assert stops(run(phantom, free(phantom, 1), max_area_ratio=6, min_overlap=0, margin_px=10)) == {}


def test_it_stops_where_two_masks_overlap_too_little() -> None:
    masks = np.stack([disk((30, 40), 8), disk((30, 40), 8), disk((30, 50), 8)])
    phantom = Phantom(masks)
    shared = np.count_nonzero(masks[1] & masks[2]) / np.count_nonzero(masks[1] | masks[2])
    assert stops(run(phantom, free(phantom, 1), min_overlap=shared + 0.01, margin_px=20)) == {2: "overlap"}
    phantom = Phantom(masks)
    assert stops(run(phantom, free(phantom, 1), min_overlap=shared - 0.01, margin_px=20)) == {}


def test_one_direction_goes_on_where_the_other_has_stopped() -> None:
    steps = run(phantom := stack(9, 9, 9, 9, 0), free(phantom, 3))
    assert phantom.order == [3, 4, 2, 1, 0]
    assert stops(steps) == {4: "empty"}


def test_an_empty_mask_on_the_prompted_slice_is_where_the_object_ends() -> None:
    phantom = stack(9, 9, 0, 9, 9)
    plan = ObjectPlan(1, {2: (30.0, 20.0, 60.0, 40.0)}, extent=(0, 4), known_extent=False)
    steps = run(phantom, plan)
    assert phantom.order == [2], "there is nothing to follow"
    assert stops(steps) == {2: "empty"}


# Symmetry


@pytest.mark.parametrize("known", [True, False])
def test_a_mirrored_volume_gives_the_mirrored_masks(known: bool) -> None:
    rng = np.random.default_rng(3)
    masks = np.stack([disk((30 + dy, 45 + dx), radius) for dy, dx, radius in wander(rng, 15)])
    depth = len(masks)

    def segmented(truth: NDArray[np.bool_], anchor: int) -> dict[int, NDArray[np.bool_]]:
        phantom = Phantom(truth)
        box = tight_box(truth[anchor])
        plan = ObjectPlan(1, {anchor: box}, extent=(0, depth - 1), known_extent=known)
        return kept(run(phantom, plan, margin_px=2))

    plain, mirrored = segmented(masks, 5), segmented(masks[::-1], depth - 1 - 5)
    assert sorted(plain) == sorted(depth - 1 - index for index in mirrored)
    assert len(plain) > 3
    for index, mask in plain.items():
        np.testing.assert_array_equal(mask, mirrored[depth - 1 - index])


def wander(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    steps = np.cumsum(rng.normal(0, 1.5, (count, 2)), axis=0)
    return [(float(dy), float(dx), float(9 + rng.normal(0, 0.7))) for dy, dx in steps]
