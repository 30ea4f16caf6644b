"""Volumes, affines and the canonical view, over all 48 ways to store a volume."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from scenes import RAS_AFFINE, SHAPE, SPACING, STORAGES, Storage, affine_of, scene, storage_id, stored, volume_of

from runtime.errors import ImageError, LiteInferError
from runtime.geometry import PLANES, Volume, axis_codes, orientation, plane_view, world_to_voxel

every_storage = pytest.mark.parametrize("storage", STORAGES, ids=storage_id)
IDENTITY: Storage = ((0, 1, 2), (False, False, False))

# Turned by 20 degrees about z, then 10 about x: oblique, yet nearest to R, A, S.
_Z, _X = np.deg2rad(20), np.deg2rad(10)
OBLIQUE = RAS_AFFINE.copy()
OBLIQUE[:3, :3] = (
    np.array([[1, 0, 0], [0, np.cos(_X), -np.sin(_X)], [0, np.sin(_X), np.cos(_X)]])
    @ np.array([[np.cos(_Z), -np.sin(_Z), 0], [np.sin(_Z), np.cos(_Z), 0], [0, 0, 1]])
    @ np.diag(SPACING)
)


def test_there_are_48_storages_and_all_differ() -> None:
    assert len({storage_id(storage) for storage in STORAGES}) == 48


# Orientation


@every_storage
def test_axis_codes_agree_with_nibabel(storage: Storage) -> None:
    affine = affine_of(storage)
    assert axis_codes(affine) == "".join(nibabel.aff2axcodes(affine)) == storage_id(storage)


@every_storage
def test_oblique_axis_codes_agree_with_nibabel(storage: Storage) -> None:
    affine = affine_of(storage, affine=OBLIQUE)
    assert axis_codes(affine) == "".join(nibabel.aff2axcodes(affine)) == storage_id(storage)


def test_sheared_axes_still_get_one_world_axis_each() -> None:
    sheared = np.array([[1, 0.9, 0, 0], [0, 1, 0, 0], [0, 0.2, 3, 0], [0, 0, 0, 1.0]])
    assert sorted(world for world, _ in orientation(sheared)) == [0, 1, 2]
    assert axis_codes(sheared) == "".join(nibabel.aff2axcodes(sheared))


def test_thin_voxels_do_not_change_the_orientation() -> None:
    affine = OBLIQUE.copy()
    affine[:3, :3] *= [100, 0.01, 1]
    assert axis_codes(affine) == "RAS"


# World coordinates


@every_storage
def test_world_to_voxel_inverts_the_affine(storage: Storage) -> None:
    affine = affine_of(storage, affine=OBLIQUE)
    points = np.array([[0, 0, 0], [6, 10, 4], [2.5, -3, 1.25]])
    world = (affine @ np.c_[points, np.ones(3)].T).T[:, :3]
    np.testing.assert_allclose(world_to_voxel(affine, world), points, atol=1e-9)


def test_a_single_point_is_mapped_as_one_row() -> None:
    assert world_to_voxel(RAS_AFFINE, np.array([-12.5, 31.0, 7.25])).tolist() == [[0, 0, 0]]


# Bad volumes


@pytest.mark.parametrize(
    ("affine", "text"),
    [
        (np.eye(3), r"affine of shape \(3, 3\): wanted \(4, 4\)"),
        (np.full((4, 4), np.nan), "affine has NaN or infinite entries"),
        (np.where(np.eye(4) > 0, np.inf, 0), "affine has NaN or infinite entries"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), r"affine is singular \(voxel sizes \[1.0, 0.0, 1.0\] mm\)"),
        (np.array([[1, 2, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "affine is singular"),
        (np.array([[1, -1, 0, 0], [1, -1, 1, 0], [1e-311, 1e-311, -1e-311, 0], [0, 0, 0, 1.0]]), "affine is singular"),
        (np.diag([1.0, 1.0, 1e-200, 1.0]), "affine is singular"),
        (np.diag([1.0, 1.0, 1e200, 1.0]), r"affine is singular \(voxel sizes \[1.0, 1.0, inf\] mm\)"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_unusable_affine_is_refused_everywhere_and_silently(affine: np.ndarray, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        Volume(np.zeros(SHAPE), affine=affine)
    with pytest.raises(ImageError, match=text):
        axis_codes(affine)
    with pytest.raises(ImageError, match=text):
        world_to_voxel(affine, np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((4, 5), r"array of shape \(4, 5\): wanted \(I, J, K\)"),
        ((4, 5, 6, 2), r"array of shape \(4, 5, 6, 2\): wanted \(I, J, K\)"),
        ((4, 5, 6, 3, 1), r"wanted \(I, J, K\)"),
        ((4, 0, 6), r"array of shape \(4, 0, 6\) holds no voxels"),
    ],
)
def test_an_array_that_is_no_volume_is_refused(shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(ImageError, match=text):
        Volume(np.zeros(shape))


@pytest.mark.parametrize("dtype", ["complex64", "bool", "S3", "datetime64[s]", "O"])
def test_a_dtype_that_is_no_intensity_is_refused(dtype: str) -> None:
    with pytest.raises(ImageError, match=r"wanted integers or floating-point numbers"):
        Volume(np.zeros((2, 3, 4), dtype=dtype))


def test_a_2d_image_has_one_slice() -> None:
    assert Volume(np.zeros((2, 3, 1)), is_2d=True).shape == (2, 3, 1)
    with pytest.raises(ImageError, match=r"a 2-D image has one slice, not 4"):
        Volume(np.zeros((2, 3, 4)), is_2d=True)


def test_a_volume_keeps_the_array_and_copies_the_affine() -> None:
    array, affine = scene(), RAS_AFFINE.copy()
    volume = Volume(array, affine=affine)
    affine[0, 3] = 99
    assert volume.array is array
    assert volume.affine is not None
    assert volume.affine[0, 3] == -12.5


def test_voxel_ml_comes_from_the_affine_and_else_from_the_spacing() -> None:
    assert Volume(scene(), affine=OBLIQUE).voxel_ml == pytest.approx(0.75 * 1.25 * 4 / 1000)
    assert Volume(scene(), spacing=(2, 3, 5)).voxel_ml == pytest.approx(0.03)


def test_the_spacing_comes_from_the_affine_unless_it_is_given() -> None:
    assert Volume(scene(), affine=OBLIQUE).spacing == pytest.approx(SPACING)
    assert Volume(scene(), affine=OBLIQUE, spacing=(2, 3, 5)).spacing == (2, 3, 5)
    assert Volume(scene()).spacing == (1, 1, 1)


# Planes


@every_storage
def test_a_plane_is_stacked_along_the_axis_that_runs_along_its_world_axis(storage: Storage) -> None:
    volume = volume_of(scene(), storage)
    for world, plane in enumerate(PLANES):
        assert volume.slice_axis_of(plane) == storage[0].index(world)


def test_an_unknown_plane_and_a_plane_without_an_affine_are_refused() -> None:
    with pytest.raises(ImageError, match=r"plane 'transversal': wanted one of sagittal, coronal, axial"):
        volume_of(scene(), IDENTITY).slice_axis_of("transversal")
    with pytest.raises(ImageError, match=r"no affine, so its axial plane is unknown; give slice_axis 0, 1 or 2"):
        Volume(scene()).slice_axis_of("axial")


@pytest.mark.parametrize("slice_axis", [-1, 3, None, "2"])
def test_a_slice_axis_other_than_0_1_2_is_refused(slice_axis: int) -> None:
    with pytest.raises(ImageError, match=r"wanted 0, 1 or 2"):
        plane_view(volume_of(scene(), IDENTITY), slice_axis)


# The canonical view


@every_storage
def test_rows_and_columns_run_in_the_radiological_directions(storage: Storage) -> None:
    volume = volume_of(scene(), storage, OBLIQUE)
    assert volume.affine is not None
    wanted = {"axial": ("L", "P", "S"), "coronal": ("L", "I", "A"), "sagittal": ("P", "I", "R")}
    ijk = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    world = ijk @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    for plane, directions in wanted.items():
        view = plane_view(volume, volume.slice_axis_of(plane))
        images = np.stack([view.image(world[..., 0:3], position) for position in range(view.shape[2])])
        first = images[0, 0, 0]
        steps = (images[0, 0, 1] - first, images[0, 1, 0] - first, images[1, 0, 0] - first)
        for letter, step in zip(directions, steps, strict=True):
            axis, sign = axes[letter]
            assert np.argmax(np.abs(step / np.linalg.norm(step))) == axis
            assert np.sign(step[axis]) == sign


@every_storage
@pytest.mark.parametrize("plane", PLANES)
def test_the_same_scene_gives_the_same_images_in_the_same_order(storage: Storage, plane: str) -> None:
    reference, volume = volume_of(scene(), IDENTITY), volume_of(scene(), storage)
    first = plane_view(reference, reference.slice_axis_of(plane))
    view = plane_view(volume, volume.slice_axis_of(plane))
    assert view.shape == first.shape
    for position in range(view.shape[2]):
        np.testing.assert_array_equal(
            view.image(volume.array, position), first.image(reference.array, position), strict=True
        )


def test_an_axial_slice_of_a_ras_volume_is_turned_by_half_a_turn() -> None:
    array = scene()
    view = plane_view(volume_of(array, IDENTITY), 2)
    np.testing.assert_array_equal(view.image(array, 3), array[::-1, ::-1, 3].T)


def test_colour_images_keep_their_channels_last() -> None:
    array = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    storage: Storage = ((1, 0, 2), (True, False, True))
    volume = volume_of(array, storage)
    view = plane_view(volume, 2)
    np.testing.assert_array_equal(view.image(volume.array, 1), array[::-1, ::-1, 1].swapaxes(0, 1))


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_without_an_affine_rows_and_columns_stay_as_they_are(slice_axis: int) -> None:
    array = scene()
    view = plane_view(Volume(array), slice_axis)
    np.testing.assert_array_equal(view.image(array, 2), np.take(array, 2, axis=slice_axis).T)
    assert view.slice_index(2) == 2
    assert view.point_to_view((3, 4)) == (3, 4)


def test_an_image_is_a_view_and_never_a_copy() -> None:
    volume = volume_of(scene(), ((2, 0, 1), (True, False, True)))
    for slice_axis in range(3):
        assert np.shares_memory(plane_view(volume, slice_axis).image(volume.array, 1), volume.array)


@every_storage
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_to_file_takes_an_image_of_the_view_back_to_its_voxels(storage: Storage, slice_axis: int) -> None:
    volume = volume_of(scene(), storage)
    view = plane_view(volume, slice_axis)
    rebuilt = np.zeros_like(volume.array)
    for position in range(view.shape[2]):
        plane = view.to_file(view.image(volume.array, position))
        np.moveaxis(rebuilt, slice_axis, 0)[view.slice_index(position)] = plane
    np.testing.assert_array_equal(rebuilt, volume.array)


@every_storage
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_points_and_boxes_of_the_file_fall_on_their_voxels_in_the_view(storage: Storage, slice_axis: int) -> None:
    volume = volume_of(scene(), storage)
    view = plane_view(volume, slice_axis)
    u, v = (axis for axis in range(3) if axis != slice_axis)
    index = [0, 0, 0]
    index[u], index[v], index[slice_axis] = 1, 3, 2
    position = view.slice_index(2)
    x, y = view.point_to_view((1, 3))
    assert view.image(volume.array, position)[int(y), int(x)] == volume.array[tuple(index)]

    box_uv = (1, 0, volume.shape[u] - 2, 2)
    x0, y0, x1, y1 = map(int, view.box_to_view(box_uv))
    region: list[slice | int] = [0, 0, 0]
    region[u], region[v], region[slice_axis] = slice(1, volume.shape[u] - 1), slice(0, 3), 2
    inside = view.image(volume.array, position)[y0 : y1 + 1, x0 : x1 + 1]
    np.testing.assert_array_equal(np.sort(inside, axis=None), np.sort(volume.array[tuple(region)], axis=None))


def test_every_error_of_geometry_is_of_the_tree() -> None:
    with pytest.raises(LiteInferError):
        orientation(np.zeros((4, 4)))


def test_the_helper_of_these_tests_moves_no_voxel() -> None:
    """Each stored voxel keeps its world position: otherwise the tests above would prove nothing."""
    array = scene()
    for storage in STORAGES:
        moved, affine = stored(array, storage), affine_of(storage)
        ijk = (1, 2, 0)
        world = affine @ (*ijk, 1)
        original = np.rint(np.linalg.solve(RAS_AFFINE, world))[:3].astype(int)
        assert moved[ijk] == array[tuple(original)]
