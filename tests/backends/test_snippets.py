"""OpenVINO makes no code of its own for element-wise operations, which takes longer than it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import open_file, skip_without
from tiny_graphs import Graph

from runtime.backends import BackendOptions, TensorSpec

SIDE = 32


def _chain(x: Any) -> dict[str, Any]:
    return {"y": np.sqrt(np.abs(x * x - x) + x)}


CHAIN = Graph(
    nodes=(
        ("Mul", ["x", "x"], ["a"]),
        ("Sub", ["a", "x"], ["b"]),
        ("Abs", ["b"], ["c"]),
        ("Add", ["c", "x"], ["d"]),
        ("Sqrt", ["d"], ["y"]),
    ),
    inputs=(TensorSpec("x", "float32", (1, 8, SIDE, SIDE)),),
    outputs=(TensorSpec("y", "float32", (1, 8, SIDE, SIDE)),),
    function=_chain,
    constants={},
)
VALUES = np.random.default_rng(0).random((1, 8, SIDE, SIDE), np.float32)


@pytest.fixture(autouse=True)
def _openvino() -> None:
    skip_without("openvino")


def _kinds(compiled: Any) -> set[str]:
    operations = compiled.get_runtime_model().get_ordered_ops()
    return {operation.get_rt_info()["layerType"].astype(str) for operation in operations}


def test_a_chain_of_operations_is_not_made_a_snippet(tmp_path: Path) -> None:
    import openvino

    path = CHAIN.save(tmp_path / "chain.onnx")
    usual = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    if "Subgraph" not in _kinds(usual):
        pytest.skip("this OpenVINO makes no snippet of the chain in any case")
    backend = open_file("openvino", path, BackendOptions(threads=1))
    assert "Subgraph" not in _kinds(backend._copies[0])
    np.testing.assert_allclose(backend.run({"x": VALUES})["y"], _chain(VALUES)["y"], rtol=1e-5)


def test_8_bit_graphs_keep_their_snippets_without_which_some_are_wrong(tmp_path: Path) -> None:
    backend = open_file("openvino", CHAIN.save(tmp_path / "chain.onnx"), BackendOptions(threads=1, precision="int8"))
    assert "Subgraph" in _kinds(backend._copies[0])


def test_a_version_that_knows_no_such_switch_compiles_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends import ov

    monkeypatch.setattr(ov, "_NO_SNIPPETS", {"NO_SUCH_SWITCH": "DISABLE"})
    backend = open_file("openvino", CHAIN.save(tmp_path / "chain.onnx"), BackendOptions(threads=1))
    np.testing.assert_allclose(backend.run({"x": VALUES})["y"], _chain(VALUES)["y"], rtol=1e-5)
