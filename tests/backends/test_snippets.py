"""OpenVINO makes no code of its own for element-wise operations, which takes longer than it saves, unless it must."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import open_file, run_python, skip_without
from tiny_graphs import Graph

from runtime.backends import BackendOptions, TensorSpec
from runtime.bundle import open_bundle

SIDE = 32
STEP = 0.02
X86 = platform.machine().lower() in {"x86_64", "amd64"}


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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_chain_of_operations_is_not_made_a_snippet(tmp_path: Path, precision: str) -> None:
    import openvino

    path = CHAIN.save(tmp_path / "chain.onnx")
    usual = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    if "Subgraph" not in _kinds(usual):
        pytest.skip("this OpenVINO makes no snippet of the chain in any case")
    backend = open_file("openvino", path, BackendOptions(precision, threads=1))
    assert "Subgraph" not in _kinds(backend._copies[0])
    np.testing.assert_allclose(backend.run({"x": VALUES})["y"], _chain(VALUES)["y"], rtol=1e-5)


def _product(*, is_biased: bool, is_8_bit: bool = True) -> Graph:
    """A product of 8-bit numbers that is rounded to 8 bits for one reader and read as it is by another."""
    rng = np.random.default_rng(1)
    weights, scales = rng.integers(-127, 128, (8, 8, 1, 1), np.int8), rng.uniform(1e-3, 5e-3, 8).astype(np.float32)
    bias = rng.standard_normal(8).astype(np.float32) if is_biased else np.zeros(8, np.float32)
    floats = weights * scales[:, None, None, None]

    def function(x: Any) -> dict[str, Any]:
        rounded = np.clip(np.rint(x * 255), 0, 255) / 255
        product = np.einsum("oc,nchw->nohw", floats[..., 0, 0], rounded) + bias[:, None, None]
        return {"y": np.clip(np.rint(product / STEP), -128, 127) * STEP, "z": np.abs(product)}

    constants = {
        **{"fine": np.float32(1 / 255), "zero": np.uint8(0), "coarse": np.float32(STEP), "middle": np.uint8(128)},
        **{"weights": weights, "scales": scales, "zeros": np.zeros(8, np.int8), "bias": bias, "floats": floats},
    }
    restored = ("DequantizeLinear", ["weights", "scales", "zeros"], ["restored"], {"axis": 0})
    product = ["a", "restored" if is_8_bit else "floats", *(["bias"] if is_biased else [])]
    return Graph(
        nodes=(
            *(("QuantizeLinear", ["x", "fine", "zero"], ["q"]), ("DequantizeLinear", ["q", "fine", "zero"], ["a"])),
            *([restored] if is_8_bit else []),
            ("Conv", product, ["p"]),
            ("QuantizeLinear", ["p", "coarse", "middle"], ["r"]),
            ("DequantizeLinear", ["r", "coarse", "middle"], ["y"]),
            ("Abs", ["p"], ["z"]),
        ),
        inputs=CHAIN.inputs,
        outputs=tuple(TensorSpec(name, "float32", (1, 8, SIDE, SIDE)) for name in "yz"),
        function=function,
        constants={name: np.asarray(value) for name, value in constants.items()},
    )


def _error(graph: Graph, found: Any) -> float:
    """Largest difference in steps of the 8-bit numbers, of which one is rounding."""
    wanted = graph.function(VALUES)
    return max(float(np.abs(found[name] - wanted[name]).max()) for name in wanted) / STEP


def test_an_8_bit_product_without_a_bias_that_is_read_twice_keeps_its_snippets(tmp_path: Path) -> None:
    import openvino

    from runtime.backends import ov

    graph = _product(is_biased=False)
    path = graph.save(tmp_path / "product.onnx")
    assert _error(graph, open_file("openvino", path, BackendOptions("int8", threads=1)).run({"x": VALUES})) < 1.01
    usual = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    without = openvino.Core().compile_model(str(path), "CPU", {**usual, **ov._NO_SNIPPETS})(VALUES)
    if _error(graph, {port.any_name: values for port, values in without.items()}) < 1.01:
        pytest.skip("this OpenVINO computes it right without snippets, or cannot do without: _ov_snippets may go")


@pytest.mark.parametrize("forms", [{"is_biased": True}, {"is_biased": False, "is_8_bit": False}])
def test_other_products_are_right_without_snippets(tmp_path: Path, forms: dict[str, bool]) -> None:
    graph = _product(**forms)
    backend = open_file("openvino", graph.save(tmp_path / "product.onnx"), BackendOptions("int8", threads=1))
    assert "Subgraph" not in _kinds(backend._copies[0])
    assert _error(graph, backend.run({"x": VALUES})) < 1.01


@pytest.mark.parametrize("is_biased", [False, True])
def test_what_a_graph_needs_is_found_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_biased: bool) -> None:
    from runtime.backends import ov

    path = _product(is_biased=is_biased).save(tmp_path / "product.onnx")
    options = BackendOptions("int8", threads=1, cache_directory=tmp_path / "cache")
    first: Any = open_file("openvino", path, options)
    assert first.cache_directory.name.endswith("int8-plain" if is_biased else "int8-with-snippets")
    monkeypatch.setattr(ov, "needs_snippets", lambda _: pytest.fail("asked again"))
    again: Any = open_file("openvino", path, options)
    assert again.cache_directory == first.cache_directory
    assert again._copies[0].get_property("LOADED_FROM_CACHE")


BOTH = """
import json, sys
from pathlib import Path
import numpy as np
from engines import open_file
from runtime.backends import BackendOptions, ov

def run(graph, form, given):
    ov._form = lambda *_: form
    backend = open_file("openvino", Path(sys.argv[1]) / graph, BackendOptions("int8", threads=1))
    spec = backend.io_spec.inputs
    kinds = {one.get_rt_info()["layerType"].astype(str) for one in backend._copies[0].get_runtime_model().get_ops()}
    assert form == ov._WITH_SNIPPETS or "Subgraph" not in kinds
    absent = {one.name: np.zeros([side or 1 for side in one.shape], one.dtype) for one in spec}
    return backend.run({**absent, **{name: given[name] for name in absent.keys() & given.keys()}})

rows, columns = np.mgrid[0:256, 0:256] / 255
disc = np.where((columns - 0.45) ** 2 + (rows - 0.5) ** 2 < 0.05, 0.8, 0.2 + 0.3 * columns)
noisy = disc + 0.02 * np.random.default_rng(0).standard_normal(disc.shape)
given = {"image": np.repeat(np.clip(noisy, 0, 1)[None, None], 3, 1).astype(np.float32)}
given |= {"boxes": np.array([[60, 70, 170, 186]], np.float32), "point_labels": np.full((1, 1), -1, np.float32)}
for graph in json.loads(sys.argv[2]):
    wanted, found = (run(graph, form, given) for form in (ov._WITH_SNIPPETS, ov._PLAIN))
    for name, values in wanted.items():
        off = np.abs(found[name].astype(float) - values).max() / (np.ptp(values) or 1)
        assert off < 0.01, (graph, name, off)
    if "low_res_logits" in wanted:
        masks = [answer["low_res_logits"][0, 0] > 0 for answer in (wanted, found)]
        assert (masks[0] & (disc == 0.8)).sum() > 5000
        assert (masks[0] != masks[1]).sum() < 0.0005 * (masks[0].sum() + masks[1].sum()), graph
    given |= wanted
"""


@pytest.mark.skipif(not X86, reason="oneDNN's limits are names of x86 instruction sets")
@pytest.mark.parametrize("limit", ["", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_the_default_bundle_answers_alike_with_and_without_snippets(limit: str) -> None:
    """On other CPUs as well, as far as oneDNN's limits imitate them."""
    from runtime.backends._ov_snippets import needs_snippets
    from runtime.backends.ov import _core

    bundle = open_bundle("default")
    if "int8" not in bundle.manifest.graphs:
        pytest.skip("the default bundle has no INT8 graphs")
    graphs = [str(files.onnx) for files in bundle.manifest.graphs["int8"].by_role.values()]
    assert [graph for graph in graphs if needs_snippets(_core().read_model(str(bundle.folder / graph)))] == []
    run_python(BOTH, bundle.folder, json.dumps(graphs), environment={"ONEDNN_MAX_CPU_ISA": limit})


def test_a_version_that_knows_no_such_switch_compiles_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends import ov

    monkeypatch.setattr(ov, "_NO_SNIPPETS", {"NO_SUCH_SWITCH": "DISABLE"})
    backend = open_file("openvino", CHAIN.save(tmp_path / "chain.onnx"), BackendOptions(threads=1))
    np.testing.assert_allclose(backend.run({"x": VALUES})["y"], _chain(VALUES)["y"], rtol=1e-5)
