"""A backend without an engine: a numpy function stands for the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.base import IoSpec, check_inputs
from runtime.errors import InferenceError, SessionStateError


class FakeBackend:
    """Keeps the contract of `runtime.backends.Backend`; `calls` holds the inputs of every run."""

    name = "fake"

    def __init__(
        self, io_spec: IoSpec, function: Callable[..., Mapping[str, Any]], precision: str = "fp32", threads: int = 1
    ) -> None:
        self.io_spec = io_spec
        self.precision = precision
        self.threads = threads
        self.calls: list[dict[str, NDArray[Any]]] = []
        self._function: Callable[..., Mapping[str, Any]] | None = function

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        function = self._function
        if function is None:
            msg = "fake: the graph was closed; open a new session"
            raise SessionStateError(msg)
        check_inputs("fake", inputs, self.io_spec.inputs)
        self.calls.append(dict(inputs))
        try:
            outputs = function(**inputs)
        except (ValueError, RuntimeError) as error:
            msg = f"fake: failed ({error})"
            raise InferenceError(msg) from error
        return {spec.name: np.array(outputs[spec.name], dtype=spec.dtype) for spec in self.io_spec.outputs}

    def close(self) -> None:
        self._function = None
