"""The decoder's inputs and outputs, and embeddings in the dtypes they are kept in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from published import manifest

from runtime import _decoding, _prompt_arrays
from runtime.errors import InferenceError, PromptError
from runtime.manifest import Manifest
from runtime.propagate import SlicePrompt
from runtime.transforms import frame_of

SIZE = (40, 64)
NO_POINTS = np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
FULL = {"prompts": {"box": {"use": "optional"}, "points": {}, "mask": {"kind": "logits", "size": [16, 16]}}}


def tensor(shape: list[int], dtype: str = "float32", stored: str = "float32") -> dict[str, Any]:
    return {"name": "t", "shape": shape, "dtype": dtype, "stored_dtype": stored}


def stored(values: Any, spec: dict[str, Any]) -> NDArray[Any]:
    return _decoding.stored(manifest({"embedding": [spec]}), {"t": np.asarray(values)})["t"]


# Embeddings


@pytest.mark.parametrize(
    ("kept", "values", "wanted"),
    [
        ("uint8", [-3.0, 0.4, 0.6, 254.6, 300.0], [0, 0, 1, 255, 255]),
        ("int8", [-300.0, -1.6, 0.4, 126.6, 127.6], [-128, -2, 0, 127, 127]),
        ("float16", [1 / 3, -2.0, 0.0, 1e-3, 5.0], np.float16([1 / 3, -2, 0, 1e-3, 5])),
        ("float32", [1 / 3, -2.0, 0.0, 1e-3, 5.0], np.float32([1 / 3, -2, 0, 1e-3, 5])),
    ],
)
def test_outputs_are_rounded_to_the_dtype_they_are_kept_in(kept: str, values: list[float], wanted: Any) -> None:
    found = stored(np.float32(values), tensor([5], stored=kept))
    assert found.dtype == kept
    np.testing.assert_array_equal(found, np.asarray(wanted, kept))


def test_kept_tensors_are_read_only_and_contiguous() -> None:
    found = stored(np.asfortranarray(np.ones((3, 5), np.float32)), tensor([3, 5]))
    assert found.flags.c_contiguous
    assert not found.flags.writeable


def test_restored_tensors_have_the_dtype_that_the_decoder_reads() -> None:
    facts = manifest({"embedding": [tensor([5], stored="float16")]})
    kept = _decoding.stored(facts, {"t": np.float32([1, 2, 3, 4, 1 / 3])})
    again = _decoding.restored(facts, kept)["t"]
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, np.float16([1, 2, 3, 4, 1 / 3]).astype(np.float32))
    plain = manifest({"embedding": [tensor([5])]})
    kept = _decoding.stored(plain, {"t": np.ones(5, np.float32)})
    assert _decoding.restored(plain, kept)["t"] is kept["t"], "no copy where nothing changes"


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({}, r"encoder output 't': found no such output, the manifest says \(5,\); convert again"),
        ({"t": np.zeros((1, 5), np.float32)}, r"encoder output 't': found \(1, 5\), the manifest says \(5,\)"),
    ],
)
def test_an_encoder_that_does_not_fit_its_manifest_is_found_out(outputs: dict[str, Any], text: str) -> None:
    with pytest.raises(InferenceError, match=text):
        _decoding.stored(manifest({"embedding": [tensor([5])]}), outputs)


# Inputs


def test_a_bundle_of_boxes_gets_boxes_alone() -> None:
    prompt = SlicePrompt(np.float32([1, 2, 3, 4]), *NO_POINTS)
    inputs = _prompt_arrays.slice_arrays(manifest(), prompt)
    assert set(inputs) == {"boxes"}
    np.testing.assert_array_equal(inputs["boxes"], np.float32([[1, 2, 3, 4]]), strict=True)


def test_what_is_missing_is_filled_as_the_format_says() -> None:
    inputs = _prompt_arrays.slice_arrays(manifest(FULL), SlicePrompt(None, *NO_POINTS))
    assert np.isnan(inputs["boxes"]).all()
    assert inputs["boxes"].shape == (1, 4)
    assert inputs["points"].shape == (1, 1, 2)
    assert inputs["point_labels"].tolist() == [[-1]]
    assert inputs["masks"].shape == (1, 1, 16, 16)
    assert not inputs["masks"].any()
    assert inputs["has_mask"].tolist() == [0]
    assert {array.dtype for array in inputs.values()} == {np.dtype(np.float32)}


def test_what_is_given_is_passed_on() -> None:
    logits = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    points, labels = np.float32([[3, 4], [5, 6]]), np.float32([1, 0])
    inputs = _prompt_arrays.slice_arrays(manifest(FULL), SlicePrompt(np.float32([1, 2, 3, 4]), points, labels, logits))
    np.testing.assert_array_equal(inputs["points"], points[np.newaxis], strict=True)
    np.testing.assert_array_equal(inputs["point_labels"], labels[np.newaxis], strict=True)
    np.testing.assert_array_equal(inputs["masks"], logits[np.newaxis, np.newaxis], strict=True)
    assert inputs["has_mask"].tolist() == [1]


def test_boxes_and_points_go_to_the_input_frame() -> None:
    facts = manifest(FULL)
    inputs = _prompt_arrays.prompt_arrays(
        facts,
        frame_of(facts, SIZE),
        _prompt_arrays.Given(boxes=[[1, 2, 3, 4]], points=[[[5, 6]]], point_labels=[[1]]),
    )
    np.testing.assert_array_equal(inputs["boxes"], np.float32([[4, 8, 12, 16]]))
    np.testing.assert_array_equal(inputs["points"], np.float32([[[20, 24]]]))


GUESSING = {
    "prompts": {
        "box": {"use": "optional"},
        "points": {"box_sides": [0.25, 0.5]},
        "mask": {"kind": "logits", "size": [256, 256], "neighbour_flag": 2},
    }
}


def guesses(logits: NDArray[np.float32] | None = None, label: float = 1) -> list[dict[str, NDArray[np.float32]]]:
    facts = manifest(GUESSING)
    given = _prompt_arrays.Given(
        points=[[[5, 6]]], point_labels=[[label]], masks=None if logits is None else logits[np.newaxis]
    )
    return _prompt_arrays.box_guesses(facts, _prompt_arrays.prompt_arrays(facts, frame_of(facts, SIZE), given))


def test_points_alone_try_a_square_of_each_side_around_them() -> None:
    found = guesses()
    assert [guess["boxes"].tolist() for guess in found] == [[[-11.5, -7.5, 51.5, 55.5]], [[-43.5, -39.5, 83.5, 87.5]]]


def test_an_earlier_mask_says_where_its_points_belong() -> None:
    logits = np.full((256, 256), -9, np.float32)
    logits[20:31, 40:51] = 9
    assert [guess["boxes"].tolist() for guess in guesses(logits)] == [[[38, 18, 52, 32]]]
    assert len(guesses(np.full((256, 256), -9, np.float32))) == 2, "an empty mask says nothing"


def test_points_beside_the_object_alone_do_not_place_it() -> None:
    with pytest.raises(PromptError, match=r"at least one must lie on the object"):
        guesses(label=0)


def test_given_boxes_and_bundles_that_do_without_them_leave_nothing_to_guess() -> None:
    for facts, box in ((manifest(GUESSING), np.float32([1, 2, 3, 4])), (manifest(FULL), None)):
        inputs = _prompt_arrays.slice_arrays(facts, SlicePrompt(box, np.float32([[3, 4]]), np.float32([1])))
        assert _prompt_arrays.box_guesses(facts, inputs) == [{}]


def test_a_neighbours_mask_is_marked_where_the_bundle_tells_it_from_an_earlier_answer() -> None:
    facts = manifest(GUESSING)
    logits = np.zeros((256, 256), np.float32)
    inputs = _prompt_arrays.slice_arrays(facts, SlicePrompt(np.float32([1, 2, 3, 4]), *NO_POINTS, logits))
    assert inputs["has_mask"].tolist() == [2]
    given = _prompt_arrays.Given(boxes=[[1, 2, 3, 4]], masks=logits[np.newaxis])
    assert _prompt_arrays.prompt_arrays(facts, frame_of(facts, SIZE), given)["has_mask"].tolist() == [1]


def test_a_box_that_is_a_limit_goes_with_an_empty_mask_where_the_bundle_knows_that() -> None:
    prompts = GUESSING["prompts"] | {"mask": {**GUESSING["prompts"]["mask"], "empty_is_limit": True}}
    prompt = SlicePrompt(np.float32([1, 2, 3, 4]), *NO_POINTS, is_limit=True)
    inputs = _prompt_arrays.slice_arrays(manifest({"prompts": prompts}), prompt)
    np.testing.assert_array_equal(inputs["masks"], np.full((1, 1, 256, 256), -8, np.float32), strict=True)
    assert inputs["has_mask"].tolist() == [2]
    for facts, asked in ((GUESSING, prompt), ({"prompts": prompts}, SlicePrompt(prompt.box, *NO_POINTS))):
        assert _prompt_arrays.slice_arrays(manifest(facts), asked)["has_mask"].tolist() == [0]


# Outputs


def outputs(facts: Manifest, count: int = 2, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    spec = facts.output
    return {
        "low_res_logits": rng.standard_normal((count, spec.candidates, *spec.low_res_size)).astype(np.float32),
        "scores": rng.random((count, spec.candidates), dtype=np.float32),
    }


def test_candidates_of_each_prompt_are_sorted_by_their_scores() -> None:
    facts = manifest({"output": {"candidates": 3, "low_res_size": [16, 16]}})
    given = outputs(facts)
    found = _decoding.prediction(facts, [given], frame_of(facts, SIZE))
    for prompt in range(2):
        order = np.argsort(-given["scores"][prompt])
        np.testing.assert_array_equal(found.candidate_scores[prompt], given["scores"][prompt][order])
        np.testing.assert_array_equal(found.low_res_logits[prompt], given["low_res_logits"][prompt, order[0]])
        np.testing.assert_array_equal(found.masks[prompt], found.candidates[prompt, 0])
        assert found.areas[prompt] == found.masks[prompt].sum()
    assert found.candidates.shape == (2, 3, *SIZE)
    assert found.boxes.shape == (2, 4)


def test_of_several_runs_the_best_candidates_count() -> None:
    facts = manifest({"output": {"candidates": 2, "low_res_size": [16, 16]}})
    runs = [outputs(facts, seed=seed) for seed in range(3)]
    found = _decoding.prediction(facts, runs, frame_of(facts, SIZE))
    scores = np.concatenate([run["scores"] for run in runs], axis=1)
    logits = np.concatenate([run["low_res_logits"] for run in runs], axis=1)
    np.testing.assert_array_equal(found.candidate_scores, -np.sort(-scores, axis=1)[:, :2])
    np.testing.assert_array_equal(found.low_res_logits, logits[np.arange(2), scores.argmax(1)])
    assert found.candidates.shape == (2, 2, *SIZE)


def test_without_scores_candidates_keep_their_order() -> None:
    facts = manifest({"output": {"candidates": 3, "low_res_size": [16, 16], "scores": False}})
    given = outputs(facts)
    found = _decoding.prediction(facts, [given], frame_of(facts, SIZE))
    np.testing.assert_array_equal(found.low_res_logits, given["low_res_logits"][:, 0])
    assert np.isnan(found.candidate_scores).all()
    assert found.candidate_scores.shape == (2, 3)


def test_a_graph_that_orders_its_candidates_is_believed() -> None:
    facts = manifest({"output": {"candidates": 3, "low_res_size": [16, 16], "order": "graph"}})
    given = outputs(facts)
    assert (given["scores"].argmax(1) > 0).any()
    found = _decoding.prediction(facts, [given], frame_of(facts, SIZE))
    np.testing.assert_array_equal(found.low_res_logits, given["low_res_logits"][:, 0])
    np.testing.assert_array_equal(found.candidate_scores, given["scores"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"candidates": 3, "scores": False},
        {"activation": "sigmoid", "threshold": 0.5, "inclusive": True},
        {"threshold": -4.0},
        {"upsample": "via_input"},
    ],
)
def test_a_blank_prediction_finds_nothing(changes: dict[str, Any]) -> None:
    facts = manifest({"output": {"low_res_size": [16, 16], **changes}})
    blank = _decoding.blank(facts, frame_of(facts, SIZE))
    assert not blank.candidates.any()
    assert blank.areas.tolist() == [0]
    assert blank.boxes.tolist() == [[-1] * 4]
    assert blank.masks.shape == (1, *SIZE)
    assert np.isnan(blank.scores[0]) == (not facts.output.scores)
