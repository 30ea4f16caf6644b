"""What every inference engine looks like to the rest of the runtime.

Knows names, dtypes and shapes of tensors. Must not know any engine, any bundle, or what a tensor means.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from runtime.backends.threads import default_threads
from runtime.errors import BackendError, InferenceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["MAX_THREADS", "PRECISIONS", "Backend", "BackendOptions", "IoSpec", "TensorSpec", "check_inputs"]

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "int8-bf16")
"""Precisions that a backend can be opened in."""

MAX_THREADS = 1024
"""Above this a number of threads is taken for a mistake."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes
    ----------
    name : str
        Its name in the graph.
    dtype : str
        NumPy's name of its dtype, as in ``float32``.
    shape : tuple of int or None
        Its sizes; None where any size is allowed.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Return the form used in messages, as in ``float32 (?, 4)``."""
        return f"{self.dtype} ({', '.join('?' if side is None else str(side) for side in self.shape)})"


@dataclass(frozen=True)
class IoSpec:
    """All inputs and outputs of a graph, in the graph's order.

    Attributes
    ----------
    inputs, outputs : tuple of TensorSpec
        What `Backend.run` wants and returns.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class BackendOptions:
    """How to open a graph.

    Attributes
    ----------
    precision : str
        One of `PRECISIONS`; the last two say that the graph itself is quantised, and what its float layers compute in:
        float32, or bfloat16.
    threads : int
        Threads for all calls; by default one for each physical core that this process may use.
    streams : int
        Calls that may run at once, from several threads, each on its share of the threads.
    cache_directory : Path or None
        Where compiled graphs are kept for the next start; None keeps none.

    Raises
    ------
    BackendError
        If the precision is unknown, the number of threads is not between 1 and `MAX_THREADS`, or that of streams not
        between 1 and that of threads.
    """

    precision: str = "fp32"
    threads: int = field(default_factory=default_threads)
    cache_directory: Path | None = None
    streams: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        if self.precision not in PRECISIONS:
            msg = f"precision {self.precision!r}; wanted one of {', '.join(PRECISIONS)}"
            raise BackendError(msg)
        if isinstance(self.threads, bool) or not isinstance(self.threads, int):
            msg = f"threads {self.threads!r}; wanted a whole number"
            raise BackendError(msg)
        if not 1 <= self.threads <= MAX_THREADS:
            msg = f"threads {self.threads}; wanted 1 to {MAX_THREADS}"
            raise BackendError(msg)
        if not 1 <= self.streams <= self.threads:
            msg = f"streams {self.streams}; wanted 1 to {self.threads}, a thread for each"
            raise BackendError(msg)


class Backend(Protocol):
    """One graph, compiled by one engine and ready to run; safe to use from several threads."""

    @property
    def name(self) -> str:
        """Name of the engine, as in ``openvino``."""

    @property
    def precision(self) -> str:
        """Precision the graph really computes in: ``fp32``, ``bf16``, ``fp16`` or ``int8``."""

    @property
    def threads(self) -> int:
        """Threads that one call uses at most, as the engine reports them."""

    @property
    def io_spec(self) -> IoSpec:
        """Inputs and outputs of the graph."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Parameters
        ----------
        inputs : mapping of str to ndarray
            One array an input, of exactly its dtype and a shape that fits; they are only read.

        Returns
        -------
        outputs : dict of str to ndarray
            All outputs in the graph's order. The arrays belong to the caller: no later call changes them.

        Raises
        ------
        InferenceError
            If an input is missing, unknown or does not fit (all of them are named), or the engine fails.
        SessionStateError
            If the backend is closed.
        """

    def close(self) -> None:
        """Free the graph. A second call does nothing; calls of `run` that are under way end normally."""


def check_inputs(graph: str, inputs: Mapping[str, NDArray[Any]], specs: tuple[TensorSpec, ...]) -> None:
    """Refuse inputs that a graph does not take, before an engine sees them.

    Parameters
    ----------
    graph : str
        Name of the graph in the message.
    inputs : mapping of str to ndarray
        What the caller gave.
    specs : tuple of TensorSpec
        What the graph wants.

    Raises
    ------
    InferenceError
        With everything that is wrong.
    """
    if len(inputs) == len(specs) and all(spec.name in inputs and _fits(inputs[spec.name], spec) for spec in specs):
        return
    wanted = {spec.name: spec for spec in specs}
    problems = [f"input {name!r} is missing" for name in wanted if name not in inputs]
    problems += [f"input {name!r} is not known" for name in inputs if name not in wanted]
    for name, spec in wanted.items():
        if name in inputs:
            problems += _misfits(inputs[name], spec)
    if problems:
        signature = ", ".join(f"{spec.name} {spec}" for spec in specs)
        msg = f"{graph}: {'; '.join(problems)}; the graph takes {signature}"
        raise InferenceError(msg)


def _fits(array: Any, spec: TensorSpec) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == spec.dtype and array.size > 0 and _has_shape(array, spec)


def _has_shape(array: NDArray[Any], spec: TensorSpec) -> bool:
    return len(array.shape) == len(spec.shape) and all(
        side is None or side == size for side, size in zip(spec.shape, array.shape, strict=True)
    )


def _misfits(array: Any, spec: TensorSpec) -> list[str]:
    if not isinstance(array, np.ndarray):
        return [f"input {spec.name!r} is a {type(array).__name__}, wanted an ndarray"]
    found = []
    if array.dtype != np.dtype(spec.dtype):
        found.append(f"input {spec.name!r} has dtype {array.dtype}, wanted {spec.dtype}")
    if not _has_shape(array, spec):
        shape = ", ".join("?" if side is None else str(side) for side in spec.shape)
        found.append(f"input {spec.name!r} has shape {array.shape}, wanted ({shape})")
    elif array.size == 0:
        found.append(f"input {spec.name!r} has shape {array.shape}, which holds no values")
    return found
