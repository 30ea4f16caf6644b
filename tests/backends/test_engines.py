"""What only the real engines can get wrong: broken files, their own exceptions, threads, precision."""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engines import open_file, run_python, skip_without
from tiny_graphs import PRODUCT, SUM, rows

from runtime._kernel_arguments import native_kernels
from runtime.backends import Backend, BackendOptions
from runtime.errors import BackendError, BackendUnavailable, InferenceError

X86 = platform.machine().lower() in {"x86_64", "amd64"}
LIMITS = ("AVX512_CORE_BF16", "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2_VNNI", "AVX2")
"""Instruction sets without AMX that oneDNN can be limited to."""


@pytest.mark.parametrize("content", [b"", b"not a graph", None], ids=["empty", "noise", "truncated"])
def test_a_damaged_graph_is_named(engine: str, tmp_path: Path, content: bytes | None) -> None:
    path = PRODUCT.save(tmp_path / "encoder.onnx")
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(InferenceError, match=r"encoder\.onnx: .* cannot .* it") as caught:
        open_file(engine, path, BackendOptions())
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)


def test_a_missing_graph_is_named(engine: str, tmp_path: Path) -> None:
    with pytest.raises(InferenceError, match=r"nowhere\.onnx: .* cannot .* it"):
        open_file(engine, tmp_path / "nowhere.onnx", BackendOptions())


def test_a_path_with_spaces_and_umlauts_works(engine: str, tmp_path: Path) -> None:
    folder = tmp_path / "größe µ 模型"
    folder.mkdir()
    x = rows(0, 2)
    options = BackendOptions(cache_directory=folder / "ca che")
    outputs = open_file(engine, PRODUCT.save(folder / "en coder.onnx"), options).run({"x": x})
    np.testing.assert_allclose(outputs["y"], PRODUCT.function(x)["y"], rtol=0, atol=1e-5)


def _raising(error: Exception) -> Callable[..., Any]:
    def function(*_args: Any, **_keywords: Any) -> Any:
        raise error

    return function


class Broken:
    """Stands for a session or a compiled graph whose every method fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _raising(self._error)


def test_every_exception_of_onnxruntime_has_a_counterpart(tmp_path: Path) -> None:
    skip_without("onnxruntime")
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    backend: Any = open_file("onnxruntime", SUM.save(tmp_path / "sum.onnx"), BackendOptions())
    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(own) > 5
    for kind in [*own, RuntimeError, ValueError, MemoryError]:
        backend._session = Broken(kind("the reason"))
        with pytest.raises(InferenceError, match=r"sum\.onnx: ONNX Runtime failed to run it \(the reason\)"):
            backend.run({"a": rows(0, 1, 3), "b": rows(0, 1, 3)})


def test_every_exception_of_openvino_has_a_counterpart(tmp_path: Path) -> None:
    skip_without("openvino")
    backend: Any = open_file("openvino", SUM.save(tmp_path / "sum.onnx"), BackendOptions())
    from openvino import exceptions

    own = [value for value in vars(exceptions).values() if isinstance(value, type) and issubclass(value, Exception)]
    for kind in [*own, RuntimeError, ValueError, MemoryError]:
        backend._copies = (Broken(kind("Exception from src/a.cpp:1:\nthe reason\n\n")),)
        with pytest.raises(InferenceError, match=r"sum\.onnx: OpenVINO failed to run it \(the reason\)"):
            backend.run({"a": rows(0, 1, 3), "b": rows(0, 1, 3)})


def test_a_request_that_outlives_the_backend_is_not_kept(tmp_path: Path) -> None:
    skip_without("openvino")
    backend: Any = open_file("openvino", SUM.save(tmp_path / "sum.onnx"), BackendOptions())

    class Closing:
        def set_input_tensor(self, _index: int, _tensor: Any) -> None:
            pass

        def start_async(self, *_args: Any, **_keywords: Any) -> None:
            backend.close()

        def wait(self) -> None:
            pass

        def get_output_tensor(self, _index: int) -> SimpleNamespace:
            return SimpleNamespace(data=7)

    backend._copies = (SimpleNamespace(create_infer_request=Closing),)
    assert backend.run({"a": rows(0, 1, 3), "b": rows(0, 1, 3)}) == {"sum": 7}
    assert not backend._idle


def test_outputs_stay_as_they_are_whatever_sizes_come_next_and_when_the_graph_is_gone(
    engine: str, tmp_path: Path
) -> None:
    backend = open_file(engine, SUM.save(tmp_path / "sum.onnx"), BackendOptions())
    sizes = (2, 5, 1, 5, 2)
    found = [
        backend.run({"a": rows(number, size, 3), "b": rows(0, size, 3)})["sum"] for number, size in enumerate(sizes)
    ]
    backend.close()
    for number, (size, total) in enumerate(zip(sizes, found, strict=True)):
        np.testing.assert_array_equal(total, rows(number, size, 3) + rows(0, size, 3))
        total += 1  # the caller's own: none of the others changes


def test_an_engine_that_is_not_installed_says_how_to_get_it(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(BackendUnavailable, match=rf"backend {engine} does not load .*'pip install {engine}'") as caught:
        open_file(engine, tmp_path / "any.onnx", BackendOptions())
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_engine_is_told_the_number_of_threads(engine: str, tmp_path: Path, threads: int) -> None:
    backend: Any = open_file(engine, SUM.save(tmp_path / "sum.onnx"), BackendOptions(threads=threads))
    if engine == "openvino":
        told = backend._copies[0].get_property("INFERENCE_NUM_THREADS")
        assert backend._copies[0].get_property("NUM_STREAMS") == 1
    else:
        told = backend._session.get_session_options().intra_op_num_threads
        assert backend._session.get_session_options().inter_op_num_threads == 1
    # OpenVINO uses no more threads than there are processors
    assert backend.threads == told
    assert told == threads or (engine == "openvino" and 1 <= told < threads)


CORES_IN_USE = """
import sys, time
from pathlib import Path
from engines import open_file
from runtime.backends import BackendOptions
from tiny_graphs import PRODUCT, rows

engine, folder = sys.argv[1], Path(sys.argv[2])
backend = open_file(engine, PRODUCT.save(folder / "a.onnx"), BackendOptions(threads=1))
x = rows(0, 20_000)
backend.run({"x": x})
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(20):
    backend.run({"x": x})
print((time.process_time() - cpu) / (time.perf_counter() - wall))
"""


def test_one_thread_keeps_one_core_busy(engine: str, tmp_path: Path) -> None:
    assert float(run_python(CORES_IN_USE, engine, tmp_path)) < 1.2


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 10**6])
def test_a_senseless_number_of_threads_is_refused(threads: Any) -> None:
    with pytest.raises(BackendError, match=r"threads .*; wanted"):
        BackendOptions(threads=threads)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(BackendError, match="precision 'auto'; wanted one of fp32, bf16, fp16, int8"):
        BackendOptions(precision="auto")


def test_fp32_is_float32_even_where_the_engine_would_rather_use_less(engine: str, tmp_path: Path) -> None:
    x = rows(0, 64)
    y = open_file(engine, PRODUCT.save(tmp_path / "a.onnx"), BackendOptions()).run({"x": x})["y"]
    exact = np.tanh(x.astype(np.float64) @ PRODUCT.constants["weights"].astype(np.float64))
    assert np.abs(y - exact).max() < 5e-6  # bfloat16 errs by some 5e-3 here, float16 by 5e-4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_onnxruntime_refuses_half_precision_and_says_what_has_it(tmp_path: Path, precision: str) -> None:
    skip_without("onnxruntime")
    with pytest.raises(BackendError, match=rf"fp32 and int8 on CPUs, not {precision}; choose backend 'openvino'"):
        open_file("onnxruntime", SUM.save(tmp_path / "sum.onnx"), BackendOptions(precision=precision))


def test_int8_graphs_are_reported_as_such(engine: str, tmp_path: Path) -> None:
    backend = open_file(engine, SUM.save(tmp_path / "sum.onnx"), BackendOptions(precision="int8"))
    assert backend.precision == "int8"


def _openvino(path: Path, precision: str) -> Backend:
    """The graph in a precision, or a skip where this CPU cannot compile it in that."""
    skip_without("openvino")
    try:
        return open_file("openvino", PRODUCT.save(path), BackendOptions(precision=precision))
    except BackendError as error:
        pytest.skip(f"this CPU does not run {precision}: {error}")


@pytest.mark.parametrize(("precision", "least", "most"), [("bf16", 5e-4, 5e-2), ("fp16", 5e-5, 5e-3)])
def test_half_precision_is_really_used_and_reported(tmp_path: Path, precision: str, least: float, most: float) -> None:
    backend = _openvino(tmp_path / "a.onnx", precision)
    x = rows(0, 64)
    y = backend.run({"x": x})["y"]
    error = np.abs(y - PRODUCT.function(x)["y"]).max()
    assert backend.precision == precision
    assert y.dtype == np.float32
    assert least < error < most


PROBE = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
from pathlib import Path
from bundle_factory import write_bundle
from runtime.backends import resolve_precision
from runtime.backends.ov import has_native_bf16
from runtime.bundle import open_bundle
bundle = open_bundle(write_bundle(Path(sys.argv[1])))
print(has_native_bf16(), resolve_precision("auto", "openvino", bundle), resolve_precision("bf16", "openvino", bundle))
"""


@pytest.mark.skipif(not X86, reason="oneDNN's limits are names of x86 instruction sets")
@pytest.mark.parametrize(
    ("variable", "limit"),
    [("DNNL_MAX_CPU_ISA", "AVX512_CORE_VNNI"), *(("ONEDNN_MAX_CPU_ISA", limit) for limit in LIMITS)],
)
def test_bf16_is_never_chosen_where_a_limit_takes_its_unit_away(tmp_path: Path, variable: str, limit: str) -> None:
    skip_without("openvino")
    if limit == "AVX512_CORE_BF16" and native_kernels().bf16_unit() == "avx512_bf16":
        pytest.skip("this limit leaves this CPU its unit for bfloat16, AMD's AVX512-BF16")
    output = run_python(PROBE, tmp_path, environment={"ONEDNN_MAX_CPU_ISA": "", variable: limit})
    assert "False fp32 bf16" in output
    assert "WARNING bf16 has no fast unit on this CPU" in output


def test_bf16_is_chosen_where_there_is_a_unit_for_it(tmp_path: Path) -> None:
    skip_without("openvino")
    facts = Path("/proc/cpuinfo")
    told = facts.read_text() if facts.is_file() else ""
    if "amx_bf16" not in told and not ("avx512_bf16" in told and "AuthenticAMD" in told):
        pytest.skip("this CPU has neither AMX nor AMD's AVX512-BF16, or does not tell")
    output = run_python(PROBE, tmp_path, environment={"ONEDNN_MAX_CPU_ISA": "", "DNNL_MAX_CPU_ISA": ""})
    assert output.split() == ["True", "bf16", "bf16"]


def test_the_probe_gives_the_same_answer_from_its_cache(tmp_path: Path) -> None:
    skip_without("openvino")
    from runtime.backends.ov import has_native_bf16

    answers = {has_native_bf16(), has_native_bf16(tmp_path / "probe"), has_native_bf16(tmp_path / "probe")}
    assert len(answers) == 1


@pytest.mark.skipif(not X86, reason="oneDNN's limits are names of x86 instruction sets")
def test_a_probe_cached_without_limits_does_not_outlive_them(tmp_path: Path) -> None:
    skip_without("openvino")
    code = "import sys\nfrom pathlib import Path\nfrom runtime.backends.ov import has_native_bf16\n"
    code += "print(has_native_bf16(Path(sys.argv[1])))"
    free = {"ONEDNN_MAX_CPU_ISA": "", "DNNL_MAX_CPU_ISA": ""}
    limited = {**free, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
    first = run_python(code, tmp_path, environment=free)
    assert run_python(code, tmp_path, environment=limited).strip() == "False"
    assert run_python(code, tmp_path, environment=free) == first


def test_calls_at_once_have_a_graph_of_one_stream_each(tmp_path: Path) -> None:
    """Streams of one graph in 8 bits disturb each other's weights when they are loaded from OpenVINO's cache."""
    skip_without("openvino")
    path, options = SUM.save(tmp_path / "sum.onnx"), BackendOptions(threads=2, streams=2)
    backend: Any = open_file("openvino", path, options)
    asked: list[int] = []

    class Counting:
        def __init__(self, number: int, copy: Any) -> None:
            self._number, self._copy = number, copy

        def create_infer_request(self) -> Any:
            asked.append(self._number)
            return self._copy.create_infer_request()

    first, second = backend._copies
    copies = (first, second.result())
    assert [copy.get_property("NUM_STREAMS") for copy in copies] == [1, 1]
    assert backend.threads == 1
    later: Future[Any] = Future()
    later.set_result(Counting(1, copies[1]))
    backend._copies = (Counting(0, copies[0]), later)
    both = threading.Barrier(2)
    original = backend._tensor

    def meeting(array: Any) -> Any:
        both.wait(timeout=20)  # neither call ends before the other has its request
        return original(array)

    backend._tensor = meeting
    feeds = {"a": rows(1, 4, 3), "b": rows(0, 4, 3)}
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(backend.run, [feeds, feeds]))
    assert sorted(asked) == [0, 1]
    for one in found:
        np.testing.assert_array_equal(one["sum"], feeds["a"] + feeds["b"])
    backend.close()


def test_a_copy_that_does_not_load_is_told_to_the_call_that_needs_it(tmp_path: Path) -> None:
    skip_without("openvino")
    backend: Any = open_file("openvino", SUM.save(tmp_path / "sum.onnx"), BackendOptions(threads=2, streams=2))
    feeds = {"a": rows(1, 4, 3), "b": rows(0, 4, 3)}
    backend._copies[1].result()
    broken: Future[Any] = Future()
    broken.set_exception(RuntimeError("Exception from src/a.cpp:1:\nthe reason\n\n"))
    backend._copies = (backend._copies[0], broken)
    np.testing.assert_array_equal(backend.run(feeds)["sum"], feeds["a"] + feeds["b"])
    backend._idle.clear()
    with pytest.raises(InferenceError, match=r"sum\.onnx: OpenVINO failed to run it \(the reason\)"):
        backend.run(feeds)
    backend.close()
