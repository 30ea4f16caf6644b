"""One way to open a graph with each backend; engines that are not installed are skipped, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import ENGINES, open_file, skip_without
from fake_backend import FakeBackend
from tiny_graphs import Graph

from runtime.backends import Backend, BackendOptions

Opener = Callable[..., Backend]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Name of each real engine in turn."""
    name: str = request.param
    skip_without(name)
    return name


@pytest.fixture(params=("fake", *ENGINES))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """A function that opens a graph with each backend in turn; all are closed in the end."""
    name: str = request.param
    if name != "fake":
        skip_without(name)
    backends: list[Backend] = []

    def opener(graph: Graph, **options: Any) -> Backend:
        options = {"threads": 2, **options}
        if name == "fake":
            backend: Backend = FakeBackend(graph.io_spec, graph.function, **options)
        else:
            backend = open_file(name, graph.save(tmp_path / f"{len(backends)}.onnx"), BackendOptions(**options))
        backends.append(backend)
        return backend

    yield opener
    for backend in backends:
        backend.close()
