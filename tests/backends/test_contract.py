"""What every backend promises; one suite for the fake one, OpenVINO and ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_graphs import ALIASES, DECODER_LIKE, PRODUCT, SUM, Graph, rows

from runtime.backends import Backend, TensorSpec
from runtime.errors import InferenceError, SessionStateError

Opener = Callable[..., Backend]
DECODER_INPUTS: dict[str, NDArray[Any]] = {
    "image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    "boxes": rows(1, 5, 4),
    "modality": np.array([7], np.int64),
}


@pytest.mark.parametrize("graph", [PRODUCT, DECODER_LIKE, ALIASES, SUM], ids=["product", "decoder", "aliases", "sum"])
def test_the_signature_is_reported_in_the_graphs_order(opened: Opener, graph: Graph) -> None:
    assert opened(graph).io_spec == graph.io_spec


def test_specs_print_as_a_person_would_write_them() -> None:
    assert str(TensorSpec("boxes", "float32", (None, 4))) == "float32 (?, 4)"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_dynamic_axis_takes_any_size(opened: Opener, count: int) -> None:
    x = rows(count, count)
    outputs = opened(PRODUCT).run({"x": x})
    np.testing.assert_allclose(outputs["y"], PRODUCT.function(x)["y"], rtol=0, atol=1e-5)


def test_sizes_may_change_from_call_to_call(opened: Opener) -> None:
    backend = opened(PRODUCT)
    for count in (3, 1, 8, 3):
        x = rows(count, count)
        np.testing.assert_allclose(backend.run({"x": x})["y"], PRODUCT.function(x)["y"], rtol=0, atol=1e-5)


def test_several_outputs_keep_their_dtypes_and_order(opened: Opener) -> None:
    outputs = opened(DECODER_LIKE).run(DECODER_INPUTS)
    assert list(outputs) == ["scores", "brighter", "doubled"]
    for name, wanted in DECODER_LIKE.function(**DECODER_INPUTS).items():
        assert outputs[name].dtype == wanted.dtype
        np.testing.assert_allclose(outputs[name], wanted, rtol=1e-6)


def test_the_order_of_the_inputs_does_not_matter(opened: Opener) -> None:
    backend = opened(DECODER_LIKE)
    turned = dict(reversed(DECODER_INPUTS.items()))
    np.testing.assert_array_equal(backend.run(turned)["scores"], backend.run(DECODER_INPUTS)["scores"])


def test_outputs_that_are_the_same_tensor_all_come_back(opened: Opener) -> None:
    x = rows(0, 3, 4)
    outputs = opened(ALIASES).run({"x": x})
    for name, wanted in ALIASES.function(x).items():
        np.testing.assert_array_equal(outputs[name], wanted)


def test_returned_arrays_are_not_overwritten_by_later_calls(opened: Opener) -> None:
    backend = opened(PRODUCT)
    first = backend.run({"x": rows(1, 4)})["y"]
    kept = first.copy()
    for seed in range(2, 6):
        assert not np.array_equal(backend.run({"x": rows(seed, 4)})["y"], kept)
    np.testing.assert_array_equal(first, kept)


def test_returned_arrays_survive_the_backend(opened: Opener) -> None:
    backend = opened(PRODUCT)
    x = rows(1, 4)
    outputs = backend.run({"x": x})
    backend.close()
    del backend
    np.testing.assert_allclose(outputs["y"], PRODUCT.function(x)["y"], rtol=0, atol=1e-5)


def test_the_caller_may_write_into_what_was_returned(opened: Opener) -> None:
    backend = opened(ALIASES)
    x = rows(0, 3, 4)
    before = x.copy()
    outputs = backend.run({"x": x})
    for array in outputs.values():
        array[...] = np.nan
    np.testing.assert_array_equal(x, before)
    for name, wanted in ALIASES.function(before).items():
        np.testing.assert_array_equal(backend.run({"x": x})[name], wanted)


def test_returned_arrays_share_no_memory(opened: Opener) -> None:
    x = rows(0, 3, 4)
    arrays = list(opened(ALIASES).run({"x": x}).values())
    pairs = [(a, b) for index, a in enumerate(arrays) for b in [x, *arrays[:index]]]
    assert not any(np.shares_memory(a, b) for a, b in pairs)


def test_inputs_may_be_read_only_and_strided(opened: Opener) -> None:
    wide = rows(3, 8, 128)
    x = wide[::2, ::2]
    x.flags.writeable = False
    np.testing.assert_allclose(opened(PRODUCT).run({"x": x})["y"], PRODUCT.function(x)["y"], rtol=0, atol=1e-5)
    fortran = np.asfortranarray(rows(3, 8))
    np.testing.assert_allclose(
        opened(PRODUCT).run({"x": fortran})["y"], PRODUCT.function(fortran)["y"], rtol=0, atol=1e-5
    )


def test_inputs_may_change_after_the_call(opened: Opener) -> None:
    backend = opened(ALIASES)
    x = rows(0, 3, 4)
    before = x.copy()
    outputs = backend.run({"x": x})
    x[...] = 0
    np.testing.assert_array_equal(outputs["passed_through"], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"boxes": None},
            r"input 'boxes' is missing; the graph takes image uint8 \(1, 2, 3\), boxes float32 \(\?, 4\)",
        ),
        ({"extra": np.zeros(1)}, r"input 'extra' is not known; the graph takes"),
        ({"boxes": rows(1, 5, 4).astype(np.float64)}, r"input 'boxes' has dtype float64, wanted float32"),
        ({"boxes": rows(1, 5, 4).astype(">f4")}, r"input 'boxes' has dtype >f4, wanted float32"),
        ({"image": np.zeros((1, 2, 3), np.int8)}, r"input 'image' has dtype int8, wanted uint8"),
        ({"boxes": rows(1, 5, 5)}, r"input 'boxes' has shape \(5, 5\), wanted \(\?, 4\)"),
        ({"boxes": rows(1, 1, 4)[0]}, r"input 'boxes' has shape \(4,\), wanted \(\?, 4\)"),
        ({"image": np.zeros((1, 3, 2), np.uint8)}, r"input 'image' has shape \(1, 3, 2\), wanted \(1, 2, 3\)"),
        ({"boxes": rows(1, 0, 4)}, r"input 'boxes' has shape \(0, 4\), which holds no values"),
        ({"boxes": [[1.0, 2.0, 3.0, 4.0]]}, r"input 'boxes' is a list, wanted an ndarray"),
        (
            {"image": None, "boxes": rows(1, 5, 5), "extra": np.zeros(1)},
            r"input 'image' is missing; input 'extra' is not known; input 'boxes' has shape",
        ),
    ],
    ids=range(11),
)
def test_inputs_that_do_not_fit_are_all_named(opened: Opener, change: dict[str, Any], message: str) -> None:
    inputs = {name: array for name, array in {**DECODER_INPUTS, **change}.items() if array is not None}
    with pytest.raises(InferenceError, match=message):
        opened(DECODER_LIKE).run(inputs)


def test_a_failure_inside_the_engine_is_an_inference_error_and_does_no_harm(opened: Opener) -> None:
    backend = opened(SUM)
    a, b = rows(1, 2, 3), rows(2, 2, 3)
    for _ in range(2):  # at first nothing has run, then the memory holds an answer that must not be taken for this one
        with pytest.raises(InferenceError, match=r"failed") as caught:
            backend.run({"a": rows(0, 2, 3), "b": rows(0, 5, 3)})
        assert caught.value.__cause__ is not None
        np.testing.assert_array_equal(backend.run({"a": a, "b": b})["sum"], a + b)


def test_eight_threads_get_their_own_answers(opened: Opener) -> None:
    backend = opened(PRODUCT)
    start = threading.Barrier(8)

    def work(worker: int) -> float:
        start.wait()
        worst = 0.0
        for step in range(25):
            x = rows(worker * 100 + step, 1 + (worker + step) % 5)
            worst = max(worst, float(np.abs(backend.run({"x": x})["y"] - PRODUCT.function(x)["y"]).max()))
        return worst

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(work, range(8))) < 1e-5


def test_a_closed_backend_says_so(opened: Opener) -> None:
    backend = opened(PRODUCT)
    backend.run({"x": rows(0, 1)})
    backend.close()
    with pytest.raises(SessionStateError, match="the graph was closed; open a new session"):
        backend.run({"x": rows(0, 1)})
    backend.close()


def test_closing_lets_calls_under_way_end_and_stops_the_next(opened: Opener) -> None:
    backend = opened(PRODUCT)
    started = threading.Event()

    def work(worker: int) -> int:
        for done in range(100_000):
            x = rows(worker, 3)
            try:
                y = backend.run({"x": x})["y"]
            except SessionStateError:
                return done
            np.testing.assert_allclose(y, PRODUCT.function(x)["y"], rtol=0, atol=1e-5)
            started.set()
        return -1

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(work, worker) for worker in range(4)]
        assert started.wait(60)
        backend.close()
        assert all(result.result(60) >= 0 for result in results)


def test_name_precision_and_threads_are_reported(opened: Opener) -> None:
    backend = opened(PRODUCT, threads=1)
    assert backend.name in {"fake", "openvino", "onnxruntime"}
    assert backend.precision == "fp32"
    assert backend.threads == 1
