"""The compiled module itself: how it is found, what it refuses, its stub, and calls from several threads."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from every_kernel import kernel_arguments, kernel_calls

import runtime
from runtime import kernels
from runtime.errors import BackendUnavailable
from runtime.kernels import InputOptions

native: Any = pytest.importorskip("runtime._kernels")
STUB = Path(runtime.__file__).parent / "_kernels.pyi"

IMAGE = np.arange(12, dtype=np.uint8).reshape(3, 4)
LOGITS = np.zeros((1, 4, 4), np.float32)


# Finding it


class _Broken(MetaPathFinder):
    """Fails to import the compiled module, the way a broken dependency of it would."""

    def __init__(self, error: ImportError) -> None:
        self.error = error

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "runtime._kernels":
            raise self.error
        return None


def test_a_missing_module_is_reported_at_first_use_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runtime._kernels", None)
    with pytest.raises(BackendUnavailable, match=r"runtime\._kernels.* is missing") as caught:
        kernels.mask_box(np.ones((2, 2), bool))
    assert "pip install --force-reinstall lite-infer" in str(caught.value)
    assert "pip install ." in str(caught.value)
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("error", [ModuleNotFoundError("no lib", name="lib"), ImportError("undefined symbol")])
def test_other_import_errors_are_not_hidden(error: ImportError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "runtime._kernels")
    monkeypatch.setattr(sys, "meta_path", [_Broken(error), *sys.meta_path])
    with pytest.raises(ImportError) as caught:
        kernels.mask_box(np.ones((2, 2), bool))
    assert caught.value is error


# What it refuses: nothing is converted behind the caller's back


@pytest.mark.parametrize(
    "call",
    [
        lambda: native.window_to_uint8(IMAGE.astype(np.float16), 0.0, 1.0, False),
        lambda: native.window_to_uint8(IMAGE[:, ::2], 0.0, 1.0, False),
        lambda: native.window_to_uint8(IMAGE.astype(">i2"), 0.0, 1.0, False),
        lambda: native.resize_uint8(IMAGE.T, (2, 2), "area"),
        lambda: native.resize_uint8(IMAGE.astype(np.int8), (2, 2), "area"),
        lambda: native.resize_uint8(IMAGE.tolist(), (2, 2), "area"),
        lambda: native.resize_uint8(IMAGE, (2, 2, 2), "area"),
        lambda: native.encoder_input(IMAGE.T, None, (2, 2), (2, 2), "area", ("scale", [], [], 3)),
        lambda: native.logits_to_masks(LOGITS.astype(np.float64), (4, 4), (4, 4), 0.0, False),
        lambda: native.logits_to_masks(LOGITS[:, ::-1], (4, 4), (4, 4), 0.0, False),
        lambda: native.resize_logits(LOGITS[:, :, ::2], (4, 4)),
        lambda: native.mask_box(IMAGE),
        lambda: native.mask_box(np.ones((4, 4), bool).T[::2]),
    ],
)
def test_another_dtype_or_layout_is_a_type_error(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call()


def test_memory_that_is_not_aligned_is_refused() -> None:
    raw = np.zeros(4 * 16 + 8, np.uint8)
    start = 1 if raw.ctypes.data % 4 == 0 else 0
    logits = raw[start : start + 4 * 16].view(np.float32).reshape(1, 4, 4)
    with pytest.raises(ValueError, match="logits: memory is not aligned"):
        native.resize_logits(logits, (4, 4))


def test_intensities_without_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match="window: None, wanted"):
        native.encoder_input(IMAGE.astype(np.int16), None, (2, 2), (2, 2), "area", ("scale", [], [], 3))


def test_inputs_are_left_as_they_are() -> None:
    image, logits, mask = IMAGE.astype(np.int16), LOGITS + 1, np.eye(4, dtype=bool)
    kept = image.copy(), logits.copy(), mask.copy()
    kernels.window_to_uint8(image, 1.0, 5.0)
    kernels.encoder_input(image, InputOptions((2, 2), (4, 4), window=(1.0, 5.0)))
    kernels.logits_to_masks(logits, crop=(3, 3), size=(9, 9))
    kernels.mask_box(mask)
    for array, copy in zip((image, logits, mask), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


# The stub


def _stubs() -> dict[str, list[str]]:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def test_the_stub_names_every_function_and_no_other() -> None:
    assert set(_stubs()) == {name for name in dir(native) if not name.startswith("_")}


@pytest.mark.parametrize("name", sorted(_stubs()))
def test_the_stub_names_the_arguments_in_order(name: str) -> None:
    signatures = re.findall(rf"{name}\((.*)\) -> ", getattr(native, name).__doc__)
    assert signatures
    for signature in signatures:
        assert re.findall(r"(?:^|, )(\w+): ", signature) == _stubs()[name]


# Threads


def test_eight_threads_that_call_every_kernel_at_once_get_the_same_results() -> None:
    calls = kernel_calls(kernel_arguments(256))
    together = Barrier(8, timeout=300)

    def work() -> dict[str, Any]:
        results: dict[str, Any] = {}
        for name, call in calls.items():
            together.wait()  # so that all are in the same kernel
            results[name] = [call() for _ in range(10)][-1]
        return results

    with ThreadPoolExecutor(8) as pool:
        answers = [future.result() for future in [pool.submit(work) for _ in range(8)]]
    for name, call in calls.items():
        alone = call()
        for answer in answers:
            np.testing.assert_equal(answer[name], alone, err_msg=name)


def test_the_calls_that_threads_make_leave_out_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "a_new_kernel", lambda: None, raising=False)
    with pytest.raises(AssertionError, match="a_new_kernel"):
        kernel_calls(kernel_arguments(6))
