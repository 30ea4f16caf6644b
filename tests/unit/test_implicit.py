"""Decoders that are functions of position: which size is asked for, and the parts that make a map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import manifest

from runtime import _implicit
from runtime._implicit import MAX_POINTS, evaluated, size_to_evaluate
from runtime.errors import InferenceError, PromptError
from runtime.transforms import frame_of

IMPLICIT = {
    "input": {"resize": "stretch", "pad": "none"},
    "output": {"implicit": True},
}


def size_of(output_size: Any = None, image: tuple[int, int] = (50, 70), implicit: bool = True) -> Any:
    facts = manifest(IMPLICIT if implicit else {})
    return size_to_evaluate(facts, frame_of(facts, image), output_size)


def test_the_size_is_the_images_or_the_one_that_is_asked_for() -> None:
    assert size_of() == (50, 70)
    assert size_of((384, 1)) == (384, 1)
    assert size_of(np.array([3, 4])[:].tolist()) == (3, 4)
    assert size_of((4096, 4096)) == (4096, 4096)
    assert size_of(implicit=False) is None


@pytest.mark.parametrize(
    ("output_size", "text"),
    [
        ((4096, 4097), rf"output_size 4096 x 4097: wanted at least 1 x 1 and at most {MAX_POINTS} points"),
        ((10**9, 10**9), r"output_size 1000000000 x 1000000000: wanted"),
        ((0, 5), r"output_size 0 x 5: wanted at least 1 x 1"),
        ((5, -1), r"output_size 5 x -1: wanted at least 1 x 1"),
        ((5,), r"output_size \(5,\): wanted two whole numbers, rows and columns"),
        ((5, 6, 7), r"output_size \(5, 6, 7\): wanted two whole numbers"),
        ((5.5, 6), r"output_size \(5.5, 6\): wanted two whole numbers"),
        (384, r"output_size 384: wanted two whole numbers"),
        ("384", r"output_size '384': wanted two whole numbers"),
        (0, r"output_size 0: wanted two whole numbers"),
        ((), r"output_size \(\): wanted two whole numbers"),
    ],
)
def test_an_absurd_size_is_refused(output_size: Any, text: str) -> None:
    with pytest.raises(PromptError, match=text):
        size_of(output_size)


def test_an_image_that_is_too_large_to_evaluate_is_refused() -> None:
    with pytest.raises(PromptError, match=r"image of 5000 x 5000: wanted .* give a smaller output_size, or a smaller"):
        size_of(image=(5000, 5000))
    assert size_of((500, 500), image=(5000, 5000)) == (500, 500)


def test_a_bundle_with_a_size_of_its_own_refuses_another() -> None:
    with pytest.raises(PromptError, match=r"logits of bundle 'published' are 256 x 256 always; leave it out"):
        size_of((10, 10), implicit=False)


class Field:
    """A graph whose logits tell prompt, candidate, row and column, and the size; it keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(inputs)
        assert inputs["base"] == 7
        rows, columns, box = inputs["rows"], inputs["columns"], inputs["boxes"][:, 0]
        assert {inputs[name].dtype for name in ("rows", "columns", "output_size")} == {np.dtype(np.int64)}
        low = box[:, None, None, None] + rows[:, None] * 1000.0 + columns
        return {"low_res_logits": np.concatenate([low, -low], axis=1).astype(np.float32), "scores": box[:, None]}


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), at_once=st.integers(1, 300), count=st.integers(1, 3))
def test_parts_make_the_whole_map_and_none_is_larger_than_allowed(
    rows: int, columns: int, at_once: int, count: int
) -> None:
    field, boxes = Field(), np.arange(count, dtype=np.float32)[:, None].repeat(4, axis=1) * 1e5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_implicit, "_POINTS_AT_ONCE", at_once)
        outputs = evaluated(field, {"base": np.array(7)}, {"boxes": boxes}, (rows, columns))
    wanted = boxes[:, :1, None] + np.arange(rows)[:, None] * 1000.0 + np.arange(columns)
    np.testing.assert_array_equal(outputs["low_res_logits"], np.stack([wanted, -wanted], axis=1).astype(np.float32))
    np.testing.assert_array_equal(outputs["scores"], boxes[:, :1])
    assert all(len(call["rows"]) * len(call["columns"]) <= at_once for call in field.calls)
    assert all(call["output_size"].tolist() == [rows, columns] for call in field.calls)


def test_a_graph_that_gives_another_part_than_was_asked_for_is_an_error() -> None:
    def field(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"low_res_logits": np.zeros((1, 1, 3, len(inputs["columns"])), np.float32)}

    with pytest.raises(InferenceError, match=r"low_res_logits: found \(1, 1, 3, 5\), wanted \(1, C, 4, 5\)"):
        evaluated(field, {}, {}, (4, 5))
    with pytest.raises(InferenceError, match=r"low_res_logits: found no such output"):
        evaluated(lambda _: {}, {}, {}, (4, 5))
