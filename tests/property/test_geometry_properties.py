"""Coordinates and images survive every way there and back, whatever the affine."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scenes import STORAGES, Storage, stored, volume_of

from runtime.geometry import PLANES, Volume, orientation, plane_view, world_to_voxel

sizes = st.tuples(*[st.integers(1, 7)] * 3)
storages = st.sampled_from(STORAGES)
axes = st.integers(0, 2)
ORDERS = sorted({order for order, _ in STORAGES})


@st.composite
def affines(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any rotation (reflections included) of anisotropic voxels."""
    angles = draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3))
    zooms = draw(st.tuples(*[st.floats(0.1, 8)] * 3))
    origin = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    rotation = np.eye(3)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), angles, strict=True):
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        rotation = rotation @ turn
    if draw(st.booleans()):
        rotation[:, 0] *= -1
    affine = np.eye(4)
    affine[:3, :3] = rotation * zooms
    affine[:3, 3] = origin
    return affine


@given(affines(), st.lists(st.tuples(*[st.floats(-50, 50)] * 3), min_size=1, max_size=5))
def test_world_to_voxel_undoes_the_affine(affine: NDArray[np.float64], points: list[tuple[float, ...]]) -> None:
    ijk = np.array(points)
    world = ijk @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(world_to_voxel(affine, world), ijk, atol=1e-6)


@given(affines())
def test_every_voxel_axis_gets_a_world_axis_of_its_own_and_the_sign_of_its_step(affine: NDArray[np.float64]) -> None:
    found = orientation(affine)
    assert sorted(world for world, _ in found) == [0, 1, 2]
    for axis, (world, sign) in enumerate(found):
        step = affine[world, axis]
        assume(abs(step) > 1e-6)
        assert np.sign(step) == sign


@given(affines(), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_reordering_the_voxels_reorders_the_orientation(
    affine: NDArray[np.float64], order: list[int], flips: tuple[bool, ...]
) -> None:
    """A tie between two world axes may be broken either way: volumes at such angles are left out."""
    cosines = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    scores = sorted(sum(cosines[p[a], a] for a in range(3)) for p in ORDERS)
    assume(scores[-1] - scores[-2] > 1e-6)
    assume(min(abs(affine[world, axis]) for axis, (world, _) in enumerate(orientation(affine))) > 1e-6)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for axis, (old, flip) in enumerate(zip(order, flips, strict=True)):
        matrix[old, axis] = -1 if flip else 1
    plain = orientation(affine)
    wanted = tuple(
        (plain[old][0], -plain[old][1] if flip else plain[old][1]) for old, flip in zip(order, flips, strict=True)
    )
    assert orientation(affine @ matrix) == wanted


@given(sizes, affines(), axes)
def test_a_view_shows_every_voxel_once_and_takes_it_back(
    shape: tuple[int, int, int], affine: NDArray[np.float64], slice_axis: int
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    volume = Volume(array, affine=affine)
    view = plane_view(volume, slice_axis)
    rebuilt = np.full(shape, -1)
    for position in range(view.shape[2]):
        image = view.image(array, position)
        assert image.shape == view.shape[:2]
        np.moveaxis(rebuilt, slice_axis, 0)[view.slice_index(position)] = view.to_file(image)
        assert view.slice_index(view.slice_index(position)) == position
    np.testing.assert_array_equal(rebuilt, array)


@given(sizes, storages, axes, st.data())
def test_a_point_lies_on_its_voxel_in_the_view(
    shape: tuple[int, int, int], storage: Storage, slice_axis: int, data: st.DataObject
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    volume = volume_of(array, storage)
    view = plane_view(volume, slice_axis)
    index = [data.draw(st.integers(0, size - 1)) for size in volume.shape]
    u, v = (axis for axis in range(3) if axis != slice_axis)
    x, y = view.point_to_view((index[u], index[v]))
    position = view.slice_index(index[slice_axis])
    assert view.image(volume.array, position)[int(y), int(x)] == volume.array[tuple(index)]


@given(sizes, storages, axes, st.data())
def test_a_box_keeps_its_pixels_in_the_view(
    shape: tuple[int, int, int], storage: Storage, slice_axis: int, data: st.DataObject
) -> None:
    volume = volume_of(np.zeros(shape), storage)
    view = plane_view(volume, slice_axis)
    u, v = (axis for axis in range(3) if axis != slice_axis)
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, volume.shape[axis] - 1)] * 2))) for axis in (u, v)]
    box = (ends[0][0], ends[1][0], ends[0][1], ends[1][1])
    marked = np.zeros(volume.shape, np.bool_)
    region = np.moveaxis(marked, slice_axis, 0)
    region[:, box[0] : box[2] + 1, box[1] : box[3] + 1] = True
    x0, y0, x1, y1 = map(int, view.box_to_view(box))
    shown = np.zeros(view.shape[:2], np.bool_)
    shown[y0 : y1 + 1, x0 : x1 + 1] = True
    np.testing.assert_array_equal(view.image(marked, 0), shown)


@given(sizes, storages, st.sampled_from(PLANES))
def test_images_do_not_depend_on_how_the_volume_is_stored(
    shape: tuple[int, int, int], storage: Storage, plane: str
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    views = []
    for how in (STORAGES[0], storage):
        volume = volume_of(array, how)
        view = plane_view(volume, volume.slice_axis_of(plane))
        views.append([view.image(volume.array, position) for position in range(view.shape[2])])
    np.testing.assert_array_equal(views[0], views[1])
    np.testing.assert_array_equal(np.sort(np.ravel(views[0])), np.arange(array.size))
    assert stored(array, storage).size == array.size
