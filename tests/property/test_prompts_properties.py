"""Prompts are placed on the voxels they name, or refused; nothing else escapes."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scenes import STORAGES, Storage, scene, volume_of

from runtime.errors import ImageError, PromptError
from runtime.geometry import plane_view
from runtime.prompt_text import parse_box, parse_point, read_prompts
from runtime.prompts import group_prompts, plan_objects, world_box
from runtime.types import Box, Point

storages = st.sampled_from(STORAGES)
axes = st.integers(0, 2)
numbers = st.one_of(st.integers(-3, 14), st.floats(-3, 14), st.sampled_from([float("nan"), float("inf"), 1e300]))
names = st.one_of(st.none(), st.sampled_from(["a", "b", "object 1", "object 2"]))
slices = st.one_of(st.none(), st.integers(-2, 12))


@st.composite
def prompts(draw: st.DrawFn) -> Box | Point | None:
    """Any prompt, or None where its numbers make none."""
    try:
        if draw(st.booleans()):
            values = draw(st.lists(numbers, min_size=4, max_size=6))
            return Box(tuple(values), draw(slices), draw(names))
        values = draw(st.lists(numbers, min_size=2, max_size=3))
        return Point(tuple(values), draw(st.booleans()), draw(slices), draw(names))
    except PromptError:
        return None


@given(
    st.lists(prompts(), max_size=5),
    storages,
    axes,
    slices,
    st.one_of(st.none(), st.tuples(slices, slices), st.just("x")),
)
def test_whatever_is_asked_is_placed_inside_the_view_or_refused(
    asked: list[Box | Point | None], storage: Storage, slice_axis: int, slice_index: int | None, z_range: Any
) -> None:
    volume = volume_of(scene(), storage)
    view = plane_view(volume, slice_axis)
    given_prompts = [prompt for prompt in asked if prompt is not None]
    try:
        objects = plan_objects(volume, view, given_prompts, slice_index=slice_index, z_range=z_range)
    except PromptError:
        return
    rows, columns, depth = view.shape
    assert [one.plan.label for one in objects] == list(range(1, len(objects) + 1))
    assert len({one.name for one in objects}) == len(objects)
    for one in objects:
        plan = one.plan
        assert plan.anchors
        first, last = plan.extent
        assert 0 <= first <= last < depth
        assert all(first <= position <= last for position in (*plan.boxes, *plan.points))
        for x0, y0, x1, y1 in plan.boxes.values():
            assert -0.5 <= x0 <= x1 <= columns - 0.5
            assert -0.5 <= y0 <= y1 <= rows - 0.5
        for clicks in plan.points.values():
            assert all(-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5 for x, y, _ in clicks)


@given(st.lists(prompts(), max_size=6))
def test_no_prompt_is_lost_or_doubled_in_grouping(asked: list[Box | Point | None]) -> None:
    given_prompts = [prompt for prompt in asked if prompt is not None]
    try:
        groups = group_prompts(given_prompts)
    except PromptError:
        return
    grouped = [prompt for group in groups for prompt in (*group.boxes, *group.points)]
    assert sorted(map(repr, grouped)) == sorted(map(repr, given_prompts))
    assert all(group.boxes or group.points for group in groups)
    for group in groups:
        unnamed = [box for box in group.boxes if box.name is None]
        assert len(unnamed) <= 1, "every unnamed box is an object of its own"
        assert not unnamed or len(group.boxes) == 1


@given(storages, axes, st.data())
def test_a_world_box_of_two_voxel_centres_is_the_box_of_those_voxels(
    storage: Storage, slice_axis: int, data: st.DataObject
) -> None:
    volume = volume_of(scene(), storage)
    assert volume.affine is not None
    corners = np.array([[data.draw(st.integers(0, size - 1)) for size in volume.shape] for _ in range(2)])
    world = corners @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    box = world_box(volume, world.ravel().tolist(), slice_axis)
    assert box.xyxy == (*corners.min(axis=0), *corners.max(axis=0))


@given(storages, axes, st.lists(st.floats(-60, 60), min_size=3, max_size=7), st.one_of(st.none(), st.floats(-60, 60)))
def test_a_world_box_is_inside_the_volume_or_refused(
    storage: Storage, slice_axis: int, values: list[float], slice_mm: float | None
) -> None:
    volume = volume_of(scene(), storage)
    try:
        box = world_box(volume, values, slice_axis, slice_mm)
    except (PromptError, ImageError):
        return
    plan_objects(volume, plane_view(volume, slice_axis), [box])
    assert box.is_3d == (len(values) == 6)


@given(st.text(alphabet="0123456789.,=@+-eanif []()xliver", max_size=30))
def test_a_text_is_a_prompt_or_a_prompt_error(text: str) -> None:
    for parse in (parse_box, parse_point):
        try:
            prompt = parse(text)
        except PromptError:
            continue
        assert isinstance(prompt, Box | Point)


@given(
    st.lists(st.floats(0, 1e6), min_size=4, max_size=4),
    st.one_of(st.none(), st.integers(0, 10**6)),
    st.one_of(st.none(), st.text(alphabet="abc äß_-1", min_size=1).map(str.strip).filter(bool)),
)
def test_a_box_survives_being_written_as_text(values: list[float], slice_index: int | None, name: str | None) -> None:
    x0, y0, dx, dy = values
    box = Box((x0, y0, x0 + dx, y0 + dy), slice_index, name)
    text = ",".join(repr(value) for value in box.xyxy)
    text = (f"{name}=" if name else "") + text + (f"@{slice_index}" if slice_index is not None else "")
    assert parse_box(text) == box


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**400), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(
            st.sampled_from(["box", "points", "name", "slice", "type", "data", "label", "x"]), inner, max_size=4
        ),
    ),
    max_leaves=12,
)


@given(st.one_of(json_values.map(json.dumps), st.text(max_size=40)), st.sampled_from(["p.json", "p.csv"]))
def test_a_file_is_read_or_refused_with_a_prompt_error(content: str, name: str) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
        try:
            found = read_prompts(path)
        except PromptError as error:
            found, message = [], str(error)
        else:
            message = ""
    assert bool(found) != (str(path) in message)
    assert all(isinstance(prompt, Box | Point) for prompt in found)
