"""Small boxes of single images: which are looked at from closer, what is looked at, and where the answers land."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import manifest_data
from numpy.typing import NDArray
from tiny_bundle import SIDE, open_session, tiny_bundle

from runtime import Session, Volume
from runtime._closer import answer_from_closer
from runtime.errors import BundleError
from runtime.manifest import Closer, Manifest, load_manifest
from runtime.transforms import frame_of

CLOSER = {"below": 0.125, "sides": [3, 4]}
BOX = (44, 40, 49, 44)
LARGE = (40, 36, 53, 48)


def dim() -> NDArray[np.uint8]:
    """A small object that is darker than the middle of the image's range, but not of its neighbourhood's."""
    image = np.full((SIDE, SIDE), 20, np.uint8)
    image[40:45, 44:50] = 100
    image[:2, :2] = 255
    return image


def truth() -> NDArray[np.bool_]:
    return dim() == 100


def check_found(mask: NDArray[np.bool_]) -> None:
    """The object, but for what an enlarged crop rounds off at its corners."""
    missing = truth() & ~mask
    missing[[40, 40, 44, 44], [44, 49, 44, 49]] = False
    assert not missing.any()
    assert not (mask & ~truth()).any()


def session(folder: Path, **closer: Any) -> Session:
    """A session with the bundle whose middle of the range decides, perhaps with closer looks."""
    bundle = tiny_bundle(folder / "bundle", clicks=True, input={"coordinates": "edges"}, prompts=closer)
    return open_session(bundle, cache=False)


def test_a_small_object_is_found_from_closer_where_the_image_hides_it(tmp_path: Path) -> None:
    with session(tmp_path / "plain") as plain, session(tmp_path / "closer", closer=CLOSER) as closer:
        assert not plain.decode(plain.encode(dim()), boxes=[BOX]).masks.any()
        found = closer.decode(closer.encode(dim()), boxes=[BOX])
        check_found(found.masks[0])
        assert found.candidate_scores[0].tolist() == pytest.approx([0.8, 0.6])
        segmented = closer.segment(dim(), box=BOX)
        check_found(segmented.label_map > 0)
        assert segmented.scores[0] == pytest.approx(0.8)


def test_only_small_boxes_are_looked_at_each_as_if_it_were_alone(tmp_path: Path) -> None:
    with session(tmp_path / "plain") as plain, session(tmp_path / "closer", closer=CLOSER) as closer:
        boxes = [LARGE, BOX, LARGE]
        found = closer.decode(closer.encode(dim()), boxes=boxes)
        other = plain.decode(plain.encode(dim()), boxes=boxes)
        np.testing.assert_array_equal(found.low_res_logits[[0, 2]], other.low_res_logits[[0, 2]])
        np.testing.assert_array_equal(found.scores[[0, 2]], other.scores[[0, 2]])
        check_found(found.masks[1])


def test_clicks_and_earlier_logits_go_with_the_box(tmp_path: Path) -> None:
    """The clicks of the tiny decoder reach three cells of a crop that shows few pixels; each object has its own."""
    with session(tmp_path, closer=CLOSER) as closer:
        embedding = closer.encode(dim())
        clicks = {"points": [[[46, 42]], [[46, 42]]], "point_labels": [[-1], [0]]}
        found = closer.decode(embedding, boxes=[BOX, BOX], **clicks)
        check_found(found.masks[0])
        taken = found.masks[0] & ~found.masks[1]
        assert taken[42, 46]
        assert taken.sum() < 9
        earlier = np.full((1, SIDE, SIDE), -40, np.float32)
        earlier[:, :, 47:] = 0
        masked = closer.decode(embedding, boxes=[BOX], masks=earlier).masks[0]
        assert not masked[:, :46].any()
        check_found(masked | (truth() & (np.arange(SIDE) < 48)))


def test_slices_of_volumes_are_not_looked_at(tmp_path: Path) -> None:
    volume = Volume(np.repeat(dim().T[:, :, np.newaxis], 3, axis=2))
    with session(tmp_path / "plain") as plain, session(tmp_path / "closer", closer=CLOSER) as closer:
        wanted, found = (
            one.segment(volume, box=BOX, slice_index=1, z_range=(0, 2), window=(120, 240)) for one in (plain, closer)
        )
        np.testing.assert_array_equal(found.label_map, wanted.label_map)
        assert found.timings["slices_encoded"] == wanted.timings["slices_encoded"]


def test_crops_are_not_kept(tmp_path: Path) -> None:
    with session(tmp_path, closer=CLOSER) as closer:
        embedding = closer.encode(dim())
        kept = closer.cache.info().memory_entries
        closer.decode(embedding, boxes=[BOX])
        assert closer.cache.info().memory_entries == kept


def edges_manifest(tmp_path: Path) -> Manifest:
    changes = {"input": {"coordinates": "edges"}, "prompts": {"closer": CLOSER}}
    return load_manifest(tiny_bundle(tmp_path / "bundle", clicks=True, **changes))


@pytest.mark.parametrize("shape", [(200, 250), (250, 120), (40, 50)])
@pytest.mark.parametrize("box", [(100, 80, 109, 84), (0, 0, 5, 3), (110.5, 188.25, 118, 199)])
def test_what_a_crop_shows_lands_where_it_was_taken(
    tmp_path: Path, shape: tuple[int, int], box: tuple[float, ...]
) -> None:
    """Pixels hold their own place, and so do the logits of every look: so must the cells of the answer."""
    box = tuple(min(value, shape[1 - number % 2] - 1.0) for number, value in enumerate(box))
    manifest, rule = edges_manifest(tmp_path), Closer(below=1, sides=(3.0, 4.5))
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    pixels = np.stack([rows, columns, rows], axis=2).astype(np.uint8)
    seen: list[tuple[int, ...]] = []
    cell_margin = SIDE // 4  # the image ends within half a cell of the crop's edge

    def places(near: Any, corner: tuple[int, int]) -> NDArray[np.float32]:
        """Row and column, in the image, of the middle of each cell: two candidates."""
        cells = (np.arange(SIDE) + 0.5) / near.scale_xy[0] - 0.5
        return np.stack(np.meshgrid(cells + corner[0], cells + corner[1], indexing="ij")).astype(np.float32)

    def look(crop: NDArray[np.uint8], asked: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        corner = (int(crop[0, 0, 0]), int(crop[0, 0, 1]))
        seen.append((*corner, *crop.shape[:2]))
        near = frame_of(manifest, (crop.shape[0], crop.shape[1]))
        moved = np.subtract(box, [corner[1], corner[0]] * 2)
        np.testing.assert_allclose(asked["boxes"], near.boxes_to_input(moved), atol=1e-3)
        np.testing.assert_allclose(asked["points"], near.points_to_input(moved.reshape(1, 2, 2)), atol=1e-3)
        assert asked["has_mask"] == [1]
        shown = places(near, corner)
        mask = asked["masks"][0, 0]
        cells = near.resized_size
        inner = np.s_[cell_margin : cells[0] - cell_margin, cell_margin : cells[1] - cell_margin]
        np.testing.assert_allclose(mask[inner], shown[0][inner], atol=1e-2)
        assert (mask[cells[0] :] == -10).all()
        assert (mask[:, cells[1] :] == -10).all()
        return {"low_res_logits": shown, "scores": np.float32([0.5, 0.25])}

    frame = frame_of(manifest, shape)
    own = places(frame, (0, 0))
    prompts = {
        "boxes": frame.boxes_to_input(np.array([box])),
        "points": frame.points_to_input(np.array(box).reshape(1, 2, 2)),
        "point_labels": np.ones((1, 2), np.float32),
        "masks": own[np.newaxis, :1],
        "has_mask": np.ones(1, np.float32),
    }
    whole = {"low_res_logits": own, "scores": np.float32([0.7, 0.45])}
    found = answer_from_closer(manifest, rule, pixels, np.array(box), prompts, whole, look)
    cell = 1 / frame.scale_xy[0]
    inside = np.ones(own.shape[1:], np.bool_)
    for top, left, height, width in seen:  # a cell within the edge takes part of what is beyond it
        assert max(height, width) < 0.8 * max(shape)
        inside &= (own[0] > top + cell) & (own[0] < top + height - 1 - cell)
        inside &= (own[1] > left + cell) & (own[1] < left + width - 1 - cell)
        outside = (own[0] < top - 0.5) | (own[0] > top + height - 0.5)
        assert (found["low_res_logits"][0][outside] < own[0][outside]).all()
    assert inside.any()
    np.testing.assert_allclose(found["low_res_logits"][:, inside], own[:, inside], atol=0.02 * cell + 1e-3)
    share = len(seen) / 2
    assert found["scores"].tolist() == pytest.approx([0.7 - 0.2 * share, 0.45 - 0.2 * share])


def test_crops_are_as_long_as_said_and_end_with_the_image(tmp_path: Path) -> None:
    manifest, rule = edges_manifest(tmp_path), Closer(below=1, sides=(2.0, 5.0, 20.0))
    pixels = np.random.default_rng(1).integers(0, 255, (200, 300), np.uint8)
    shapes = []

    def look(crop: NDArray[np.uint8], _: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        shapes.append(crop.shape)
        return {"low_res_logits": np.zeros((1, SIDE, SIDE), np.float32)}

    whole = {"low_res_logits": np.ones((1, SIDE, SIDE), np.float32)}
    answer_from_closer(manifest, rule, pixels, np.array([140, 100, 159, 107]), {}, whole, look)
    assert shapes == [(42, 42), (102, 102)]  # 20 sides are the whole image
    shapes.clear()
    answer_from_closer(manifest, rule, pixels, np.array([296, 0, 299, 1]), {}, whole, look)
    assert shapes == [(14, 15), (14, 15), (42, 43)]  # never fewer than 24 pixels around the middle
    shapes.clear()
    answer_from_closer(manifest, rule, np.full_like(pixels, 7), np.array([140, 100, 159, 107]), {}, whole, look)
    assert shapes == []  # nothing is to be seen there


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"input": {"coordinates": "exact"}}, "wanted input.resize longest_side and input.coordinates edges"),
        ({"prompts": {"box": {"use": "limits_mask"}}}, "belongs to a decoder that reads boxes"),
        ({"prompts": {"mask": {"kind": "scribble", "size": [SIDE, SIDE]}}}, "wanted masks of kind logits"),
        ({"prompts": {"vectors": {"text": 4}}}, "wanted prompts without modality, crops and vectors"),
    ],
)
def test_a_bundle_that_cannot_be_looked_through_from_closer_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    facts = manifest_data()
    given = {
        "input": {**facts["input"], "coordinates": "edges", **changes.get("input", {})},
        "prompts": {"box": {}, "closer": CLOSER, **changes.get("prompts", {})},
    }
    folder = tiny_bundle(tmp_path / "bundle", **given)
    with pytest.raises(BundleError, match=f"prompts.closer: {reason}"):
        load_manifest(folder)
