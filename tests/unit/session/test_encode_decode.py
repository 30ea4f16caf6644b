"""`Session.encode` and `Session.decode`, the two halves that desktop apps call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import (
    SIDE,
    disc,
    tiny_bundle,
)

from runtime import Session
from runtime.errors import (
    ImageError,
    PromptError,
)

# encode and decode


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64, ">i2"])
def test_images_of_any_dtype_are_encoded(session: Session, dtype: Any) -> None:
    image, mask = disc()
    embedding = session.encode(image.astype(dtype))
    assert embedding.original_size == (48, 64)
    assert embedding.resized_size == (48, 64)
    prediction = session.decode(embedding, boxes=[[15, 8, 45, 32]])
    np.testing.assert_array_equal(prediction.masks, mask[np.newaxis], strict=True)


def test_uint8_is_encoded_as_it_is_and_windowed_where_asked(session: Session) -> None:
    image, _ = disc()
    plain = session.encode(image)
    same = session.encode(image, window=(127.5, 255))
    np.testing.assert_array_equal(same.tensors["plane"], plain.tensors["plane"])
    narrow = session.encode(image, window=(250, 10))  # only the bright corner is above 245
    assert not session.decode(narrow, boxes=[[15, 8, 45, 32]]).masks.any()
    with pytest.raises(PromptError, match=r"window 'x': wanted LEVEL,WIDTH"):
        session.encode(image, window="x")


def test_an_embedding_holds_what_the_manifest_says_and_nobody_can_change_it(session: Session) -> None:
    embedding = session.encode(disc(radius=7.1)[0])  # not one that the cache holds already
    assert {name: (tensor.shape, str(tensor.dtype)) for name, tensor in embedding.tensors.items()} == {
        "plane": ((1, 1, SIDE, SIDE), "float16"),
        "levels": ((1, 1, SIDE, SIDE), "uint8"),
    }
    assert embedding.nbytes == 3 * SIDE * SIDE
    for tensor in embedding.tensors.values():
        with pytest.raises(ValueError, match=r"read-only"):
            tensor[...] = 0


def test_a_volume_is_no_image_to_encode(session: Session) -> None:
    with pytest.raises(ImageError, match=r"array of shape \(9, 8, 7\): wanted \(H, W\) or \(H, W, 3\)"):
        session.encode(np.zeros((9, 8, 7), np.uint8))


def test_several_boxes_are_one_call_and_give_one_mask_each(session: Session) -> None:
    image, mask = disc()
    boxes = [[15, 8, 45, 32], [0, 0, 29, 47], [40, 30, 60, 46]]
    prediction = session.decode(session.encode(image), boxes=boxes)
    left = mask.copy()
    left[:, 30:] = False
    np.testing.assert_array_equal(prediction.masks, [mask, left, np.zeros_like(mask)])
    assert prediction.low_res_logits.shape == (3, SIDE, SIDE)
    assert prediction.low_res_logits.dtype == np.float32
    assert prediction.candidates.shape == (3, 1, 48, 64)
    assert np.isnan(prediction.scores).all()
    assert prediction.candidate_scores.shape == (3, 1)
    assert prediction.areas.tolist() == [mask.sum(), left.sum(), 0]
    assert prediction.boxes.tolist() == [[21, 11, 39, 29], [21, 12, 29, 28], [-1, -1, -1, -1]]


def test_candidates_come_best_first_and_the_best_is_the_mask(clicks: Session) -> None:
    image, _ = disc()
    image[18:23, 28:33] = 160  # bright enough for the loose candidate alone
    prediction = clicks.decode(clicks.encode(image), boxes=[[15, 8, 45, 32], [40, 30, 60, 46]])
    assert prediction.candidate_scores.shape == (2, 2)
    np.testing.assert_allclose(prediction.candidate_scores, [[0.8, 0.6], [0.2, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(prediction.scores, [0.8, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(prediction.masks, prediction.candidates[:, 0])
    loose, strict = prediction.candidates[0]
    assert loose[20, 30]
    assert not strict[20, 30]
    assert prediction.areas[0] == loose.sum()
    logits = prediction.low_res_logits[0]
    assert logits[20, 30] > 0, "the logits are those of the best candidate as well"


def test_logits_may_be_given_back_as_a_mask_prompt(clicks: Session) -> None:
    image, mask = disc()
    embedding = clicks.encode(image)
    first = clicks.decode(embedding, boxes=[[15, 8, 45, 32]])
    again = clicks.decode(embedding, boxes=[[15, 8, 45, 32]], masks=first.low_res_logits)
    explicit = clicks.decode(embedding, boxes=[[15, 8, 45, 32]], masks=first.low_res_logits[:, np.newaxis])
    np.testing.assert_array_equal(again.low_res_logits, explicit.low_res_logits)
    np.testing.assert_allclose(again.low_res_logits, 1.25 * first.low_res_logits, rtol=1e-5)
    np.testing.assert_array_equal(again.masks[0], mask)


def test_points_and_labels_of_several_objects_are_one_call(clicks: Session) -> None:
    embedding = clicks.encode(disc()[0])
    points = [[[50, 40], [30, 20]], [[5, 5], [-100, 900]]]
    prediction = clicks.decode(embedding, points=points, point_labels=[[1, 0], [1, -1]])
    assert prediction.masks[:, 40, 50].tolist() == [True, False]
    assert prediction.masks[:, 20, 30].tolist() == [False, True]
    assert prediction.masks[:, 5, 5].tolist() == [False, True]


BAD_DECODES: list[tuple[dict[str, Any], str]] = [
    ({}, r"no prompt; bundle 'tiny' understands box, points, mask"),
    ({"boxes": []}, r"boxes: an empty array; leave it out or give at least one prompt"),
    ({"boxes": [[1, 2, 3]]}, r"boxes of shape \(1, 3\): wanted \(N, 4\)"),
    ({"boxes": [[[1, 2, 3, 4]]]}, r"boxes of shape \(1, 1, 4\): wanted \(N, 4\)"),
    ({"boxes": [[1, 2, 3, 4], [1, 2]]}, r"boxes: wanted an array of numbers with equal rows"),
    ({"boxes": [["a", 2, 3, 4]]}, r"boxes: wanted an array of numbers"),
    ({"boxes": 5}, r"boxes: one number; wanted an array"),
    ({"boxes": [[1, 2, np.nan, 4]]}, r"boxes: every number must be finite"),
    ({"boxes": [[1, 2, np.inf, 4]]}, r"boxes: every number must be finite"),
    ({"boxes": [[9, 2, 3, 4]]}, r"box 9,2,3,4: an upper end lies below its lower end; swap them"),
    ({"boxes": [[1, 2, 64, 4]]}, r"box 1,2,64,4 leaves the image: x runs from 0 to 63, y from 0 to 47"),
    ({"boxes": [[1, 2, 3, 48]]}, r"leaves the image"),
    ({"boxes": [[-1, 2, 3, 4]]}, r"leaves the image"),
    ({"points": [[[1, 2]]]}, r"points and point_labels belong together; give both"),
    ({"point_labels": [[1]], "boxes": [[1, 2, 3, 4]]}, r"points and point_labels belong together"),
    ({"points": [[1, 2]], "point_labels": [1]}, r"points \(1, 2\) with labels \(1,\): wanted \(N, P, 2\) and \(N, P\)"),
    ({"points": [[[1, 2]]], "point_labels": [[1, 0]]}, r"wanted \(N, P, 2\) and \(N, P\)"),
    ({"points": [[[1, 2]]], "point_labels": [[2]]}, r"point_labels: wanted 1 \(on the object\), 0 .* or -1"),
    ({"points": [[[1, 48]]], "point_labels": [[1]]}, r"point 1,48 leaves the image: x runs from 0 to 63"),
    ({"points": [[[-1, 4]]], "point_labels": [[0]]}, r"point -1,4 leaves the image"),
    ({"points": [[[1, np.nan]]], "point_labels": [[1]]}, r"points: every number must be finite"),
    (
        {"boxes": [[1, 2, 3, 4]] * 2, "points": [[[1, 2]]], "point_labels": [[1]]},
        r"boxes, points and masks for \[1, 2\] objects: wanted the same number of each",
    ),
    (
        {"boxes": [[1, 2, 3, 4]], "masks": np.zeros((1, 1, 8, 8))},
        r"masks of shape \(1, 1, 8, 8\): wanted \(1, 1, 64, 64\)",
    ),
    ({"boxes": [[1, 2, 3, 4]], "masks": np.zeros((2, 64, 64))}, r"for \[1, 2\] objects"),
    ({"masks": np.zeros((64, 64))}, r"masks of shape \(64, 64\)"),
    ({"masks": 3.0}, r"masks: one number; wanted an array with a row for each object"),
]


@pytest.mark.parametrize(("prompts", "text"), BAD_DECODES, ids=[text for _, text in BAD_DECODES])
def test_a_bad_decode_says_what_was_wanted(clicks: Session, prompts: dict[str, Any], text: str) -> None:
    embedding = clicks.encode(disc()[0])
    with pytest.raises(PromptError, match=text):
        clicks.decode(embedding, **prompts)


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ({}, r"bundle 'tiny' needs a box for every object; it understands box"),
        ({"points": [[[1, 2]]], "point_labels": [[1]]}, r"bundle 'tiny' takes no points prompt; it understands box"),
        ({"boxes": [[1, 2, 3, 4]], "masks": np.zeros((1, 1, 64, 64))}, r"bundle 'tiny' takes no mask prompt"),
    ],
)
def test_prompts_that_a_bundle_does_not_take_are_refused(session: Session, prompts: dict[str, Any], text: str) -> None:
    with pytest.raises(PromptError, match=text):
        session.decode(session.encode(disc()[0]), **prompts)


def test_one_box_may_be_given_flat(session: Session) -> None:
    image, mask = disc()
    np.testing.assert_array_equal(session.decode(session.encode(image), boxes=[15, 8, 45, 32]).masks[0], mask)


def test_an_embedding_of_another_bundle_is_refused(session: Session, tmp_path: Path) -> None:
    with Session(tiny_bundle(tmp_path, channels=1), backend="onnxruntime", cache=False) as other:
        foreign = other.encode(disc()[0])
    with pytest.raises(PromptError, match=r"made by another bundle or precision; encode the image with this session"):
        session.decode(foreign, boxes=[[1, 2, 3, 4]])
