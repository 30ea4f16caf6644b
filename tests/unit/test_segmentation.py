"""Label maps, per-object masks, and how they are saved and shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scenes import RAS_AFFINE
from scenes import SHAPE as SCENE

import runtime
from runtime._inputs import bare_volume
from runtime.errors import OutputError, PromptError
from runtime.geometry import Volume
from runtime.intensity import Window
from runtime.io._palette import object_colour
from runtime.segmentation import ObjectResult, Segmentation, build_label_map
from runtime.types import Box, Point

SHAPE = (20, 30, 10)


def found(label: int, corner: tuple[int, int, int], size: tuple[int, int, int], name: str = "") -> ObjectResult:
    """An object that fills a block of a volume of `SHAPE`."""
    return ObjectResult(name or f"object {label}", label, 0.5, (), corner, np.ones(size, np.bool_), SHAPE)


def segmentation(volume: Volume, label_map: NDArray[Any], *objects: ObjectResult, **facts: Any) -> Segmentation:
    settings: dict[str, Any] = {"window": None, "slice_axis": 2, "prompts": (), **facts}
    return Segmentation(
        label_map=label_map,
        objects=objects,
        scores=np.zeros(len(objects), np.float32),
        timings={},
        backend="fake",
        precision="fp32",
        bundle="tiny 1",
        volume=volume,
        **settings,
    )


# Objects


def test_an_object_knows_its_place_and_gives_its_whole_mask() -> None:
    crop = np.zeros((2, 3, 4), np.bool_)
    crop[0, 1, 2] = crop[1, 2, 3] = True
    one = ObjectResult("a", 1, 0.5, (), (5, 6, 1), crop, SHAPE)
    wanted = np.zeros(SHAPE, np.bool_)
    wanted[5, 7, 3] = wanted[6, 8, 4] = True
    np.testing.assert_array_equal(one.mask, wanted)
    assert one.voxels == 2
    assert one.region == (slice(5, 7), slice(6, 9), slice(1, 5))
    assert one.mask is not one.mask


def test_an_empty_object_is_a_mask_without_voxels() -> None:
    one = ObjectResult("a", 1, float("nan"), (), (0, 0, 0), np.zeros((0, 0, 0), np.bool_), SHAPE)
    assert one.voxels == 0
    assert not one.mask.any()
    assert one.mask.shape == SHAPE
    assert not build_label_map([one], SHAPE, "last").any()


# Label maps


@pytest.mark.parametrize(("overlap", "winner"), [("last", 3), ("first", 1)])
def test_the_policy_decides_by_label_and_not_by_order(overlap: str, winner: int) -> None:
    objects = [found(2, (2, 2, 2), (4, 4, 4)), found(3, (3, 3, 3), (4, 4, 4)), found(1, (3, 3, 3), (2, 2, 2))]
    label_map = build_label_map(objects, SHAPE, overlap)
    assert label_map[3, 3, 3] == winner
    assert label_map[2, 2, 2] == 2
    assert label_map[6, 6, 6] == 3


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(PromptError, match=r"overlap 'largest': wanted one of last, first"):
        build_label_map([], SHAPE, "largest")


@pytest.mark.parametrize(
    ("label", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)]
)
def test_labels_are_stored_in_the_smallest_unsigned_dtype(label: int, dtype: Any) -> None:
    label_map = build_label_map([found(label, (0, 0, 0), (1, 1, 1))], SHAPE, "last")
    assert label_map.dtype == dtype
    assert label_map[0, 0, 0] == label


def test_large_label_maps_are_as_small_ones_and_do_not_share_memory() -> None:
    shape = (200, 190, 120)
    one, two = (build_label_map([found(label, (150, 3, 7), (9, 8, 110))], shape, "last") for label in (1, 300))
    for label, dtype, label_map in ((1, np.uint8, one), (300, np.uint16, two)):
        wanted = np.zeros(shape, dtype)
        wanted[150:159, 3:11, 7:117] = label
        np.testing.assert_array_equal(label_map, wanted)
        assert label_map.dtype == dtype
        assert label_map.flags.f_contiguous, "i runs fastest, as files want it"
        label_map[:] = 5
        assert label_map.min() == 5


def test_no_objects_give_an_empty_label_map_of_bytes() -> None:
    label_map = build_label_map([], SHAPE, "last")
    assert (label_map.dtype, label_map.shape, int(label_map.max())) == (np.uint8, SHAPE, 0)


# Results


def test_names_are_told_by_label() -> None:
    result = segmentation(
        Volume(np.zeros(SHAPE)),
        np.zeros(SHAPE, np.uint8),
        found(1, (0,) * 3, (1,) * 3, "liver"),
        found(2, (0,) * 3, (1,) * 3),
    )
    assert result.names == {1: "liver", 2: "object 2"}


def test_the_label_volume_has_the_shape_of_the_volume_for_images_as_well() -> None:
    image = np.zeros((6, 9), np.uint8)
    rows_first = np.arange(54, dtype=np.uint8).reshape(6, 9)
    bare = segmentation(bare_volume(image), rows_first)
    np.testing.assert_array_equal(bare.label_volume[:, :, 0], rows_first.T)
    flat = segmentation(Volume(image.T[:, :, np.newaxis], is_2d=True), rows_first.T)
    np.testing.assert_array_equal(flat.label_volume[:, :, 0], rows_first.T)
    solid = np.zeros(SHAPE, np.uint8)
    assert segmentation(Volume(np.zeros(SHAPE)), solid).label_volume is solid


def test_a_result_is_saved_and_read_back(tmp_path: Path) -> None:
    label_map = np.zeros(SCENE, np.uint8)
    label_map[1:4, 2:9, 3] = 1
    result = segmentation(Volume(np.zeros(SCENE), affine=RAS_AFFINE), label_map, found(1, (0,) * 3, (1,) * 3, "liver"))
    path = result.save(tmp_path / "seg.nii.gz")
    assert path == tmp_path / "seg.nii.gz"
    again = runtime.load(str(path))
    np.testing.assert_array_equal(again.array, label_map)
    assert again.affine is not None
    np.testing.assert_allclose(again.affine, RAS_AFFINE, atol=1e-6)


@pytest.mark.parametrize(("make", "rows_first"), [("bare", True), ("flat", False)])
def test_a_picture_is_saved_upright(tmp_path: Path, make: str, rows_first: bool) -> None:
    image = np.zeros((6, 9), np.uint8)
    labels = np.zeros((6, 9), np.uint8)
    labels[1, 2:8] = 1
    volume = bare_volume(image) if make == "bare" else Volume(image.T[:, :, np.newaxis], is_2d=True)
    segmentation(volume, labels if rows_first else labels.T).save(tmp_path / "seg.png")
    with Image.open(tmp_path / "seg.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)


def test_a_result_of_an_unknown_format_or_into_no_folder_is_refused(tmp_path: Path) -> None:
    result = segmentation(Volume(np.zeros(SHAPE)), np.zeros(SHAPE, np.uint8))
    with pytest.raises(OutputError, match=r"seg.xyz: unknown output format; wanted a name that ends in .nii.gz"):
        result.save(tmp_path / "seg.xyz")
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist; create it"):
        result.save(tmp_path / "nowhere" / "seg.nii.gz")
    assert list(tmp_path.iterdir()) == []


# Previews


def preview(result: Segmentation, path: Path, **options: Any) -> NDArray[np.uint8]:
    assert result.save_preview(path, **options) == path
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def scene_result(**facts: Any) -> Segmentation:
    """Two blocks on a grey volume of 100 x 120 x 6, seen as stored."""
    shape = (100, 120, 6)
    label_map = np.zeros(shape, np.uint8)
    label_map[10:40, 20:60, 2] = 1
    label_map[60:90, 20:60, 4] = 2
    objects = [
        ObjectResult(f"object {label}", label, 0.5, (), (0, 0, 0), np.zeros((0, 0, 0), np.bool_), shape)
        for label in (1, 2)
    ]
    return segmentation(Volume(np.full(shape, 90, np.uint8)), label_map, *objects, **facts)


def colours(picture: NDArray[np.uint8]) -> set[tuple[int, int, int]]:
    return {tuple(map(int, colour)) for colour in np.unique(picture.reshape(-1, 3), axis=0)}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("facts", "options", "label"),
    [
        ({"prompts": (Box((10, 20, 39, 59), 2),)}, {}, 1),
        ({"prompts": (Box((10, 20, 1, 39, 59, 3)),)}, {}, 1),
        ({"prompts": (Point((70, 40)), Box((60, 20, 89, 59), 4))}, {}, 2),
        ({"prompts": (Box((10, 20, 39, 59), 2),)}, {"slice_index": 4}, 2),
        ({"prompts": (Point((10, 20)),)}, {}, 1),  # the slice with most labelled voxels, the first of two
    ],
    ids=["flat box", "solid box", "after a point", "asked for", "points alone"],
)
def test_a_preview_shows_the_slice_of_the_first_box(
    tmp_path: Path, facts: dict[str, Any], options: dict[str, Any], label: int
) -> None:
    picture = preview(scene_result(**facts), tmp_path / "preview.png", **options)
    assert object_colour(label - 1) in colours(picture)
    scale = picture.shape[1] / 100
    insides = [tuple(map(int, picture[round(40 * scale), round(column * scale)])) for column in (25, 75)]
    assert insides[label - 1] != (90, 90, 90)
    assert insides[2 - label] == (90, 90, 90)


def test_a_box_has_the_colour_of_its_object_on_every_slice(tmp_path: Path) -> None:
    result = scene_result(prompts=(Box((10, 20, 39, 59), 2), Box((50, 70, 95, 110), 4)))
    picture = preview(result, tmp_path / "preview.png", slice_index=4)
    scale = picture.shape[1] / 100
    around = picture[int(68 * scale) :, int(45 * scale) :]
    assert object_colour(1) in colours(around)
    assert object_colour(0) not in colours(around)


def test_boxes_of_one_name_have_one_colour(tmp_path: Path) -> None:
    prompts = (Box((10, 20, 39, 59), 2, "a"), Box((60, 70, 95, 110), 2, "b"), Box((12, 22, 30, 50), 3, "a"))
    picture = preview(scene_result(prompts=prompts), tmp_path / "preview.png", slice_index=3)
    assert object_colour(0) in colours(picture)
    assert object_colour(1) not in colours(picture)


def test_a_preview_is_turned_as_the_canonical_view_is(tmp_path: Path) -> None:
    shape = (100, 120, 3)
    label_map = np.zeros(shape, np.uint8)
    label_map[5:25, 10:40, 0] = 1
    affine = np.diag([1.0, 1.0, -3.0, 1.0])  # R, A, I: columns, rows and slices are flipped
    one = ObjectResult("a", 1, 0.5, (), (0, 0, 0), np.zeros((0, 0, 0), np.bool_), shape)
    result = segmentation(Volume(np.full(shape, 90, np.uint8), affine=affine), label_map, one)
    picture = preview(result, tmp_path / "preview.png", slice_index=0)
    scale = picture.shape[1] / 100
    rows, columns = np.nonzero((picture == object_colour(0)).all(axis=2))
    assert columns.min() / scale == pytest.approx(99 - 24, abs=1)
    assert rows.min() / scale == pytest.approx(119 - 39, abs=1)


@pytest.mark.parametrize("swapped", [False, True])
def test_pixels_that_are_not_square_are_shown_in_their_proportions(tmp_path: Path, swapped: bool) -> None:
    """Sagittal slices of 100 rows from front to back, 8 slices 5 mm apart; stored as A, S or as S, A."""
    shape = (40, 8, 100) if swapped else (40, 100, 8)
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[:3, :3] = affine[:3, [0, 2, 1]] if swapped else affine[:3, :3]
    result = segmentation(Volume(np.full(shape, 90, np.uint8), affine=affine), np.zeros(shape, np.uint8), slice_axis=0)
    picture = preview(result, tmp_path / "preview.png", slice_index=3)
    assert picture.shape[0] / picture.shape[1] == pytest.approx(8 * 5 / 100, rel=0.05)


def test_a_preview_is_windowed(tmp_path: Path) -> None:
    shape = (100, 120, 3)
    array = np.full(shape, -1000, np.int16)
    array[:50] = 3000
    window = Window(-160, 240, 40, 400, "ct")
    picture = preview(segmentation(Volume(array), np.zeros(shape, np.uint8), window=window), tmp_path / "p.png")
    assert {(0, 0, 0), (255, 255, 255)} <= colours(picture)


@pytest.mark.parametrize("bad", [-1, 6, 2.5, "2"])
def test_a_preview_of_a_slice_that_is_not_there_is_refused(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(PromptError, match=r"slice"):
        scene_result().save_preview(tmp_path / "preview.png", slice_index=bad)
    assert list(tmp_path.iterdir()) == []


def test_a_preview_is_a_png(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"preview.jpg: a preview is a PNG"):
        scene_result().save_preview(tmp_path / "preview.jpg")
