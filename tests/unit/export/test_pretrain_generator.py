"""The synthetic scenes and the prompts that are simulated on them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from export.pretrain.dataset import make_example
from export.pretrain.pixels import draw_pixels
from export.pretrain.prompts import PromptMix, error_click, jitter_box, make_prompt, neighbour_mask, tight_box
from export.pretrain.scenes import Scene, draw_size, make_scene
from export.pretrain.sequences import make_sequence


def test_an_example_depends_on_seed_and_number_alone() -> None:
    first, again, other = make_example(3, 5), make_example(3, 5), make_example(4, 5)
    for name in ("pixels", "targets", "boxes", "neighbours", "has_neighbour"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert not np.array_equal(first.pixels, other.pixels)


def test_an_example_has_the_shapes_and_types_a_step_needs() -> None:
    example = make_example(1, 2, size=128, prompts=3)
    assert (example.pixels.shape, example.pixels.dtype) == ((3, 128, 128), np.uint8)
    assert (example.targets.shape, example.targets.dtype) == ((3, 128, 128), np.uint8)
    assert (example.boxes.shape, example.boxes.dtype) == ((3, 4), np.float32)
    assert example.neighbours.shape == (3, 128, 128)
    assert (example.has_neighbour.shape, example.has_neighbour.dtype) == ((3,), np.bool_)
    assert set(np.unique(example.targets)) <= {0, 1}


@pytest.mark.parametrize("index", range(8))
def test_the_padding_is_black_and_holds_no_target(index: int) -> None:
    rng = np.random.default_rng([1, index])
    height, width = make_scene(rng, 256).labels.shape  # the first thing an example draws
    example = make_example(1, index)
    assert max(height, width) == 256
    for padded in (
        example.pixels[:, height:],
        example.pixels[:, :, width:],
        example.targets[:, height:],
        example.targets[:, :, width:],
        example.neighbours[:, height:],
    ):
        assert not padded.any()


def test_every_parent_is_painted_before_its_children() -> None:
    scene = make_scene(np.random.default_rng(11))
    assert scene.parents[0] == -1
    assert all(parent < label for label, parent in enumerate(scene.parents))
    assert scene.labels.max() < len(scene.parents)


def test_a_share_of_scenes_is_drawn_on_coarser_pixels() -> None:
    rng = np.random.default_rng(3)
    sizes = np.array([draw_size(rng, 256, 0.4) for _ in range(600)])
    coarse = sizes[sizes < 256]
    assert 0.33 < len(coarse) / len(sizes) < 0.47
    assert 46 <= coarse.min() < 55
    assert coarse.max() > 220
    assert {draw_size(rng, 256, 0.0) for _ in range(20)} == {256}


def test_coarse_labels_are_enlarged_to_where_the_image_is() -> None:
    pytest.importorskip("torch", reason="the export extra is not installed")
    from export.pretrain.predictors import frame_image

    labels = np.zeros((40, 61), np.uint8)
    labels[9:23, 14:37] = 1
    enlarged = Scene(labels, (-1, 0)).enlarged(256).labels
    framed, resized = frame_image(labels * np.uint8(255), 256)
    image = framed[0, : resized[0], : resized[1]] > 0.5
    assert enlarged.shape == resized == (168, 256)
    assert tight_box(enlarged).tolist() == tight_box(image).tolist() == [59, 38, 154, 96]
    assert np.count_nonzero(enlarged != image) < 20, "Lanczos rounds corners"


def test_a_coarse_image_is_enlarged_as_the_runtime_enlarges_it() -> None:
    scene = make_scene(np.random.default_rng(2), 70)
    pixels = draw_pixels(scene, 256, np.random.default_rng(5), np.random.default_rng(6))
    height, width = scene.enlarged(256).labels.shape
    assert pixels.shape == (3, 256, 256)
    assert max(height, width) == 256
    assert not pixels[:, height:].any()
    assert not pixels[:, :, width:].any()
    fine = draw_pixels(scene, 70, np.random.default_rng(5), np.random.default_rng(6))
    assert fine.shape == (3, 70, 70)
    along = np.diff(pixels[0, :height, :width].astype(float))  # differences, since the borders do not meet
    power = np.abs(np.fft.rfft(along * np.hanning(along.shape[1]))) ** 2
    assert power[:, 2 * power.shape[1] // 5 :].sum() < 0.02 * power.sum(), "nothing finer than a coarse pixel"


@pytest.mark.parametrize("index", range(6))
def test_an_example_on_coarse_pixels_has_targets_of_whole_pixels(index: int) -> None:
    rng = np.random.default_rng([5, index])
    size = draw_size(rng, 256, 1.0)  # the first thing an example draws
    example = make_example(5, index, coarse_share=1.0, mix=PromptMix(neighbour_share=0.0, boxes=(1.0, 0.0, 0.0, 0.0)))
    edges = {round(place * 256 / size) for place in range(size + 1)}
    assert size < 256
    for target, box, clicked in zip(example.targets, example.boxes, example.has_click, strict=True):
        rows, columns = np.nonzero(np.diff(target.astype(int), axis=0))[0], np.nonzero(np.diff(target.astype(int)))[1]
        assert {int(row) + 1 for row in rows} <= {edge + off for edge in edges for off in (-1, 0, 1)}
        assert len(columns)
        assert clicked or (box == tight_box(target)).all()


def test_a_sequence_on_coarse_pixels_fills_the_frame_and_keeps_its_objects() -> None:
    sequence = make_sequence(6, 1, slices=3, coarse_share=1.0)
    assert sequence.pixels.shape == (3, 3, 256, 256)
    columns = np.flatnonzero(sequence.pixels.any((0, 1, 2)))
    rows = np.flatnonzero(sequence.pixels.any((0, 1, 3)))
    assert max(columns[-1], rows[-1]) > 200
    assert sequence.targets[0].any((1, 2)).all()


def test_a_tight_box_ends_on_the_last_pixel_inside() -> None:
    mask = np.zeros((7, 9), np.uint8)
    mask[2:4, 3:8] = 1
    assert tight_box(mask).tolist() == [3, 2, 7, 3]


def test_a_jittered_box_keeps_its_ends_in_order() -> None:
    rng = np.random.default_rng(0)
    boxes = np.stack([jitter_box(np.array([10, 20, 12, 21], np.float32), rng) for _ in range(200)])
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert len(np.unique(boxes[:, 0])) > 50


def test_boxes_come_in_the_shares_that_are_asked_for() -> None:
    rng, box = np.random.default_rng(1), np.array([10, 20, 59, 89], np.float32)
    shares = (0.5, 0.5, 0.0, 0.0)
    boxes = np.stack([jitter_box(box, rng, shares) for _ in range(400)])
    tight = (boxes == box).all(axis=1)
    assert 0.42 < tight.mean() < 0.58
    grown = (boxes[:, 2:] - boxes[:, :2]).sum(axis=1) - (box[2:] - box[:2]).sum()
    assert (grown[~tight] > 0).mean() > 0.9, "too large, as a rule"
    assert not (jitter_box(box, rng, (0.0, 0.0, 0.0, 1.0)) == box).all()


@pytest.mark.parametrize(("side", "most", "wanted"), [(100, 7.0, 7.0), (100, 16.0, 16.0), (10, 16.0, 4.0)])
def test_a_hand_is_off_by_as_much_as_is_said_but_by_no_more_than_the_box_bears(
    side: int, most: float, wanted: float
) -> None:
    rng, box = np.random.default_rng(2), np.array([50, 50, 49 + side, 49 + side], np.float32)
    off = np.abs(np.stack([jitter_box(box, rng, (0.0, 0.0, 0.0, 1.0), most) for _ in range(400)]) - box)
    assert 0.9 * wanted < off.max() <= wanted
    assert 0.2 * wanted < off.mean() < 0.3 * wanted, "a quarter: both how sure the hand is and each side vary"


def test_a_neighbours_mask_overlaps_the_object_but_is_not_it() -> None:
    target = np.zeros((128, 128), np.uint8)
    target[40:80, 50:100] = 1
    rng = np.random.default_rng(4)
    overlaps = []
    for _ in range(40):
        moved = neighbour_mask(target, rng)
        assert set(np.unique(moved)) <= {0, 1}
        overlaps.append(2 * (moved & target).sum() / (moved.sum() + target.sum()))
    assert 0.4 < np.mean(overlaps) < 0.95


def test_some_neighbours_belong_to_an_object_that_is_gone() -> None:
    found = []
    for seed in range(60):
        rng = np.random.default_rng([9, seed])
        prompt = make_prompt(make_scene(rng), rng, PromptMix(neighbour_share=1.0))
        if prompt is not None and not prompt.target.any():
            assert prompt.neighbour is not None
            assert prompt.neighbour.any()
            found.append(seed)
    assert found


@pytest.mark.parametrize("fill", [0.45, 0.3])
def test_a_limit_holds_its_object_somewhere_and_comes_with_an_empty_neighbour(fill: float) -> None:
    shares, places = [], []
    for seed in range(40):
        rng = np.random.default_rng([8, seed])
        prompt = make_prompt(
            make_scene(rng), rng, PromptMix(neighbour_share=0.0, point_share=0.0, limit_share=1.0, limit_fill=fill)
        )
        if prompt is None:
            continue
        assert prompt.neighbour is not None
        assert prompt.target.any()
        assert not prompt.neighbour.any()
        inner = tight_box(prompt.target)
        assert (prompt.box[:2] <= inner[:2] + 1e-3).all()
        assert (prompt.box[2:] >= inner[2:] - 1e-3).all()
        size, spare = inner[2:] - inner[:2] + 1, (prompt.box[2:] - prompt.box[:2]) - (inner[2:] - inner[:2])
        shares += list(size / (size + spare))
        places += list((inner[:2] - prompt.box[:2]) / np.maximum(spare, 1e-6))
    assert fill - 1e-3 <= min(shares) < fill + 0.1
    assert max(shares) > 0.95
    assert min(places) < 0.2 < 0.8 < max(places)


def test_a_click_lies_in_the_middle_of_the_largest_wrong_component() -> None:
    target = np.zeros((20, 30), bool)
    target[5:14, 10:19] = True
    answer = np.zeros_like(target)
    answer[0, 0] = True  # a smaller mistake elsewhere
    assert error_click(answer, target) == (14, 9, 1)
    assert error_click(target | answer, target) == (0, 0, 0)
    assert error_click(target, target) is None


def test_a_sequence_depends_on_seed_and_number_alone() -> None:
    first, again = make_sequence(3, 5, slices=4), make_sequence(3, 5, slices=4)
    for name in ("pixels", "targets", "boxes", "limits", "is_limit"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert first.pixels.shape == (4, 3, 256, 256)
    assert first.targets.shape == (4, 3, 256, 256)
    assert not np.array_equal(first.pixels[0], first.pixels[1])


def test_objects_change_slowly_from_slice_to_slice_and_some_end() -> None:
    overlaps, ended = [], 0
    for index in range(12):
        targets = make_sequence(2, index, slices=6).targets.astype(bool)
        assert targets[0].any((1, 2)).all()
        for before, after in pairwise(targets):
            for a, b in zip(before, after, strict=True):
                if a.any() and b.any():
                    overlaps.append((a & b).sum() / (a | b).sum())
                ended += int(a.any() and not b.any())
                assert a.any() or not b.any()  # what has ended stays away
    assert 0.6 < np.mean(overlaps) < 0.99
    assert ended


def test_a_given_limit_contains_the_object_on_every_slice() -> None:
    found = 0
    for index in range(6):
        sequence = make_sequence(4, index, slices=5)
        for slot, limit in enumerate(sequence.limits):
            if np.isfinite(limit).all():
                found += 1
                tight = tight_box(sequence.targets[:, slot].max(0))
                assert (limit[:2] <= tight[:2]).all()
                assert (limit[2:] >= tight[2:]).all()
    assert found
