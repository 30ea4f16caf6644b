"""Segmenting volumes and images with a real, tiny bundle: masks land on the voxels they came from."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import ENGINES, skip_without
from numpy.typing import NDArray
from scenes import STORAGES, Storage, box_in, storage_id
from tiny_bundle import (
    BOX,
    FLAT,
    SCENE_SHAPE,
    SIDE,
    ball,
    disc,
    inside,
    open_session,
    scene_pixels,
    scene_volume,
    tiny_bundle,
    unstored,
)

from runtime import Session
from runtime._engine import Engine
from runtime.errors import (
    ImageError,
    PromptError,
)
from runtime.geometry import PLANES, Volume
from runtime.types import Box

# Volumes


@pytest.mark.parametrize("engine", ENGINES)
def test_the_right_voxels_are_found_on_both_engines(bundle: Path, engine: str) -> None:
    skip_without(engine)
    with Session(bundle, backend=engine, precision="fp32", threads=1, cache=False) as session:
        result = session.segment(scene_volume(), box=BOX)
    np.testing.assert_array_equal(result.label_map, inside().astype(np.uint8), strict=True)
    assert result.label_map.sum() > 1000
    assert (result.backend, result.precision, result.bundle) == (engine, "fp32", "tiny 1.0")


@pytest.mark.parametrize("storage", STORAGES, ids=storage_id)
@pytest.mark.parametrize("plane", PLANES)
def test_the_mask_lies_on_the_same_tissue_however_the_file_is_stored(
    session: Session, storage: Storage, plane: str
) -> None:
    reference = scene_volume()
    volume = scene_volume(storage)
    wanted = session.segment(reference, box=BOX, slice_axis=reference.slice_axis_of(plane))
    result = session.segment(volume, box=box_in(storage, BOX, SCENE_SHAPE), slice_axis=volume.slice_axis_of(plane))
    assert result.label_map.shape == volume.shape
    np.testing.assert_array_equal(unstored(result.label_map, storage), wanted.label_map)
    truth = inside()
    shared = 2 * np.count_nonzero(truth & (wanted.label_map > 0)) / (truth.sum() + wanted.label_map.sum())
    assert shared == 1 if plane == "axial" else shared > 0.75


@pytest.mark.parametrize("storage", STORAGES[::5], ids=storage_id)
def test_a_flat_box_is_followed_to_where_the_ball_ends(session: Session, storage: Storage) -> None:
    volume = scene_volume(storage)
    axis = volume.slice_axis_of("axial")
    solid = box_in(storage, BOX, SCENE_SHAPE)
    u, v = (one for one in range(3) if one != axis)
    box = Box((solid[u], solid[v], solid[u + 3], solid[v + 3]), slice_index=4)
    result = session.segment(volume, box=box, slice_axis=axis)
    np.testing.assert_array_equal(unstored(result.label_map, storage), ball().astype(np.uint8))
    stops = {one.slice_index: one.stop for one in result.objects[0].slices if one.stop}
    assert stops == {0: "empty", 8: "empty"}


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("affine", [True, False])
def test_masks_of_slices_along_any_axis_go_back_to_their_voxels(
    session: Session, slice_axis: int, affine: bool
) -> None:
    volume = scene_volume()
    if not affine:
        volume = Volume(volume.array)
    result = session.segment(volume, box=BOX, slice_axis=slice_axis)
    truth = inside()
    shared = 2 * np.count_nonzero(truth & (result.label_map > 0)) / (truth.sum() + result.label_map.sum())
    assert shared > 0.75
    assert result.slice_axis == slice_axis
    assert [one.slice_index for one in result.objects[0].slices] == list(
        range(BOX[slice_axis], BOX[slice_axis + 3] + 1)
    )


def test_the_default_slice_is_the_middle_one_and_an_index_overrides_it(session: Session) -> None:
    volume = scene_volume()
    assert session.segment(volume, box=FLAT).prompts == (Box(FLAT),)
    for given in ({"slice_index": 3}, {}):
        box = Box(FLAT, 3) if not given else FLAT
        result = session.segment(volume, box=box, z_range=(3, 3), **given)
        assert [one.slice_index for one in result.objects[0].slices] == [3]
    middle = session.segment(volume, box=FLAT, z_range=(4, 4))
    assert [one.slice_index for one in middle.objects[0].slices] == [4]


def test_a_range_of_slices_is_decoded_whole(session: Session) -> None:
    result = session.segment(scene_volume(), box=FLAT, z_range=(2, 8))
    assert [one.slice_index for one in result.objects[0].slices] == [2, 3, 4, 5, 6, 7, 8]
    assert not any(one.stop for one in result.objects[0].slices)
    np.testing.assert_array_equal(result.label_map[:, :, :2], 0)
    np.testing.assert_array_equal(result.label_map[:, :, 2:8], ball()[:, :, 2:8])


def test_the_published_loop_is_a_mode(session: Session) -> None:
    result = session.segment(scene_volume(), box=BOX, mode="published")
    assert [one.slice_index for one in result.objects[0].slices] == [1, 2, 3, 4, 5, 6]  # its facts exclude the last
    np.testing.assert_array_equal(result.label_map[:, :, 4], ball()[:, :, 4])


def test_windowed_volumes_are_segmented_as_their_pixels_are(session: Session) -> None:
    volume = Volume(scene_pixels(np.int16) * 4 - 300)  # the ball at 500, the rest below -60
    result = session.segment(volume, box=BOX, window=(210, 1020))
    np.testing.assert_array_equal(result.label_map, inside())
    assert result.window is not None
    assert (result.window.level, result.window.width, result.window.origin) == (210, 1020, "explicit")
    assert session.segment(scene_volume(), box=BOX).window is None


def test_a_bare_volume_is_in_file_order(session: Session) -> None:
    result = session.segment(scene_pixels(), box=BOX)
    np.testing.assert_array_equal(result.label_map, inside())


def test_memory_order_does_not_matter(session: Session) -> None:
    for array in (np.asfortranarray(scene_pixels()), scene_pixels()[::-1][::-1]):
        np.testing.assert_array_equal(session.segment(Volume(array), box=BOX).label_map, inside())


# Several objects


def two_balls() -> NDArray[np.uint8]:
    pixels = scene_pixels()
    pixels[34:44, 4:12, 2:7] = 210
    return pixels


def test_boxes_become_labels_in_their_order(session: Session) -> None:
    volume = Volume(two_balls())
    result = session.segment(volume, boxes=[(34, 4, 2, 43, 11, 6), BOX])
    assert result.names == {1: "object 1", 2: "object 2"}
    assert result.label_map.dtype == np.uint8
    np.testing.assert_array_equal(result.label_map == 1, two_balls() == 210)
    np.testing.assert_array_equal(result.label_map == 2, inside())
    assert [one.voxels for one in result.objects] == [400, inside().sum()]


def test_every_slice_is_encoded_once_for_all_objects(bundle: Path) -> None:
    volume = Volume(two_balls())
    with open_session(bundle, cache=False) as fresh:
        result = fresh.segment(volume, boxes=[(34, 4, 2, 43, 11, 6), BOX])
    assert result.timings["prompts_decoded"] == 5 + 7
    assert result.timings["slices_encoded"] == 7
    assert result.timings["slices_cached"] == 5


@pytest.mark.parametrize(("overlap", "winner"), [("last", 2), ("first", 1)])
def test_the_policy_decides_who_keeps_what_two_objects_claim(session: Session, overlap: Any, winner: int) -> None:
    left, right = (8, 18, 2, 24, 50, 6), (16, 18, 2, 32, 50, 6)
    result = session.segment(scene_volume(), boxes=[left, right], overlap=overlap)
    both = inside(left) & inside(right)
    assert both.sum() > 100
    assert set(np.unique(result.label_map[both])) == {winner}
    np.testing.assert_array_equal(result.objects[0].mask, inside(left))
    np.testing.assert_array_equal(result.objects[1].mask, inside(right))
    np.testing.assert_array_equal(result.label_map > 0, inside(left) | inside(right))


def test_an_unknown_policy_and_an_unknown_mode_are_refused_before_anything_is_computed(session: Session) -> None:
    done: list[Any] = []
    with pytest.raises(PromptError, match=r"overlap 'largest': wanted one of last, first"):
        session.segment(scene_volume(), box=BOX, overlap="largest", progress=done.append)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match=r"mode 'magic': bundle 'tiny' has chain, published"):
        session.segment(scene_volume(), box=BOX, mode="magic", progress=done.append)  # type: ignore[arg-type]
    assert not done


def test_boxes_of_one_name_on_two_slices_are_one_object(session: Session) -> None:
    boxes = [Box(FLAT, 2, "ball"), Box(FLAT, 6, "ball")]
    result = session.segment(scene_volume(), boxes=boxes)
    assert result.names == {1: "ball"}
    np.testing.assert_array_equal(result.label_map, ball())


def test_prompts_may_come_as_an_array(session: Session) -> None:
    result = session.segment(scene_volume(), boxes=np.array([BOX]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(result.label_map, inside())


# Two dimensions


@pytest.mark.parametrize("size", [(48, 64), (64, 40), (30, 50)])
def test_a_bare_image_gives_rows_first(session: Session, size: tuple[int, int]) -> None:
    image, mask = disc(size, (14, 22), 8)
    result = session.segment(image, box=(10, 4, 32, 24))
    assert result.label_map.shape == size
    difference = np.count_nonzero((result.label_map > 0) != mask)
    assert difference == 0 if max(size) == SIDE else difference < 0.1 * mask.sum()
    assert result.objects[0].mask.shape == (size[1], size[0], 1)
    assert result.label_volume.shape == (size[1], size[0], 1)


def test_a_two_dimensional_volume_gives_columns_first(session: Session) -> None:
    image, mask = disc()
    volume = Volume(image.T[:, :, np.newaxis], is_2d=True)
    result = session.segment(volume, box=(15, 8, 45, 32))
    np.testing.assert_array_equal(result.label_map, mask.T.astype(np.uint8), strict=True)


def test_a_colour_image_is_segmented_in_colour(session: Session) -> None:
    image, mask = disc()
    colour = np.stack([image, image, image], axis=-1)
    result = session.segment(colour, box=(15, 8, 45, 32))
    np.testing.assert_array_equal(result.label_map, mask)


def test_a_colour_volume_is_refused(session: Session) -> None:
    with pytest.raises(ImageError, match=r"colour volume of shape \(9, 8, 7, 3\): volumes are grey"):
        session.segment(Volume(np.zeros((9, 8, 7, 3), np.uint8)), box=(1, 1, 3, 3))


def test_a_colour_image_for_a_grey_encoder_is_refused(tmp_path: Path) -> None:
    image, mask = disc()
    with Session(tiny_bundle(tmp_path, channels=1), backend="onnxruntime", cache=False) as grey:
        np.testing.assert_array_equal(grey.segment(image, box=(15, 8, 45, 32)).label_map, mask)
        with pytest.raises(ImageError, match=r"image with 3 channels: this bundle's encoder takes 1"):
            grey.encode(np.stack([image] * 3, axis=-1))


# Results


def test_scores_are_means_over_the_slices_where_something_was_found(clicks: Session) -> None:
    result = clicks.segment(scene_volume(), boxes=[BOX, (40, 2, 2, 46, 8, 6)])
    assert result.scores.dtype == np.float32
    assert result.scores[0] == pytest.approx(0.8)
    assert np.isnan(result.scores[1]), "nothing was found"
    assert result.objects[1].voxels == 0
    assert [one.score for one in result.objects[1].slices] == [pytest.approx(0.2)] * 5


def test_a_system_without_scores_gives_nan(session: Session) -> None:
    result = session.segment(scene_volume(), box=BOX)
    assert np.isnan(result.scores).all()
    assert all(np.isnan(one.score) for one in result.objects[0].slices)


def test_slices_tell_area_and_stop_in_file_order(session: Session) -> None:
    result = session.segment(scene_volume(), box=FLAT)
    slices = result.objects[0].slices
    assert [one.slice_index for one in slices] == list(range(9))
    assert [one.area for one in slices] == ball().sum(axis=(0, 1)).tolist()
    assert [one.stop for one in slices] == ["empty", *[None] * 7, "empty"]


def test_the_mask_of_the_slice_that_stopped_it_is_not_kept(session: Session) -> None:
    pixels = scene_pixels()
    pixels[:, :, 2:5] = np.minimum(pixels[:, :, 2:5], 60)
    pixels[19:22, 33:36, 2:5] = 200
    pixels[:2, :2] = 255
    result = session.segment(Volume(pixels), box=(10, 24, 30, 46), slice_index=3)
    by_slice = {one.slice_index: one for one in result.objects[0].slices}
    assert by_slice[5].stop == "area"
    assert by_slice[5].area == 0
    assert not result.label_map[:, :, 5].any()
    assert result.label_map[:, :, 4].sum() == 9


def test_timings_add_up(session: Session) -> None:
    timings = session.segment(scene_volume(), box=BOX).timings
    assert set(timings) == {
        "window_ms",
        "encode_ms",
        "decode_ms",
        "total_ms",
        "slices_encoded",
        "slices_cached",
        "prompts_decoded",
    }
    parts = timings["window_ms"] + timings["encode_ms"] + timings["decode_ms"]
    at_once = 2 if session.threads > 1 else 1  # the time of both slices that are worked on
    assert 0 < parts <= at_once * timings["total_ms"]


def test_two_slices_are_worked_on_at_once_and_nothing_else_changes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    original = Engine.encode

    def recorded(self: Engine, pixels: NDArray[np.uint8], streams: int = 1, **where: Any) -> Any:
        threads.append(threading.current_thread().name)
        return original(self, pixels, streams, **where)

    monkeypatch.setattr(Engine, "encode", recorded)
    volume = scene_volume()
    one_way = {"box": (*BOX[:2], *BOX[3:5]), "slice_index": BOX[2], "z_range": (BOX[2], BOX[5])}
    prompts: list[dict[str, Any]] = [{"box": BOX}, one_way]
    for prompt, name in zip(prompts, ("lite-infer walk", "lite-infer encoder"), strict=True):
        results = []
        for count, expected in ((2, True), (1, False)):
            threads.clear()
            with open_session(bundle, cache=False, threads=count) as fresh:
                results.append(fresh.segment(volume, **prompt))
            assert (name in threads) == expected
            assert expected or set(threads) == {"MainThread"}
        both, alone = results
        np.testing.assert_array_equal(both.label_map, alone.label_map)
        assert [str(one) for one in both.objects[0].slices] == [str(one) for one in alone.objects[0].slices]
        assert both.timings["slices_encoded"] == alone.timings["slices_encoded"]
