"""Carrying a mask from slice to slice: the published loops exactly, and lite-infer's own mode on phantoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from published import LOOPS, manifest, manifest_of

from runtime import _decoding
from runtime.errors import PromptError
from runtime.manifest import ChainSettings, LoopSettings
from runtime.propagate import ObjectPlan, SlicePrompt, Step, propagate
from runtime.transforms import Frame, frame_of
from runtime.types import Prediction

SIZE = (60, 90)
FACTS = manifest({"prompts": {"box": {"rounding": "none"}, "mask": {"kind": "logits", "size": [256, 256]}}})
FRAME = frame_of(FACTS, SIZE)
WHOLE = (0.0, 0.0, 89.0, 59.0)


# The published loops, with the stand-in decoder of the goldens


def stand_in(call: int, box: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """An ellipse around the box that wanders with the number of the call; nothing on every fifth call."""
    if call % 5 == 3:
        return np.full((256, 256), -1, np.float32)
    x0, y0, x1, y1 = map(float, box)
    scale = 256.0 / side
    centre_x = scale * (x0 + x1) / 2 + 4 * (call % 3 - 1)
    centre_y = scale * (y0 + y1) / 2 + 3 * (call // 3 % 3 - 1)
    radius_x = max(2.0, 0.9 * scale * (x1 - x0) / 2)
    radius_y = max(2.0, 0.9 * scale * (y1 - y0) / 2)
    y, x = np.mgrid[0:256, 0:256] + 0.5
    return (2 - 2 * (((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2)).astype(np.float32)


def predicted(facts: Any, frame: Frame, logits: NDArray[np.float32], score: float = 0.9) -> Prediction:
    outputs = {"low_res_logits": logits[np.newaxis, np.newaxis], "scores": np.full((1, 1), score, np.float32)}
    return _decoding.prediction(facts, [outputs], frame)


@pytest.mark.parametrize("system", LOOPS)
def test_the_published_loop_makes_the_same_calls_and_the_same_labels(conformance: Path, system: str) -> None:
    with np.load(conformance / system / "loop_3d.npz") as file:
        data = {name: file[name] for name in file.files}
    depth, height, width = (int(side) for side in data["shape"])
    facts = manifest_of(system)
    frame = frame_of(facts, (height, width))
    asked: list[NDArray[np.float32]] = []
    segs = np.zeros((depth, height, width), data["segs"].dtype)

    def decode(_: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        asked.append(prompt.box)
        return predicted(facts, frame, stand_in(len(asked) - 1, prompt.box, frame.input_size[0]))

    for label, (x0, y0, z0, x1, y1, z1) in enumerate(data["boxes"].tolist(), 1):
        rectangle = (float(x0), float(y0), float(x1), float(y1))
        last = min(z1, depth - 1) if LOOPS[system].last_slice == "included" else z1
        plan = ObjectPlan(label, {(z0 + z1) // 2: rectangle}, extent=(z0, last), limit=rectangle)
        for step in propagate(decode, plan, frame, LOOPS[system]):
            segs[step.slice_index][step.prediction.masks[0]] = label
    np.testing.assert_array_equal(np.array(asked), data["call_prompt_boxes"], strict=True)
    np.testing.assert_array_equal(segs, data["segs"], strict=True)


def ellipse_at(call: int) -> Callable[[int, SlicePrompt], Prediction]:
    def decode(_: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        return predicted(FACTS, FRAME, stand_in(call, prompt.box, 256))

    return decode


@pytest.mark.parametrize(
    ("changes", "order"),
    [
        ({}, [5, 6, 7, 8, 4, 3]),
        ({"last_slice": "excluded"}, [5, 6, 7, 4, 3]),
        ({"first_slice": "excluded"}, [5, 6, 7, 8, 4]),
    ],
)
def test_the_published_loop_goes_up_and_then_down(changes: dict[str, Any], order: list[int]) -> None:
    rectangle = (20.0, 10.0, 50.0, 40.0)
    plan = ObjectPlan(1, {5: rectangle}, extent=(3, 8), limit=rectangle)
    settings = LoopSettings(box_from="mask", **changes)
    assert [step.slice_index for step in propagate(ellipse_at(4), plan, FRAME, settings)] == order


@pytest.mark.parametrize("fallback", ["rounded", "unrounded"])
def test_the_published_fallback_may_leave_out_the_rounding_on_the_way_down(fallback: Any) -> None:
    frame = frame_of(manifest(), SIZE)
    asked: dict[int, list[float]] = {}

    def nothing(index: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        asked[index] = prompt.box.tolist()
        return predicted(manifest(), frame, np.full((256, 256), -1, np.float32))

    rectangle = (21.0, 10.0, 50.0, 41.0)
    plan = ObjectPlan(1, {5: rectangle}, extent=(3, 7), limit=rectangle)
    list(propagate(nothing, plan, frame, LoopSettings(box_from="mask", fallback_down=fallback)))
    exact = np.float32(np.array(rectangle) * (256 / 90)).tolist()
    cut = np.trunc(exact).tolist()
    assert exact != cut
    down = exact if fallback == "unrounded" else cut
    assert asked == {5: cut, 6: cut, 7: cut, 4: down, 3: down}


def test_the_published_loop_cuts_crops_around_the_neighbours_mask_or_at_the_given_box() -> None:
    rectangle = (60.0, 10.0, 89.0, 40.0)
    cut: dict[int, list[float]] = {}
    found: dict[int, NDArray[np.int64]] = {}

    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        assert prompt.image_box is not None
        cut[index] = prompt.image_box.tolist()
        logits = stand_in(3 if index == 7 else 5, prompt.box, 256)  # nothing is found on slice 7
        prediction = predicted(FACTS, FRAME, logits)
        found[index] = prediction.boxes[0]
        return prediction

    settings = LoopSettings(box_from="mask", crop_margin_px=3)
    list(propagate(decode, ObjectPlan(1, {6: rectangle}, extent=(4, 8), limit=rectangle), FRAME, settings))

    def around(index: int) -> list[float]:
        x0, y0, x1, y1 = found[index].tolist()
        return [max(x0 - 3, 0), max(y0 - 3, 0), min(x1 + 3, 90), min(y1 + 3, 60)]

    assert cut == {6: list(rectangle), 7: around(6), 8: list(rectangle), 5: around(6), 4: around(5)}
    assert found[6][2] + 3 > 90, "the mask lies at the edge"


def test_lite_infers_own_mode_cuts_crops_at_the_box_that_prompts() -> None:
    def decode(_: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        assert prompt.image_box is not None
        np.testing.assert_array_equal(FRAME.boxes_to_input(prompt.image_box[np.newaxis])[0], prompt.box)
        return predicted(FACTS, FRAME, stand_in(0, prompt.box, 256))

    box = (30.0, 20.0, 60.0, 45.0)
    assert len(list(propagate(decode, ObjectPlan(1, {5: box}, extent=(3, 8), limit=box), FRAME, ChainSettings()))) == 6


def test_the_published_loop_needs_a_solid_box() -> None:
    plan = ObjectPlan(1, {5: WHOLE}, extent=(0, 9), known_extent=False)
    with pytest.raises(PromptError, match=r"starts from a 3-D box; give six numbers"):
        list(propagate(ellipse_at(0), plan, FRAME, LoopSettings(box_from="mask")))


# lite-infer's own mode, on phantoms: the decoder finds what lies inside its box


@dataclass
class Phantom:
    """A volume of true masks (slices, rows, columns) and the prompts that it was asked with."""

    truth: NDArray[np.bool_]
    scores: dict[int, float] = field(default_factory=dict)
    asked: list[tuple[int, SlicePrompt]] = field(default_factory=list)

    def decode(self, index: int, prompt: SlicePrompt) -> Prediction:
        self.asked.append((index, prompt))
        mask = self.truth[index].copy()
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box / np.float32(FRAME.scale_xy[0])
            rows, columns = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
            mask &= (rows >= y0 - 0.01) & (rows <= y1 + 0.01) & (columns >= x0 - 0.01) & (columns <= x1 + 0.01)
        rows_in, columns_in = np.nonzero(mask)
        tight = [columns_in.min(), rows_in.min(), columns_in.max(), rows_in.max()] if rows_in.size else [-1] * 4
        score = np.full(1, self.scores.get(index, 0.9), np.float32)
        return Prediction(
            low_res_logits=np.full((1, 2, 2), float(index), np.float32),
            masks=mask[np.newaxis],
            scores=score,
            candidates=mask[np.newaxis, np.newaxis],
            candidate_scores=score[np.newaxis],
            boxes=np.array([tight]),
            areas=np.array([rows_in.size]),
        )

    @property
    def order(self) -> list[int]:
        return [index for index, _ in self.asked]

    def box(self, index: int) -> list[float]:
        """Box that a slice was asked with, in pixels of the image."""
        (prompt,) = (prompt for asked, prompt in self.asked if asked == index)
        assert prompt.box is not None
        return [round(float(value), 3) for value in prompt.box / np.float32(FRAME.scale_xy[0])]


def sphere(depth: int = 21, centre: tuple[float, float, float] = (10, 30, 45), radius: float = 8.3) -> Phantom:
    z, y, x = np.mgrid[0:depth, 0 : SIZE[0], 0 : SIZE[1]]
    return Phantom((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2)


def tight_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    rows, columns = np.nonzero(mask)
    return (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max()))


def run(phantom: Phantom, plan: ObjectPlan, **settings: Any) -> list[Step]:
    return list(propagate(phantom.decode, plan, FRAME, ChainSettings(**settings)))


def kept(steps: list[Step]) -> dict[int, NDArray[np.bool_]]:
    return {step.slice_index: step.prediction.masks[0] for step in steps if step.stop is None}


def stops(steps: list[Step]) -> dict[int, str]:
    return {step.slice_index: step.stop for step in steps if step.stop is not None}


def free(phantom: Phantom, *anchors: int, **changes: Any) -> ObjectPlan:
    """Flat boxes on some slices, the extent unknown."""
    boxes = {anchor: tight_box(phantom.truth[anchor]) for anchor in anchors}
    return ObjectPlan(1, boxes, extent=(0, len(phantom.truth) - 1), known_extent=False, **changes)


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


def disk(centre: tuple[float, float], radius: float) -> NDArray[np.bool_]:
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def test_boxes_never_leave_the_image() -> None:
    corner = Phantom(np.stack([disk((0, 89), 6)] * 5))
    run(corner, free(corner, 2), margin_px=20)
    assert corner.box(3) == [63, 0, 89, 26]


# Stops


def stack(*areas: float, centre: tuple[float, float] = (30, 45)) -> Phantom:
    """Disks of given radii, one a slice; 0 is an empty slice."""
    empty = np.zeros(SIZE, np.bool_)
    return Phantom(np.stack([disk(centre, radius) if radius else empty for radius in areas]))


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


# Known extents


def solid(phantom: Phantom, box: tuple[float, float, float, float], extent: tuple[int, int]) -> ObjectPlan:
    return ObjectPlan(1, {sum(extent) // 2: box}, extent=extent, known_extent=True, limit=box)


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
