"""Bundles whose decoder looks at what lies inside the box, or takes arrays that only the caller has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import disc, open_session
from tiny_prompts import CROP_SIDES, content_bundle

from runtime import EmbeddingCache, Session
from runtime.errors import InferenceError, PromptError
from runtime.types import Embedding

BOXES = [[10, 5, 40, 30], [0, 0, 3, 3], [50, 40, 63, 47]]
BIAS = [[0.5, 0.5], [1, 0], [-1, 0]]
WINDOW = (127.5, 255.0)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = content_bundle(tmp_path_factory.mktemp("content") / "bundle")
    with open_session(folder, backend=request.param, cache=False) as opened:
        yield opened


def level(image: NDArray[Any], box: list[float], bias: list[float]) -> float:
    """The logit that the tiny decoder gives everywhere, by its definition; exact where the crops are constant."""
    x0, y0, x1, y1 = (int(end) for end in box)
    part = image[y0 : y1 + 1, x0 : x1 + 1] / 255
    return float(part.mean() + 10 * part.max() + 30 * np.mean(bias))


def patches() -> NDArray[np.uint8]:
    """An image that is constant in each of the boxes."""
    image = np.full((48, 64), 10, np.uint8)
    for value, (x0, y0, x1, y1) in zip((51, 102, 255), BOXES, strict=True):
        image[y0 : y1 + 1, x0 : x1 + 1] = value
    return image


def test_the_decoder_reads_the_crops_what_the_third_graph_makes_of_them_and_the_vectors(content: Session) -> None:
    image = patches()
    found = content.decode(content.encode(image), boxes=BOXES, extra={"bias": BIAS})
    wanted = [level(image, box, bias) for box, bias in zip(BOXES, BIAS, strict=True)]
    assert len(set(wanted)) == 3
    np.testing.assert_allclose(found.low_res_logits[:, 3, 5], wanted, atol=1e-4)


def test_boxes_in_one_call_equal_one_call_each(content: Session) -> None:
    embedding = content.encode(np.random.default_rng(3).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    together = content.decode(embedding, boxes=BOXES, extra={"bias": BIAS}).low_res_logits
    for index, box in enumerate(BOXES):
        alone = content.decode(embedding, boxes=[box], extra={"bias": [BIAS[index]]}).low_res_logits[0]
        np.testing.assert_allclose(together[index], alone, atol=1e-5)


def test_one_row_serves_all_prompts(content: Session) -> None:
    embedding = content.encode(patches())
    given = ([[1, 3]] * 3, [[1, 3]], [1, 3], np.array([1, 3], np.float64), np.array([[1, 3]], np.int16))
    logits = [content.decode(embedding, boxes=BOXES, extra={"bias": one}).low_res_logits for one in given]
    for other in logits[1:]:
        np.testing.assert_array_equal(other, logits[0])


def test_given_crops_replace_what_would_be_cut_each_on_its_own(content: Session) -> None:
    image = patches()
    embedding = content.encode(image)
    plain = content.decode(embedding, boxes=BOXES, extra={"bias": BIAS}).low_res_logits
    vectors = np.full((3, 3), 2.0)
    found = content.decode(embedding, boxes=BOXES, extra={"bias": BIAS, "content": vectors}).low_res_logits
    brightest = np.array([10 * 51 / 255, 10 * 102 / 255, 10.0])
    np.testing.assert_allclose((found - plain)[:, 0, 0], 20 - brightest, atol=1e-4)
    cut = np.full((3, 3, CROP_SIDES[0], CROP_SIDES[0]), 7.0, np.float32)
    found = content.decode(embedding, boxes=BOXES, extra={"bias": BIAS, "crops": cut}).low_res_logits
    np.testing.assert_allclose((found - plain)[:, 0, 0], 7 - brightest / 10, atol=1e-4)


TAKES = r"crops \(N, 3, 4, 4\), content \(N, 3\), bias \(N, 2\)"


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (None, r"bundle 'tiny' needs bias \(N, 2\), one row a prompt; give them as extra, by these names"),
        ({"content": np.zeros((3, 3))}, r"bundle 'tiny' needs bias \(N, 2\)"),
        ({"bias": BIAS, "spectrum": [1]}, rf"extra 'spectrum': bundle 'tiny' takes no such array; it takes {TAKES}"),
        ({"bias": BIAS[:2]}, r"extra 'bias' of shape \(2, 2\): wanted \(N, 2\), N = 3 prompts or 1 for all"),
        ({"bias": np.zeros((3, 5))}, r"extra 'bias' of shape \(3, 5\): wanted \(N, 2\)"),
        ({"bias": BIAS, "content": np.zeros((3, 4))}, r"extra 'content' of shape \(3, 4\): wanted \(N, 3\)"),
        ({"bias": BIAS, "crops": np.zeros((3, 3, 4, 5))}, r"extra 'crops' of shape .*: wanted \(N, 3, 4, 4\)"),
        ({"bias": [["a", "b"]]}, r"extra 'bias' of dtype <U1: wanted numbers, shape \(N, 2\)"),
        ({"bias": np.ones((3, 2), bool)}, r"extra 'bias' of dtype bool: wanted numbers"),
        ({"bias": [[1, 2], [3]]}, r"extra 'bias': wanted an array of shape \(N, 2\)"),
        ({"bias": [[1, np.nan]]}, r"extra 'bias': every number must be finite"),
        ([1, 2], r"extra of type list: wanted a dict of arrays by name"),
    ],
)
def test_extra_that_does_not_fit_is_refused_with_what_is_taken(content: Session, extra: Any, text: str) -> None:
    embedding = content.encode(patches())
    with pytest.raises(PromptError, match=text):
        content.decode(embedding, boxes=BOXES, extra=extra)
    with pytest.raises(PromptError, match=text):
        content.segment(patches(), boxes=BOXES, extra=extra, window=WINDOW)


def test_a_bundle_that_takes_nothing_extra_says_so(session: Session) -> None:
    with pytest.raises(PromptError, match=r"extra 'bias': bundle 'tiny' takes no such array; it takes none; leave ext"):
        session.decode(session.encode(disc()[0]), boxes=BOXES, extra={"bias": BIAS})


def test_the_embedding_keeps_the_pixels_as_they_were_only_where_a_decoder_looks_at_them(
    content: Session, session: Session
) -> None:
    image = patches()
    assert session.encode(image).pixels is None
    embedding = content.encode(image)
    wanted = content.decode(embedding, boxes=BOXES, extra={"bias": BIAS}).low_res_logits
    image[:] = 0
    np.testing.assert_array_equal(
        content.decode(embedding, boxes=BOXES, extra={"bias": BIAS}).low_res_logits, wanted, strict=True
    )
    assert embedding.pixels is not None
    assert not embedding.pixels.flags.writeable


def test_a_cached_embedding_shows_the_crops_of_its_own_image(tmp_path: Path) -> None:
    folder = content_bundle(tmp_path / "bundle")
    found = []
    for _ in range(2):
        with EmbeddingCache(directory=tmp_path / "cache") as cache, open_session(folder, cache=cache) as opened:
            embedding = opened.encode(patches())
            found.append(opened.decode(embedding, boxes=BOXES, extra={"bias": BIAS}).low_res_logits)
            assert cache.info().hits == len(found) - 1
    np.testing.assert_array_equal(*found)


def test_an_embedding_that_lost_its_pixels_is_refused(content: Session) -> None:
    embedding = content.encode(patches())
    bare = Embedding(embedding.tensors, embedding.original_size, embedding.resized_size, embedding.graph_sha256)
    with pytest.raises(PromptError, match=r"bundle 'tiny' cuts 'crops' from the image and needs the image's pixels"):
        content.decode(bare, boxes=BOXES, extra={"bias": BIAS})


def test_objects_of_an_image_have_their_own_crops_and_their_own_rows(content: Session) -> None:
    image = patches()
    boxes = [BOXES[0], BOXES[2]]
    for kept in (1, 2):
        bias = [
            [(1 if label == kept else -1.1) * level(image, box, [0]) / 30] * 2 for label, box in enumerate(boxes, 1)
        ]
        found = content.segment(image, boxes=boxes, extra={"bias": bias}, window=WINDOW)
        assert set(np.unique(found.label_map)) == {kept}


def test_every_slice_is_cropped_where_its_own_box_is(content: Session) -> None:
    volume = np.random.default_rng(1).integers(0, 50, (64, 48, 4), dtype=np.uint8)
    volume[14:26, 14:26, :2] = 255  # inside the box
    volume[32:, 31:, 2:] = 255  # beside it
    given = {"box": (10, 10, 0, 30, 30, 3), "extra": {"bias": [-5 / 30, -5 / 30]}, "window": WINDOW}
    wanted = np.zeros(volume.shape, np.uint8)
    wanted[10:31, 10:31, :2] = 1  # the whole box, where something bright is inside
    np.testing.assert_array_equal(content.segment(volume, **given).label_map, wanted)
    wanted = np.zeros(volume.shape, np.uint8)
    wanted[:, :, :3] = 1  # the published loop looks where its last mask was, which is the whole image
    np.testing.assert_array_equal(content.segment(volume, mode="published", **given).label_map, wanted)


def test_a_third_graph_that_does_not_fit_its_manifest_is_found_out(tmp_path: Path) -> None:
    folder = content_bundle(tmp_path / "wrong", length=5)
    with (
        open_session(folder, cache=False) as opened,
        pytest.raises(InferenceError, match=r"brightest output 'output': found \(3, 3\), wanted \(3, 5\); convert"),
    ):
        opened.decode(opened.encode(patches()), boxes=BOXES, extra={"bias": BIAS})
    with open_session(content_bundle(tmp_path / "unsaid", length=None), cache=False) as opened:
        opened.decode(opened.encode(patches()), boxes=BOXES, extra={"bias": BIAS})


def test_warming_up_loads_the_third_graph(tmp_path: Path) -> None:
    folder = content_bundle(tmp_path / "bundle")
    with open_session(folder, cache=False) as opened:
        opened.warm_up()
        for name in ("encoder", "decoder", "brightest"):
            (folder / f"{name}.onnx").unlink()  # whatever is not loaded yet cannot be loaded any more
        opened.decode(opened.encode(patches()), boxes=BOXES, extra={"bias": BIAS})


def test_the_far_edge_of_the_manifest_is_followed(tmp_path: Path) -> None:
    image = np.zeros((48, 64), np.uint8)
    image[:, 40] = 255
    logits = []
    for far_edge in ("inclusive", "exclusive"):
        folder = content_bundle(tmp_path / far_edge, far_edge=far_edge)
        assert json.loads((folder / "manifest.json").read_text())["prompts"]["crops"][0]["far_edge"] == far_edge
        with open_session(folder, cache=False) as opened:
            found = opened.decode(opened.encode(image), boxes=[[10, 5, 40, 30]], extra={"bias": [0, 0]})
            logits.append(found.low_res_logits[0, 0, 0])
    assert logits[0] > 0 == logits[1]
