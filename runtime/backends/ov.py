"""OpenVINO behind the `Backend` protocol; imported here and, without what phones home, by `_ov_import`.

Knows OpenVINO's properties, names and traps. Must not know bundles or what a tensor means. Six facts shape it,
each found by measurement and, but for the last, which shows only now and then, held by a test:

* OpenVINO lists BF16 among the capabilities of every CPU with AVX-512, where it is emulated (some 50 times slower
  than float32), and goes on listing it when ``ONEDNN_MAX_CPU_ISA`` takes the instructions away. Only the kernel that
  it picks for a small product tells the truth.
* Its cache of compiled graphs goes by the path of a graph, not by its content, and serves a graph compiled in float16
  to who asks for float32. So each graph has a cache directory of its own, named after its digest by whoever opens it,
  and each precision one below that. It reads damaged weights from there without a word, so their sha256 is kept.
* Each of its Cores puts a signal stack of its own in place and, where two go in the order in which they came, leaves
  the memory of one that is gone: the next signal kills the process. One Core serves the whole process and stays.
* A synchronous ``infer`` of 2026.4 loses the errors of a graph with free sizes and returns what the memory held, such
  as the outputs of the last run; ``start_async`` and ``wait`` report them in every version.
* It compiles code of its own ("snippets") for every run of element-wise operations whenever a graph is loaded, from its
  cache too. In graphs of fixed sizes that is half the time of loading, and what it saves is a fifteenth of a small
  graph's run, and nothing of a large one's: not done, but for the 8-bit graphs that `_ov_snippets` finds to be wrong
  without (EfficientViT's encoders, as DAFT's).
* A graph with 8-bit depthwise convolutions that 2026.4 loads from its cache for two streams is wrong as often as not:
  the streams' copies are made side by side and disturb each other's weights. So calls that run at once have graphs of
  one stream each.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime._kernel_arguments import native_kernels
from runtime.backends._ov_import import foreign, import_openvino
from runtime.backends._ov_snippets import needs_snippets
from runtime.backends.base import IoSpec, TensorSpec, check_inputs
from runtime.backends.graph_cache import drop_damaged, record_digests
from runtime.errors import BackendError, BackendUnavailable, InferenceError, SessionStateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from runtime.backends.base import BackendOptions

__all__ = ["OpenVinoBackend", "capabilities", "has_native_bf16", "version"]

_log = logging.getLogger(__name__)

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32", "int8-bf16": "bf16"}
_REPORTED = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
_PROBE_SIDE = 64
_PLAIN, _WITH_SNIPPETS = "plain", "with-snippets"
_CACHE_FAILED = "filesystem error"
"""In what OpenVINO says where the file that it just wrote is gone: another process took it for damaged."""

_NO_SNIPPETS = {"SNIPPETS_MODE": "DISABLE"}  # known to the CPU plugin, not documented: versions may refuse it

_cores: dict[int, Any] = {}


def version() -> str:
    """Version of OpenVINO; `BackendUnavailable` where it does not load."""
    return str(import_openvino().__version__)


def capabilities() -> frozenset[str]:
    """Return what OpenVINO says the CPU can do, as in ``FP32``, ``BF16``, ``FP16``, ``INT8``.

    Returns
    -------
    names : frozenset of str
        ``OPTIMIZATION_CAPABILITIES`` of the CPU device. BF16 among them does not mean that it is fast.

    Raises
    ------
    BackendUnavailable
        If OpenVINO is not installed or does not load.
    """
    return _capabilities(_core())


def _core() -> Any:
    """OpenVINO's entrance: one for the whole process, never given up; a forked process makes its own."""
    openvino = import_openvino()
    process = os.getpid()
    if process not in _cores:
        _cores.setdefault(process, openvino.Core())  # a thread that comes second drops its own at once
    return _cores[process]


def _capabilities(core: Any) -> frozenset[str]:
    try:
        return frozenset(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    except foreign() as error:
        msg = f"OpenVINO cannot use this CPU ({_reason(error)}); choose backend 'onnxruntime'"
        raise BackendUnavailable(msg) from error


def has_native_bf16(cache_directory: Path | None = None) -> bool:
    """Tell whether bfloat16 is faster than float32 here: whether OpenVINO runs it on a unit that is made for it.

    That is the matrix unit (AMX), or AVX512-BF16 of AMD; Intel's alone was slower than float32 (measured with AMX
    masked out). Compiles a matrix product in bfloat16 and looks which kernel was chosen, so that every limit counts:
    the CPU, the operating system and ``ONEDNN_MAX_CPU_ISA``. A CPU without such a unit is not asked.

    Parameters
    ----------
    cache_directory : Path, optional
        Keeps the compiled product, which takes the question from about 30 to 10 ms.

    Returns
    -------
    native : bool
        False as well where the product does not compile in bfloat16.

    Raises
    ------
    BackendUnavailable
        If OpenVINO is not installed or does not load.
    """
    unit = native_kernels().bf16_unit()
    if not unit:  # saves the question on most computers
        return False
    openvino = import_openvino()
    core = _core()
    if "BF16" not in _capabilities(core):
        return False
    from openvino import opset13

    properties = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    row = opset13.parameter([1, _PROBE_SIDE], np.float32, name="row")
    weights = opset13.constant(np.full((_PROBE_SIDE, _PROBE_SIDE), 0.5, np.float32))
    model = openvino.Model([opset13.matmul(row, weights, transpose_a=False, transpose_b=True)], [row], "bf16_probe")
    try:
        compiled = _compiled(core, model, properties, _made(cache_directory))
        kernels = [
            operation.get_rt_info()["primitiveType"].astype(str)
            for operation in compiled.get_runtime_model().get_ordered_ops()
        ]
    except foreign() as error:
        _log.debug("bf16 does not compile here: %s", _reason(error))
        return False
    return any(unit in kernel and "bf16" in kernel for kernel in kernels)


def _reason(error: BaseException) -> str:
    """Last line of OpenVINO's message; those before it are places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _made(directory: Path | None) -> Path | None:
    """The cache directory, where it can be had; without it graphs are compiled at each start."""
    if directory is None:
        return None
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("%s: compiled graphs cannot be kept (%s); the next start is slower", directory, error.strerror)
        return None
    return directory


def _compiled(core: Any, model: Any, properties: dict[str, Any], directory: Path | None) -> Any:
    """Compile, or take from the cache directory what was compiled and is not damaged."""
    if directory is not None:
        try:
            if drop_damaged(directory):
                _log.warning("%s: a compiled graph was damaged; it is compiled again", directory)
        except OSError as error:
            _log.warning("%s: compiled graphs cannot be used (%s); starts are slower", directory, error.strerror)
            directory = None
    if directory is None:
        return _compile_graph(core, model, properties)
    try:
        compiled = _compile_graph(core, model, {**properties, "CACHE_DIR": str(directory)})
    except RuntimeError as error:
        if _CACHE_FAILED not in str(error):
            raise
        _log.debug("%s: what was compiled cannot be kept (%s)", directory, _reason(error))
        return _compile_graph(core, model, properties)
    if not compiled.get_property("LOADED_FROM_CACHE"):
        try:
            record_digests(directory)
        except OSError as error:
            _log.warning("%s: compiled graphs cannot be kept (%s); the next start is slower", directory, error.strerror)
    return compiled


def _compile_graph(core: Any, model: Any, properties: dict[str, Any]) -> Any:
    """Compile; with snippets where this version does not know how to do without."""
    try:
        return core.compile_model(model, "CPU", properties)
    except RuntimeError as error:
        if not any(name in properties and name in str(error) for name in _NO_SNIPPETS):
            raise
        _log.debug("snippets stay: %s", _reason(error))
        return core.compile_model(model, "CPU", {k: v for k, v in properties.items() if k not in _NO_SNIPPETS})


class OpenVinoBackend:
    """One graph compiled by OpenVINO for the CPU.

    Parameters
    ----------
    path : Path
        An ONNX file, or the ``.xml`` of an OpenVINO IR.
    options : BackendOptions
        With ``int8``, whatever is not quantised computes in float32, with ``int8-bf16`` in bfloat16. The cache
        directory must serve this graph alone.

    Raises
    ------
    BackendUnavailable
        If OpenVINO is not installed or does not load.
    BackendError
        If the CPU has no support for the precision.
    InferenceError
        If the graph does not compile.

    Notes
    -----
    ``run`` takes an idle inference request, or makes one of the copy whose turn it is, so that threads do not disturb
    each other. OpenVINO's threads are not pinned: a desktop has other work for its cores.
    """

    name = "openvino"
    cache_directory: Path | None
    """Where the compiled graph is kept; None where it is not."""

    def __init__(self, path: Path, options: BackendOptions) -> None:
        openvino = import_openvino()
        self._graph = path.name
        self._foreign = foreign()
        self.cache_directory = None
        try:
            self._form = _form(path, options, openvino.__version__)
            self.cache_directory = _made(_own_directory(options, openvino.__version__, self._form))
            compiled = self._compile(path, options)
            used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
            self.io_spec = IoSpec(
                inputs=tuple(_tensor_spec(port) for port in compiled.inputs),
                outputs=tuple(_tensor_spec(port) for port in compiled.outputs),
            )
        except self._foreign as error:
            msg = (
                f"{path}: OpenVINO cannot compile it in {options.precision} ({_reason(error)}); "
                "try precision 'fp32', or backend 'onnxruntime'"
            )
            raise InferenceError(msg) from error
        if used != _HINTS[options.precision]:
            msg = (
                f"{path}: OpenVINO would run it in {_REPORTED.get(used, used)} on this CPU; wanted "
                f"{options.precision}; choose 'fp32' or 'auto'"
            )
            raise BackendError(msg)
        self.precision = options.precision
        self._copies: tuple[Any, ...] = (compiled, *self._later(path, options))
        self._turn = count()
        self._shared = openvino.Tensor
        self._idle: deque[Any] = deque()

    def _compile(self, path: Path, options: BackendOptions) -> Any:
        return _compiled(_core(), str(path), _properties(options, self._form), self.cache_directory)

    def _later(self, path: Path, options: BackendOptions) -> list[Future[Any]]:
        """The other copies, which another thread loads one by one: the first call needs none of them."""
        if options.streams == 1:
            return []
        loader = ThreadPoolExecutor(1, "lite-infer copies")
        copies = [loader.submit(self._compile, path, options) for _ in range(options.streams - 1)]
        loader.shutdown(wait=False)
        return copies

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once; see `Backend.run`."""
        copies = self._copies
        if not copies:
            msg = f"{self._graph}: the graph was closed; open a new session"
            raise SessionStateError(msg)
        check_inputs(self._graph, inputs, self.io_spec.inputs)
        try:
            request = self._idle.pop()
        except IndexError:
            request = None
        try:
            request = request or self._settled(copies).create_infer_request()
            # Inputs are read in place; outputs are copied, since the request writes the next run's into the same memory
            shared = [self._tensor(inputs[spec.name]) for spec in self.io_spec.inputs]
            for index, tensor in enumerate(shared):
                request.set_input_tensor(index, tensor)
            request.start_async()
            request.wait()
            arrays = [np.array(request.get_output_tensor(index).data) for index in range(len(self.io_spec.outputs))]
        except self._foreign as error:
            msg = f"{self._graph}: OpenVINO failed to run it ({_reason(error)})"
            raise InferenceError(msg) from error
        if self._copies:  # a request that failed, or outlived close(), is dropped
            self._idle.append(request)
        return {spec.name: array for spec, array in zip(self.io_spec.outputs, arrays, strict=True)}

    def _settled(self, copies: tuple[Any, ...]) -> Any:
        """The copy whose turn it is, once it is loaded."""
        copy = copies[next(self._turn) % len(copies)]
        return copy.result() if isinstance(copy, Future) else copy

    def _tensor(self, array: NDArray[Any]) -> Any:
        """The array's memory as OpenVINO takes it: in C order and, though it is only read, not locked against writing.

        OpenVINO's own conversion of a dictionary of arrays takes half a millisecond for ten of them.
        """
        settled = array.flags.c_contiguous and array.flags.writeable
        return self._shared(array if settled else np.array(array, order="C"), shared_memory=True)

    def close(self) -> None:
        """Free the graph; see `Backend.close`."""
        self._copies = ()
        self._idle.clear()


def _form(path: Path, options: BackendOptions, version: str) -> str:
    """How a graph is compiled: without snippets, or with, as some 8-bit graphs are.

    Which of the two is seen in the graph, when it is opened first; then the directory where it is kept tells.
    """
    if not options.precision.startswith("int8"):
        return _PLAIN
    for form in (_PLAIN, _WITH_SNIPPETS):
        directory = _own_directory(options, version, form)
        if directory is not None and directory.is_dir():
            return form
    return _WITH_SNIPPETS if needs_snippets(_core().read_model(str(path))) else _PLAIN


def _own_directory(options: BackendOptions, version: str, form: str) -> Path | None:
    """Where a graph is kept: apart for each version, whose cache the next does not read, and for each precision.

    And with and without snippets, which the cache does not tell apart either: it holds the graph as cut into them.
    """
    number = version.partition("-")[0]
    return None if options.cache_directory is None else options.cache_directory / f"{number}-{options.precision}-{form}"


def _properties(options: BackendOptions, form: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[options.precision],  # never left to OpenVINO: it prefers bf16
        "INFERENCE_NUM_THREADS": options.threads // options.streams,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        **(_NO_SNIPPETS if form == _PLAIN else {}),
    }


def _tensor_spec(port: Any) -> TensorSpec:
    shape = tuple(None if side.is_dynamic else int(side.get_length()) for side in port.get_partial_shape())
    return TensorSpec(_tensor_name(port), np.dtype(port.get_element_type().to_dtype()).name, shape)


def _tensor_name(port: Any) -> str:
    """Return the graph's own name of an input or output.

    A tensor may carry several names once operations between them were removed, and another set when it comes from the
    cache; the one that the file gives to an output is then that of the node.
    """
    names = port.get_names()
    own: str = port.get_node().get_friendly_name().removesuffix("/sink_port_0")
    return own if own in names or not names else min(names)
