"""Propagation, whatever the decoder answers: each slice once, in order, within the limits."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from phantoms import answer_of
from published import manifest

from runtime.manifest import ChainSettings, LoopSettings
from runtime.propagate import ObjectPlan, SlicePrompt, course_of, propagate, slice_orders
from runtime.transforms import frame_of
from runtime.types import Prediction

SIZE = (12, 17)
FRAME = frame_of(manifest({"prompts": {"box": {"rounding": "none"}}}), SIZE)
SCALE = np.float64(FRAME.scale_xy[0])

boxes = st.tuples(st.integers(0, 16), st.integers(0, 11), st.integers(0, 16), st.integers(0, 11)).map(
    lambda box: (
        float(min(box[0], box[2])),
        float(min(box[1], box[3])),
        float(max(box[0], box[2])),
        float(max(box[1], box[3])),
    )
)
chains = st.builds(
    ChainSettings,
    margin_px=st.floats(0, 9),
    mask_prompt=st.booleans(),
    min_score=st.floats(0, 1),
    min_overlap=st.floats(0, 1),
    max_area_ratio=st.floats(1.1, 9),
)


def answer(seed: int, index: int) -> Prediction:
    """A mask of any size anywhere, often empty; the same for the same slice."""
    rng = np.random.default_rng([seed, index])
    mask = np.zeros(SIZE, np.bool_)
    if rng.random() < 0.8:
        y0, y1 = sorted(rng.integers(0, SIZE[0], 2))
        x0, x1 = sorted(rng.integers(0, SIZE[1], 2))
        mask[y0 : y1 + 1, x0 : x1 + 1] = rng.random((y1 - y0 + 1, x1 - x0 + 1)) < 0.7
    return answer_of(mask, rng.choice([np.nan, rng.random()]))


@st.composite
def plans(draw: st.DrawFn) -> ObjectPlan:
    depth = draw(st.integers(1, 12))
    first = draw(st.integers(0, depth - 1))
    last = draw(st.integers(first, depth - 1))
    anchors = draw(st.lists(st.integers(first, last), min_size=1, max_size=3, unique=True))
    if draw(st.booleans()):
        limit = draw(boxes)
        return ObjectPlan(1, {(first + last) // 2: limit}, extent=(first, last), known_extent=True, limit=limit)
    known = draw(st.booleans())
    if draw(st.integers(0, 4)) == 0:
        return ObjectPlan(1, {}, {anchors[0]: ((3.0, 4.0, 1.0),)}, extent=(first, last), known_extent=known)
    return ObjectPlan(1, {one: draw(boxes) for one in anchors}, extent=(first, last), known_extent=known)


@given(plans(), chains, st.integers(0, 10**6))
def test_each_slice_comes_once_and_every_box_stays_inside(plan: ObjectPlan, settings: ChainSettings, seed: int) -> None:
    asked: list[int] = []
    x_low, y_low, x_high, y_high = plan.limit or (0.0, 0.0, SIZE[1] - 1.0, SIZE[0] - 1.0)

    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        asked.append(index)
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box / SCALE
            assert x_low - 1e-4 <= x0 <= x1 <= x_high + 1e-4
            assert y_low - 1e-4 <= y0 <= y1 <= y_high + 1e-4
        return answer(seed, index)

    steps = list(propagate(decode, plan, FRAME, settings))
    first, last = plan.extent
    found = [step.slice_index for step in steps]
    assert set(found) == set(asked)
    assert [index for order in slice_orders(plan, settings) for index in order if index in asked] == found
    between = range(plan.anchors[0], plan.anchors[-1] + 1)
    assert all(asked.count(index) <= (3 if index in between else 1) for index in found), "two ways and a straight one"
    assert all(first <= index <= last for index in found)
    assert sorted(found) == list(range(min(found), max(found) + 1)), "no slice is left out"
    assert set(plan.anchors) <= set(found)
    if plan.known_extent and plan.boxes:
        assert sorted(found) == list(range(first, last + 1))
        assert not any(step.stop for step in steps)
    for step in steps:
        mask = step.prediction.masks[0]
        assert step.prediction.areas[0] == mask.sum()
        if plan.limit is not None:
            rows, columns = np.nonzero(mask)
            assert not rows.size or (columns.min() >= x_low and columns.max() <= x_high)
            assert not rows.size or (rows.min() >= y_low and rows.max() <= y_high)


@given(plans(), chains, st.integers(0, 10**6))
def test_a_stop_is_the_last_step_of_its_direction(plan: ObjectPlan, settings: ChainSettings, seed: int) -> None:
    steps = list(propagate(lambda index, _: answer(seed, index), plan, FRAME, settings))
    low, high = plan.anchors[0], plan.anchors[-1]
    above = [step for step in steps if step.slice_index > high]
    below = [step for step in steps if step.slice_index < low]
    for direction in (above, below):
        assert not any(step.stop for step in direction[:-1])
    assert [step.slice_index for step in above] == sorted(step.slice_index for step in above)
    assert [step.slice_index for step in below] == sorted((step.slice_index for step in below), reverse=True)
    for step in steps:
        assert step.stop in (None, "empty", "score", "overlap", "area")
        assert step.stop != "empty" or not step.prediction.areas[0]
        assert plan.known_extent or step.stop or step.prediction.areas[0] or low < step.slice_index < high


@given(plans(), chains, st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_walks_need_nothing_of_each_other(
    plan: ObjectPlan, settings: ChainSettings, seed: int, turns: random.Random
) -> None:
    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        return answer(seed + (0 if prompt.box is None else int(prompt.box.sum())), index)

    course = course_of(decode, plan, FRAME, settings)
    steps = list(course.prompted())
    walks = list(course.walks(steps[0], steps[-1]))
    while walks:
        walk = turns.choice(walks)
        step = next(walk, None)
        if step is None:
            walks.remove(walk)
        else:
            steps.append(step)
    expected = {step.slice_index: step for step in propagate(decode, plan, FRAME, settings)}
    assert sorted(step.slice_index for step in steps) == sorted(expected)
    for step in steps:
        assert step.stop == expected[step.slice_index].stop
        np.testing.assert_array_equal(step.prediction.masks, expected[step.slice_index].prediction.masks)


def mirrored(plan: ObjectPlan, depth: int) -> ObjectPlan:
    turn = depth - 1
    return ObjectPlan(
        plan.label,
        {turn - index: box for index, box in plan.boxes.items()},
        {turn - index: clicks for index, clicks in plan.points.items()},
        (turn - plan.extent[1], turn - plan.extent[0]),
        plan.known_extent,
        plan.limit,
    )


@given(plans(), chains, st.integers(0, 10**6))
def test_a_mirrored_stack_gives_the_mirrored_result(plan: ObjectPlan, settings: ChainSettings, seed: int) -> None:
    turn = 11
    plain = propagate(lambda index, _: answer(seed, index), plan, FRAME, settings)
    other = propagate(lambda index, _: answer(seed, turn - index), mirrored(plan, turn + 1), FRAME, settings)
    results = [{step.slice_index: step for step in plain}, {turn - step.slice_index: step for step in other}]
    assert sorted(results[0]) == sorted(results[1])
    for index, step in results[0].items():
        assert step.stop == results[1][index].stop
        np.testing.assert_array_equal(step.prediction.masks, results[1][index].prediction.masks)


@given(
    st.integers(0, 8),
    st.integers(0, 8),
    boxes,
    st.fixed_dictionaries(
        {
            "box_from": st.sampled_from(["mask", "resized_label"]),
            "margin_px": st.integers(0, 5),
            "last_slice": st.sampled_from(["included", "excluded"]),
            "first_slice": st.sampled_from(["included", "excluded"]),
            "fallback_down": st.sampled_from(["rounded", "unrounded"]),
        }
    ),
    st.integers(0, 10**6),
)
def test_the_published_loop_decodes_each_slice_of_the_solid_box_once(
    low: int, high: int, limit: Any, facts: dict[str, Any], seed: int
) -> None:
    first, last = sorted((low, high))
    plan = ObjectPlan(1, {(first + last) // 2: limit}, extent=(first, last), known_extent=True, limit=limit)
    asked: list[int] = []

    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        assert np.isfinite(prompt.box).all()
        asked.append(index)
        return answer(seed, index)

    steps = list(propagate(decode, plan, FRAME, LoopSettings(**facts)))
    top = last - (facts["last_slice"] == "excluded")
    bottom = first + (facts["first_slice"] == "excluded")
    middle = (first + last) // 2
    wanted = [*range(middle, top + 1), *range(middle - 1, bottom - 1, -1)]
    assert asked == [step.slice_index for step in steps] == wanted
