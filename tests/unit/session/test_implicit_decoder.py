"""Bundles whose decoder is a function of position, and whose encoder sees the image's spectrum as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import BOX, SIDE, disc, inside, open_session, scene_volume
from tiny_prompts import implicit_bundle

from runtime import Session, _implicit
from runtime.errors import BackendError, PromptError

BOXES = [[15, 8, 45, 32], [2.5, 3, 20, 47]]
WINDOW = (127.5, 255.0)


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def field(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = implicit_bundle(tmp_path_factory.mktemp("implicit") / "bundle")
    with open_session(folder, backend=request.param, cache=False) as opened:
        yield opened


def boxes_of_pixels(size: tuple[int, int], image: tuple[int, int]) -> Any:
    """Pixels of a map whose centres, moved to the image, lie in a box as the decoder is told to see it."""
    y = (np.arange(size[0]) + 0.5) * image[0] / size[0]
    x = (np.arange(size[1]) + 0.5) * image[1] / size[1]
    return np.stack([((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1)) for x0, y0, x1, y1 in np.array(BOXES)])


@pytest.mark.parametrize("size", [None, (48, 64), (96, 128), (31, 7), (1, 1)])
def test_the_decoder_is_evaluated_at_the_size_that_is_asked_for(field: Session, size: tuple[int, int] | None) -> None:
    image, _ = disc()
    found = field.decode(field.encode(image), boxes=BOXES, output_size=size)
    evaluated = size or image.shape
    assert found.low_res_logits.shape == (2, *evaluated)
    assert found.masks.shape == (2, *image.shape)
    wanted = boxes_of_pixels(evaluated, image.shape)
    np.testing.assert_array_equal(found.low_res_logits > 0, wanted)
    if evaluated == image.shape:
        np.testing.assert_array_equal(found.masks, wanted)


def test_a_map_is_the_same_in_small_parts(field: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = field.encode(disc()[0])
    whole = field.decode(embedding, boxes=BOXES, output_size=(50, 40))
    monkeypatch.setattr(_implicit, "_POINTS_AT_ONCE", 23)
    parts = field.decode(embedding, boxes=BOXES, output_size=(50, 40))
    np.testing.assert_array_equal(parts.low_res_logits, whole.low_res_logits)


def test_a_large_image_may_be_evaluated_at_fewer_points(field: Session) -> None:
    image = np.zeros((300, 500), np.uint8)
    image[100:200] = 200
    found = field.decode(field.encode(image), boxes=[[100, 50, 399, 249]], output_size=(60, 100))
    assert found.low_res_logits.shape == (1, 60, 100)
    assert found.masks.shape == (1, 300, 500)
    rows, columns = np.nonzero(found.masks[0])
    assert abs(rows.min() - 50) <= 5
    assert abs(columns.max() - 399) <= 5


def test_volumes_are_segmented_and_propagated(field: Session) -> None:
    found = field.segment(scene_volume(), box=BOX, window=WINDOW)
    assert found.label_map.shape == scene_volume().shape
    assert found.label_map[20, 34, 1:8].all()
    assert not found.label_map[~box_region()].any()
    assert inside().any()


def box_region() -> Any:
    x0, y0, z0, x1, y1, z1 = BOX
    region = np.zeros(scene_volume().shape, bool)
    region[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1] = True
    return region


def test_the_encoder_sees_the_spectrum_of_the_red_plane(field: Session) -> None:
    random = np.random.default_rng(3)
    image = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)  # of the encoder's size: nothing is resized
    found = field.encode(image).tensors["waves"][0, 0]
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2(image[:, :, 0].astype(float))))
    wanted = (magnitude - magnitude.min()) / (magnitude.max() - magnitude.min())
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert found[SIDE // 2, SIDE // 2] == 1  # zero frequency
    other = image.copy()
    other[:, :, 1:] = 9
    np.testing.assert_array_equal(field.encode(other).tensors["waves"][0, 0], found)


def test_a_black_image_has_a_spectrum_too(field: Session) -> None:
    np.testing.assert_array_equal(field.encode(np.zeros((20, 30), np.uint8)).tensors["waves"], 0)


def test_an_absurd_size_is_refused(field: Session) -> None:
    embedding = field.encode(disc()[0])
    with pytest.raises(PromptError, match=r"output_size 100000 x 100000: wanted at least 1 x 1 and at most 16777216"):
        field.decode(embedding, boxes=BOXES, output_size=(100000, 100000))


def test_another_bundle_refuses_a_size(session: Session) -> None:
    with pytest.raises(PromptError, match=r"output_size: the logits of bundle 'tiny' are 64 x 64 always; leave it out"):
        session.decode(session.encode(disc()[0]), boxes=BOXES, output_size=(10, 10))


def test_the_spectrum_cannot_be_given(field: Session) -> None:
    with pytest.raises(PromptError, match=r"extra 'spectrum': bundle 'tiny' takes no such array"):
        field.decode(field.encode(disc()[0]), boxes=BOXES, extra={"spectrum": np.zeros((1, 3, SIDE, SIDE))})


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_positions_are_not_computed_in_half_precision(tmp_path: Path, precision: str) -> None:
    folder = implicit_bundle(tmp_path / "bundle")
    with pytest.raises(BackendError, match=rf"computes positions, which {precision} cannot tell apart; use fp32"):
        open_session(folder, backend="openvino", precision=precision)
    with open_session(folder, backend="openvino") as opened:
        assert opened.precision == "fp32"
