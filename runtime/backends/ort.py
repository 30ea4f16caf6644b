"""ONNX Runtime behind the `Backend` protocol; the only module that imports it.

Knows ONNX Runtime's options and type names. Must not know bundles or what a tensor means. The official builds report
sessions to their maker unless told otherwise before the import; here they are told.

Optimised graphs are not kept on disk: for graphs of some 15 MB that took the opening from about 80 to 60 ms, for a
file that is good for one CPU and one version only.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runtime.backends.base import IoSpec, TensorSpec, check_inputs
from runtime.errors import BackendError, BackendUnavailable, InferenceError, SessionStateError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    from runtime.backends.base import BackendOptions

__all__ = ["OrtBackend", "check_loads", "version"]

_TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"
_ERRORS_ONLY = 3
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(uint32)": "uint32",
    "tensor(int32)": "int32",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def _import_onnxruntime() -> ModuleType:
    try:
        with _telemetry_off():
            import onnxruntime
    except (ImportError, OSError) as error:
        msg = (
            f"backend onnxruntime does not load ({error}); install it with 'pip install onnxruntime', "
            "or choose backend 'openvino'"
        )
        raise BackendUnavailable(msg) from error
    onnxruntime.disable_telemetry_events()  # Windows has no switch in the environment
    module: ModuleType = onnxruntime
    return module


def version() -> str:
    """Version of ONNX Runtime; `BackendUnavailable` where it does not load."""
    return str(_import_onnxruntime().__version__)


def check_loads() -> None:
    """Raise `BackendUnavailable` where ONNX Runtime is not installed or does not load."""
    _import_onnxruntime()


@contextmanager
def _telemetry_off() -> Iterator[None]:
    """Set ONNX Runtime's opt-out, which it reads once, when it is first imported; a value set by the user stands."""
    before = os.environ.get(_TELEMETRY_SWITCH)
    if before:
        yield
        return
    os.environ[_TELEMETRY_SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TELEMETRY_SWITCH]
        else:
            os.environ[_TELEMETRY_SWITCH] = before


def _foreign() -> tuple[type[Exception], ...]:
    """Every exception that ONNX Runtime defines (they have no common base), and pybind11's."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (*own, RuntimeError, TypeError, ValueError, OSError, MemoryError)


class OrtBackend:
    """One graph run by ONNX Runtime on the CPU.

    Parameters
    ----------
    path : Path
        An ONNX file.
    options : BackendOptions
        ``fp32``, or ``int8`` for a quantised graph. The cache directory is not used.

    Raises
    ------
    BackendUnavailable
        If ONNX Runtime is not installed or does not load.
    BackendError
        If the precision is one that ONNX Runtime does not have on CPUs.
    InferenceError
        If the graph does not load.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, options: BackendOptions) -> None:
        if options.precision not in {"fp32", "int8"}:
            msg = f"onnxruntime runs fp32 and int8 on CPUs, not {options.precision}; choose backend 'openvino'"
            raise BackendError(msg)
        onnxruntime = _import_onnxruntime()
        self._graph = path.name
        self._foreign = _foreign()
        settings = _settings(onnxruntime, options.threads // options.streams)
        try:
            session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
            self.io_spec = IoSpec(
                inputs=tuple(_tensor_spec(node) for node in session.get_inputs()),
                outputs=tuple(_tensor_spec(node) for node in session.get_outputs()),
            )
        except self._foreign as error:
            msg = f"{path}: ONNX Runtime cannot load it ({_reason(error)}); convert the bundle again"
            raise InferenceError(msg) from error
        self.precision = options.precision
        self.threads = int(session.get_session_options().intra_op_num_threads)
        self._names = [spec.name for spec in self.io_spec.outputs]
        self._session: Any = session

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once; see `Backend.run`."""
        session = self._session
        if session is None:
            msg = f"{self._graph}: the graph was closed; open a new session"
            raise SessionStateError(msg)
        check_inputs(self._graph, inputs, self.io_spec.inputs)
        try:
            arrays = session.run(self._names, dict(inputs))
        except self._foreign as error:
            msg = f"{self._graph}: ONNX Runtime failed to run it ({_reason(error)})"
            raise InferenceError(msg) from error
        return dict(zip(self._names, arrays, strict=True))

    def close(self) -> None:
        """Free the graph; see `Backend.close`."""
        self._session = None


def _settings(onnxruntime: ModuleType, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = _ERRORS_ONLY
    # Threads that wait by spinning take their cores from the stages around inference, and from other programs
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return settings


def _tensor_spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        msg = f"tensor {node.name!r} has type {node.type}, which is not supported"
        raise ValueError(msg)
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return TensorSpec(node.name, _DTYPES[node.type], shape)


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].removeprefix("[ONNXRuntimeError] : ") if text else type(error).__name__
