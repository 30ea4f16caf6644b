"""A case of a few voxels, a measurer that starts no process, a bundle of a few nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_factory import write_bundle
from perf_fakes import TRUTH, FakeLaunch

from perf.cases import Case
from perf.measure import Measurer
from perf.recorder import Recorder
from perf.records import CaseFacts


@pytest.fixture
def fake() -> FakeLaunch:
    return FakeLaunch()


@pytest.fixture
def measurer(tmp_path: Path, fake: FakeLaunch) -> Measurer:
    return Measurer(tmp_path, Recorder(), fake)


@pytest.fixture
def tiny_case(tmp_path: Path) -> Case:
    truth = tmp_path / "truth.npz"
    np.savez(truth, segs=TRUTH)
    facts = CaseFacts("tiny", "a tiny case", (4, 5, 3), "int16", 1, ("1,1,1,2,3,2",), None, 99)
    return Case(facts, tmp_path / "3D_tiny.npz", ("1,1,1,2,3,2",), ".npz", truth=truth, second_box="1,1,1,2,2,2")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose object is whatever is darker than a third of the range."""
    folder = tmp_path_factory.mktemp("bundle")
    encoder = _model(
        [("AveragePool", ["image"], ["embedding"], {"kernel_shape": [4, 4], "strides": [4, 4]})],
        {"image": (1, 3, 64, 64)},
        {"embedding": (1, 3, 16, 16)},
        {},
    )
    decoder = _model(
        [
            ("ReduceMean", ["embedding"], ["brightness"], {"axes": [1], "keepdims": 1}),
            ("Sub", ["limit", "brightness"], ["dark"]),
            ("Mul", ["boxes", "zero"], ["zeros"]),
            ("ReduceSum", ["zeros", "last_axis"], ["zero_scores"], {"keepdims": 1}),
            ("Unsqueeze", ["zero_scores", "more_axes"], ["zero_planes"]),
            ("Add", ["dark", "zero_planes"], ["low_res_logits"]),
            ("Add", ["zero_scores", "half"], ["scores"]),
        ],
        {"embedding": (1, 3, 16, 16), "boxes": ("n", 4)},
        {"low_res_logits": ("n", 1, 16, 16), "scores": ("n", 1)},
        {
            "half": np.array(0.5, np.float32),
            "limit": np.array(0.33, np.float32),
            "zero": np.array(0, np.float32),
            "last_axis": np.array([1], np.int64),
            "more_axes": np.array([2, 3], np.int64),
        },
    )
    return write_bundle(
        folder,
        {"encoder.onnx": encoder, "decoder.onnx": decoder},
        embedding=[{"name": "embedding", "shape": [1, 3, 16, 16]}],
    )


def _model(
    nodes: list[tuple[Any, ...]],
    inputs: dict[str, tuple[Any, ...]],
    outputs: dict[str, tuple[Any, ...]],
    constants: dict[str, np.ndarray],
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    made = [helper.make_node(kind, given, out, **(rest[0] if rest else {})) for kind, given, out, *rest in nodes]
    graph = helper.make_graph(
        made,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
