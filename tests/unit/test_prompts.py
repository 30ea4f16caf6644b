"""From what a caller asks for to objects in a view: grouping, placing, refusing, world boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scenes import RAS_AFFINE, STORAGES, Storage, affine_of, box_in, scene, storage_id, volume_of

from runtime.errors import ImageError, PromptError
from runtime.geometry import Volume, plane_view
from runtime.prompts import group_prompts, plan_objects, world_box
from runtime.propagate import ObjectPlan
from runtime.types import Box, Point

SHAPE = (20, 30, 10)
PLAIN = Volume(np.zeros(SHAPE, np.uint8))  # no affine: the view is the file


def plans(*prompts: Box | Point, volume: Volume = PLAIN, slice_axis: int = 2, **options: Any) -> list[ObjectPlan]:
    view = plane_view(volume, slice_axis)
    return [one.plan for one in plan_objects(volume, view, prompts, **options)]


def names(*prompts: Box | Point) -> list[str]:
    return [one.name for one in plan_objects(PLAIN, plane_view(PLAIN, 2), prompts)]


# Grouping


def test_unnamed_boxes_are_objects_of_their_own_in_the_order_given() -> None:
    boxes = [Box((1, 2, 3, 4)), Box((5, 6, 7, 8)), Box((1, 2, 3, 4))]
    assert names(*boxes) == ["object 1", "object 2", "object 3"]
    assert [plan.label for plan in plans(*boxes)] == [1, 2, 3]


def test_boxes_of_one_name_are_prompts_of_one_object() -> None:
    liver = [Box((1, 2, 3, 4), 2, "liver"), Box((2, 3, 4, 5), 7, "liver")]
    (plan,) = plans(*liver)
    assert plan.boxes == {2: (1, 2, 3, 4), 7: (2, 3, 4, 5)}
    assert plan.anchors == (2, 7)
    assert names(liver[0], Box((0, 0, 1, 1)), liver[1]) == ["liver", "object 2"]


def test_an_unnamed_box_never_joins_an_object_that_is_called_like_its_default_name() -> None:
    prompts = (Box((1, 2, 3, 4), name="object 2"), Box((5, 6, 7, 8)))
    assert len(plans(*prompts)) == 2
    assert len(set(names(*prompts))) == 2
    assert len(plans(*reversed(prompts))) == 2
    later = (Box((1, 2, 3, 4)), Box((5, 6, 7, 8), name="object 1"))
    assert len(plans(*later)) == 2
    assert len(set(names(*later))) == 2


def test_an_unnamed_point_belongs_to_the_only_object() -> None:
    (plan,) = plans(Point((1, 2)), Box((1, 2, 3, 4), 6, "liver"))
    assert plan.boxes == {6: (1, 2, 3, 4)}
    assert plan.points == {6: ((1, 2, 1.0),)}


def test_an_unnamed_point_with_several_objects_is_refused() -> None:
    with pytest.raises(PromptError, match=r"point \(3.0, 4.0\) has no name and there are 2 objects"):
        group_prompts([Box((1, 2, 3, 4)), Box((5, 6, 7, 8)), Point((3, 4))])


@pytest.mark.parametrize("first", [0, 1])
def test_the_order_of_named_and_unnamed_points_does_not_matter(first: int) -> None:
    points = [Point((3, 4)), Point((5, 6), name="cyst", positive=False)]
    (plan,) = plans(points[first], points[1 - first])
    assert sorted(plan.points[5]) == [(3, 4, 1.0), (5, 6, 0.0)]


def test_points_alone_make_an_object_that_starts_on_their_first_slice() -> None:
    (plan,) = plans(Point((3, 4, 7)), Point((5, 6, 4), positive=False))
    assert plan.boxes == {}
    assert plan.anchors == (4,)
    assert plan.points == {7: ((3, 4, 1.0),), 4: ((5, 6, 0.0),)}


def test_a_named_point_makes_an_object_of_its_own_after_the_boxes() -> None:
    assert names(Point((3, 4), name="cyst"), Box((1, 2, 3, 4), name="liver")) == ["liver", "cyst"]


def test_no_prompt_at_all_is_refused() -> None:
    with pytest.raises(PromptError, match=r"no prompt; give a box"):
        plans()


# Placing


def test_the_default_slice_is_the_middle_one() -> None:
    assert list(plans(Box((1, 2, 3, 4)))[0].boxes) == [5]
    assert list(plans(Box((1, 2, 3, 4)), slice_axis=0)[0].boxes) == [10]


def test_a_slice_of_the_call_is_for_boxes_and_points_without_one() -> None:
    flat, placed = plans(Box((1, 2, 3, 4)), Box((1, 2, 3, 4), 8), slice_index=3)
    assert (list(flat.boxes), list(placed.boxes)) == ([3], [8])
    assert list(plans(Point((1, 2)), slice_index=3)[0].points) == [3]


def test_a_point_without_a_slice_lies_on_the_first_slice_of_its_objects_boxes() -> None:
    (plan,) = plans(Box((1, 2, 3, 4), 7, "a"), Box((1, 2, 3, 4), 3, "a"), Point((9, 9), name="a"))
    assert list(plan.points) == [3]


@pytest.mark.parametrize(
    ("slice_axis", "box", "inside", "outside"),
    [
        (0, (1, 2, 29, 9), "y and z", (1, 2, 30, 9)),
        (1, (1, 2, 19, 9), "x and z", (1, 2, 20, 9)),
        (2, (1, 2, 19, 29), "x and y", (1, 2, 19, 30)),
    ],
)
def test_four_numbers_are_the_two_other_axes_in_ascending_order(
    slice_axis: int, box: tuple[float, ...], inside: str, outside: tuple[float, ...]
) -> None:
    (plan,) = plans(Box(box), slice_axis=slice_axis)
    assert list(plan.boxes.values()) == [box], inside
    assert plan.extent == (0, SHAPE[slice_axis] - 1)
    assert not plan.known_extent
    with pytest.raises(PromptError, match=r"lies outside the image"):
        plans(Box(outside), slice_axis=slice_axis)


@pytest.mark.parametrize(
    ("slice_axis", "rectangle", "extent"),
    [(0, (2, 3, 22, 8), (1, 11)), (1, (1, 3, 11, 8), (2, 22)), (2, (1, 2, 11, 22), (3, 8))],
)
def test_a_solid_box_states_its_extent_along_any_axis(
    slice_axis: int, rectangle: tuple[float, ...], extent: tuple[int, int]
) -> None:
    (plan,) = plans(Box((1, 2, 3, 11, 22, 8)), slice_axis=slice_axis)
    assert plan.extent == extent
    assert plan.known_extent
    assert plan.limit == rectangle
    assert plan.boxes == {(extent[0] + extent[1]) // 2: rectangle}


def test_a_z_range_states_the_extent_of_a_flat_box() -> None:
    (plan,) = plans(Box((1, 2, 3, 4)), z_range=(4, 7))
    assert (plan.extent, plan.known_extent, plan.limit) == ((4, 7), True, None)


def test_a_point_in_space_is_split_along_the_slice_axis() -> None:
    (plan,) = plans(Point((3, 4, 7)), slice_axis=1)
    assert plan.points == {4: ((3, 7, 1.0),)}


@pytest.mark.parametrize("storage", STORAGES, ids=storage_id)
def test_a_solid_box_lands_on_the_same_pixels_however_the_volume_is_stored(storage: Storage) -> None:
    box = (1, 3, 1, 4, 9, 3)
    wanted = None
    for how in (((0, 1, 2), (False, False, False)), storage):
        volume = volume_of(scene(), how)
        axis = volume.slice_axis_of("coronal")
        (plan,) = plans(Box(box_in(how, box)), volume=volume, slice_axis=axis)
        found = (plan.boxes, plan.extent, plan.limit)
        assert wanted is None or found == wanted
        wanted = found


# Refusing


@pytest.mark.parametrize(
    ("box", "text"),
    [
        (Box((-1, 2, 3, 4)), r"box -1,2,3,4: x = -1 lies outside the image, whose x runs from 0 to 19"),
        (Box((1, 2, 20, 4)), "x = 20 lies outside the image"),
        (Box((1, 2, 3, 30)), "y = 30 lies outside the image, whose y runs from 0 to 29"),
        (Box((25, 2, 26, 4)), "x = 25 lies outside"),
        (Box((1, 2, 0, 3, 4, 10)), "z = 10 lies outside the image, whose z runs from 0 to 9"),
        (Box((1, 2, 3, 4), 10), "slice 10 lies outside the image: axis z has slices 0 to 9"),
        (Box((1, 2, 3, 4), -1), "slice -1 lies outside the image"),
    ],
)
def test_a_box_outside_the_image_says_where_the_image_ends(box: Box, text: str) -> None:
    with pytest.raises(PromptError, match=text):
        plans(box)


@pytest.mark.parametrize(
    ("point", "text"),
    [
        (Point((20, 4)), "point 20,4: x = 20 lies outside the image"),
        (Point((1, -2)), "y = -2 lies outside"),
        (Point((1, 2, 10)), "slice 10 lies outside the image"),
        (Point((1, 2), slice_index=11), "slice 11 lies outside the image"),
    ],
)
def test_a_point_outside_the_image_says_where_the_image_ends(point: Point, text: str) -> None:
    with pytest.raises(PromptError, match=text):
        plans(point)


def test_boxes_may_reach_the_outer_edges_of_the_outer_pixels() -> None:
    (plan,) = plans(Box((-0.5, -0.5, 19.5, 29.5)))
    assert plan.boxes == {5: (-0.5, -0.5, 19.5, 29.5)}
    (solid,) = plans(Box((0, 0, -0.5, 5, 5, 9.5)))
    assert solid.extent == (0, 9)
    assert list(plans(Point((1, 2, 9.5)))[0].points) == [9]
    with pytest.raises(PromptError, match=r"x = -0.51 lies outside"):
        plans(Box((-0.51, 0, 3, 3)))


def test_two_boxes_of_one_object_on_one_slice_are_refused() -> None:
    with pytest.raises(PromptError, match=r"two boxes of one object on slice 4; give one box per object and slice"):
        plans(Box((1, 2, 3, 4), 4, "a"), Box((5, 6, 7, 8), 4, "a"))


def test_a_solid_box_stands_alone() -> None:
    with pytest.raises(PromptError, match=r"a: a 3-D box stands alone"):
        plans(Box((1, 2, 3, 4, 5, 6), name="a"), Box((1, 2, 3, 4), 4, "a"))
    with pytest.raises(PromptError, match=r"a 3-D box stands alone; leave out .* the z range"):
        plans(Box((1, 2, 3, 4, 5, 6)), z_range=(3, 6))


def test_a_reversed_z_range_and_one_outside_the_image_are_refused() -> None:
    with pytest.raises(PromptError, match=r"z range 7,3: the last slice lies below the first; swap them"):
        plans(Box((1, 2, 3, 4)), z_range=(7, 3))
    with pytest.raises(PromptError, match=r"slice 10 lies outside the image"):
        plans(Box((1, 2, 3, 4)), z_range=(3, 10))
    with pytest.raises(PromptError, match=r"slice -1 lies outside the image"):
        plans(Box((1, 2, 3, 4)), z_range=(-1, 5))


@pytest.mark.parametrize("bad", [(1,), (1, 2, 3), (1, 2.5), ("1", "5"), 4, (None, 3)])
def test_a_z_range_is_two_whole_numbers(bad: Any) -> None:
    with pytest.raises(PromptError, match=r"z range .*: wanted"):
        plans(Box((1, 2, 3, 4)), z_range=bad)


@pytest.mark.parametrize("bad", [4.5, "4", math.nan])
def test_the_slice_of_a_call_is_a_whole_number(bad: Any) -> None:
    with pytest.raises(PromptError, match=r"slice_index .*: wanted a whole number"):
        plans(Box((1, 2, 3, 4)), slice_index=bad)


def test_a_prompt_beyond_the_range_of_slices_names_its_slice_in_file_order() -> None:
    flipped = volume_of(scene(), ((0, 1, 2), (False, False, True)))
    with pytest.raises(PromptError, match=r"object 1: a prompt lies on slice 4, outside the range of slices"):
        plans(Box((1, 2, 3, 4), 4), volume=flipped, z_range=(0, 2))
    with pytest.raises(PromptError, match=r"a prompt lies on slice 9"):
        plans(Box((1, 2, 3, 4, 5, 6)), Point((1, 1, 9)))


# World boxes

AXIAL_OBLIQUE = RAS_AFFINE.copy()
_TURN = np.deg2rad(15)
AXIAL_OBLIQUE[:3, :3] = (
    np.array([[np.cos(_TURN), -np.sin(_TURN), 0], [np.sin(_TURN), np.cos(_TURN), 0], [0, 0, 1]]) @ RAS_AFFINE[:3, :3]
)


def centre_mm(affine: np.ndarray, ijk: tuple[float, ...]) -> np.ndarray:
    result: np.ndarray = (affine @ (*ijk, 1))[:3]
    return result


@pytest.mark.parametrize("storage", STORAGES, ids=storage_id)
def test_a_solid_world_box_covers_the_voxels_whose_centres_are_its_corners(storage: Storage) -> None:
    volume = volume_of(scene(), storage)
    low, high = centre_mm(RAS_AFFINE, (1, 3, 1)), centre_mm(RAS_AFFINE, (4, 9, 3))
    box = world_box(volume, (*low, *high), volume.slice_axis_of("axial"))
    assert box == Box(box_in(storage, (1, 3, 1, 4, 9, 3)))
    assert world_box(volume, (*high, *low), 2) == box, "any two opposite corners will do"


@pytest.mark.parametrize("storage", STORAGES, ids=storage_id)
@pytest.mark.parametrize(("plane", "worlds"), [("axial", (0, 1)), ("coronal", (0, 2)), ("sagittal", (1, 2))])
def test_a_flat_world_box_lies_on_the_slice_asked_for(storage: Storage, plane: str, worlds: tuple[int, int]) -> None:
    volume = volume_of(scene(), storage)
    corners = [centre_mm(RAS_AFFINE, (1, 3, 1)), centre_mm(RAS_AFFINE, (4, 9, 3))]
    across = next(world for world in range(3) if world not in worlds)
    axis = volume.slice_axis_of(plane)
    flat = [corner[world] for corner in corners for world in worlds]
    box = world_box(volume, flat, axis, float(corners[0][across]))
    solid = box_in(storage, (1, 3, 1, 4, 9, 3))
    u, v = (one for one in range(3) if one != axis)
    assert box.xyxy == (solid[u], solid[v], solid[u + 3], solid[v + 3])
    wanted = {0: 1, 1: 3, 2: 1}[across]
    flipped = storage[1][axis]
    assert box.slice_index == ((7, 11, 5)[across] - 1 - wanted if flipped else wanted)


def test_a_flat_world_box_without_a_slice_lies_on_the_middle_one() -> None:
    volume = volume_of(scene(), ((0, 1, 2), (True, False, True)))
    low, high = centre_mm(RAS_AFFINE, (1, 3, 0)), centre_mm(RAS_AFFINE, (4, 9, 0))
    assert world_box(volume, (*low[:2], *high[:2]), 2).slice_index == 2


def test_an_oblique_world_box_covers_all_voxels_that_its_corners_reach() -> None:
    volume = Volume(np.zeros((40, 44, 5), np.uint8), affine=AXIAL_OBLIQUE)
    centre = centre_mm(AXIAL_OBLIQUE, (20, 22, 2))
    half = np.array([5, 4, 4])
    low, high = centre - half, centre + half
    box = world_box(volume, (*low, *high), 2)
    # Corners of the rotated rectangle, in voxels: half sides cos * 5 + sin * 4 and sin * 5 + cos * 4, in mm.
    half_i = (np.cos(_TURN) * 5 + np.sin(_TURN) * 4) / 0.75
    half_j = (np.sin(_TURN) * 5 + np.cos(_TURN) * 4) / 1.25
    assert box.xyxy == (round(20 - half_i), round(22 - half_j), 1, round(20 + half_i), round(22 + half_j), 3)
    flat = world_box(volume, (*low[:2], *high[:2]), 2, float(centre[2]) + 4.1)
    assert flat == Box((*box.xyxy[:2], *box.xyxy[3:5]), slice_index=3)


def test_a_world_box_is_cut_to_the_volume() -> None:
    volume = volume_of(scene(), ((0, 1, 2), (False, False, False)))
    low, high = centre_mm(RAS_AFFINE, (-3, 3, 1)), centre_mm(RAS_AFFINE, (4, 90, 3))
    assert world_box(volume, (*low, *high), 2) == Box((0, 3, 1, 4, 10, 3))


def test_an_edge_between_two_voxels_takes_both_of_them_in() -> None:
    volume = volume_of(scene(), ((0, 1, 2), (False, False, False)))
    low, high = centre_mm(RAS_AFFINE, (1.5, 3.49, 1)), centre_mm(RAS_AFFINE, (4.5, 8.51, 3))
    assert world_box(volume, (*low, *high), 2) == Box((1, 3, 1, 5, 9, 3))


def test_a_world_box_beside_the_volume_says_where_it_is_in_voxels() -> None:
    volume = volume_of(scene(), ((0, 1, 2), (False, False, False)))
    low, high = centre_mm(RAS_AFFINE, (-9, 3, 1)), centre_mm(RAS_AFFINE, (-4, 5, 3))
    with pytest.raises(PromptError, match=r"mm lies outside the image; in voxels it is \[-9, 3, 1\] to \[-4, 5, 3\]"):
        world_box(volume, (*low, *high), 2)
    with pytest.raises(PromptError, match=r"lies outside the image"):
        world_box(volume, (*centre_mm(RAS_AFFINE, (1, 1, 1))[:2], *centre_mm(RAS_AFFINE, (2, 2, 1))[:2]), 2, 500.0)


@pytest.mark.parametrize("numbers", [(), (1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3, math.nan), (1, 2, 3, math.inf)])
def test_a_world_box_has_four_or_six_finite_numbers(numbers: tuple[float, ...]) -> None:
    volume = volume_of(scene(), ((0, 1, 2), (False, False, False)))
    with pytest.raises(PromptError, match=rf"world box with {len(numbers)} numbers: wanted 4 or 6 finite ones"):
        world_box(volume, numbers, 2)


@pytest.mark.parametrize("numbers", [("a", 1, 2, 3), None, (1, 2, 3, None)])
def test_a_world_box_of_something_else_than_numbers_is_refused(numbers: Any) -> None:
    volume = volume_of(scene(), ((0, 1, 2), (False, False, False)))
    with pytest.raises(PromptError, match=r"world box .*wanted 4 or 6 .*numbers"):
        world_box(volume, numbers, 2)


def test_a_world_box_needs_an_affine_a_slice_axis_and_a_finite_slice() -> None:
    with pytest.raises(PromptError, match=r"no affine, so millimetres mean nothing in it"):
        world_box(PLAIN, (1, 2, 3, 4), 2)
    volume = volume_of(scene(), ((0, 1, 2), (False, False, False)))
    with pytest.raises(ImageError, match=r"slice_axis 3: wanted 0, 1 or 2"):
        world_box(volume, (1, 2, 3, 4), 3)
    with pytest.raises(PromptError, match=r"slice_mm nan: wanted a finite number"):
        world_box(volume, (1, 2, 3, 4), 2, math.nan)


def test_a_sheared_volume_takes_the_world_axis_that_its_orientation_names() -> None:
    """Every slice axis has a world axis of its own, so that a flat box never lacks a coordinate."""
    sheared = np.array([[1, 0, 1.2, 0], [0, 1, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1]])
    volume = Volume(np.zeros((30, 12, 8), np.uint8), affine=sheared)
    box = world_box(volume, (6, 2, 10, 5), 2, 3.0)
    assert box.slice_index == 3
    assert box.xyxy == (2, 2, 6, 5), "x = i + 1.2 k at k = 3: 6 - 3.6 and 10 - 3.6, rounded"


def test_affines_of_the_tests_are_oblique_where_they_should_be() -> None:
    assert np.count_nonzero(np.abs(AXIAL_OBLIQUE[:3, :3]) > 1e-9) == 5
    assert affine_of(((0, 1, 2), (False, False, False))).tolist() == RAS_AFFINE.tolist()
