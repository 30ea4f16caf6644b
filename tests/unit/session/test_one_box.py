"""A graph for one box: what it is used for, and that it answers as the decoder does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import BOX, FLAT, disc, open_session, scene_volume, tiny_bundle

import runtime
from runtime.errors import InferenceError


@pytest.fixture(scope="module")
def one_box_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `clicks_bundle`, with a graph for one box."""
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "one-box", clicks=True, one_box=1)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("box", [BOX, FLAT])
def test_a_box_is_followed_with_it_alone(
    clicks_bundle: Path, one_box_bundle: Path, opened: list[tuple[str, int]], backend: str, box: tuple[int, ...]
) -> None:
    with open_session(one_box_bundle, cache=False, backend=backend) as session:
        found = session.segment(scene_volume(), box=box)
    assert {role for role, _ in opened} == {"one_box", "encoder"}
    with open_session(clicks_bundle, cache=False, backend=backend) as session:
        wanted = session.segment(scene_volume(), box=box)
    assert found.label_map.any()
    np.testing.assert_array_equal(found.label_map, wanted.label_map)
    assert found.objects[0].slices == wanted.objects[0].slices


def test_a_slice_with_clicks_is_the_decoders(
    clicks_bundle: Path, one_box_bundle: Path, opened: list[tuple[str, int]]
) -> None:
    x, y, z = (BOX[0] + BOX[3]) // 2, (BOX[1] + BOX[4]) // 2, (BOX[2] + BOX[5]) // 2
    prompts = [runtime.Box(BOX, name="a"), runtime.Point((x, y, z), positive=False, name="a")]
    with open_session(one_box_bundle, cache=False) as session:
        found = session.segment(scene_volume(), prompts=prompts)
    assert {role for role, _ in opened} == {"one_box", "decoder", "encoder"}
    with open_session(clicks_bundle, cache=False) as session:
        wanted = session.segment(scene_volume(), prompts=prompts)
        without = session.segment(scene_volume(), box=BOX)
    np.testing.assert_array_equal(found.label_map, wanted.label_map)
    assert not np.array_equal(found.label_map, without.label_map)


def test_an_image_does_without_it(one_box_bundle: Path, opened: list[tuple[str, int]]) -> None:
    image, mask = disc()
    with open_session(one_box_bundle, cache=False) as session:
        found = session.segment(image, boxes=[(0, 0, 62, 46), (5, 5, 60, 40)])
    assert {role for role, _ in opened} == {"decoder", "encoder"}
    np.testing.assert_array_equal(found.objects[0].mask[..., 0].T, mask)


def test_decode_gives_every_candidate_and_leaves_it_closed(one_box_bundle: Path, opened: list[tuple[str, int]]) -> None:
    with open_session(one_box_bundle, cache=False) as session:
        prediction = session.decode(session.encode(disc()[0]), boxes=[(0, 0, 63, 47)])
    assert prediction.candidates.shape[1] == 2
    assert {role for role, _ in opened} == {"decoder", "encoder"}


def test_it_is_loaded_beforehand_for_volumes(one_box_bundle: Path, opened: list[tuple[str, int]]) -> None:
    with open_session(one_box_bundle, cache=False) as session:
        session.warm_up("image")
        assert opened == [("decoder", 1), ("encoder", 1)]
        session.warm_up("volume")
        assert opened[2:] == [("one_box", 2), ("encoder", 2)]
        session.warm_up()
        assert not opened[4:]


@pytest.mark.parametrize("threads", [1, 2])
def test_with_one_thread_as_with_two(one_box_bundle: Path, opened: list[tuple[str, int]], threads: int) -> None:
    with open_session(one_box_bundle, cache=False, threads=threads) as session:
        session.segment(scene_volume(), box=BOX)
    assert sorted(opened) == [("encoder", threads), ("one_box", threads)]


def test_a_graph_that_gives_several_candidates_is_refused(tmp_path: Path) -> None:
    wrong = tiny_bundle(tmp_path / "wrong", clicks=True, one_box=2)
    with (
        open_session(wrong, cache=False) as session,
        pytest.raises(InferenceError, match=r"found \(1, 2, 64, 64\), the manifest says \(N, 1, 64, 64\)"),
    ):
        session.segment(scene_volume(), box=BOX)
