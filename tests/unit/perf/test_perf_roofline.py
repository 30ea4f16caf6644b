"""Costs of graphs against counts by hand, peaks that are numbers, bounds, and where their time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from perf_fakes import SUBJECT

from perf.extras import extra_tasks
from perf.plan import configurations
from perf.roofline import build_roofline

pytest.importorskip("openvino", reason="costs of graphs are read with OpenVINO")

from perf import graph_cost, roofline_worker
from perf.engine import openvino, ops


def costs_of(*outputs: Any, inputs: list[Any]) -> list[graph_cost.OperationCost]:
    return graph_cost.costs(openvino.Model([ops.result(one) for one in outputs], inputs, "graph").get_ordered_ops())


def given(*shape: int) -> Any:
    return ops.parameter(list(shape), np.float32)


def weights(*shape: int) -> Any:
    return ops.constant(np.ones(shape, np.float32))


def test_a_convolution_counts_two_operations_for_every_product() -> None:
    x = given(1, 3, 8, 6)
    (cost,) = costs_of(ops.convolution(x, weights(5, 3, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1]), inputs=[x])
    assert cost.flop == 2 * (8 * 6 * 5) * (3 * 9)
    assert (cost.activations, cost.weights) == (3 * 8 * 6 + 5 * 8 * 6, 5 * 3 * 9)
    assert cost.bytes(4, 1) == 4 * cost.activations + cost.weights


def test_a_depthwise_convolution_counts_one_channel_a_group() -> None:
    x = given(1, 4, 8, 8)
    node = ops.group_convolution(x, weights(4, 1, 1, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    (cost,) = costs_of(node, inputs=[x])
    assert cost.flop == 2 * (8 * 8 * 4) * 9


def test_a_transposed_convolution_counts_from_its_input() -> None:
    x = given(1, 4, 5, 5)
    node = ops.convolution_backprop_data(x, weights(4, 2, 2, 2), [2, 2])
    (cost,) = costs_of(node, inputs=[x])
    assert cost.flop == 2 * (5 * 5 * 4) * (2 * 4)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_product_counts_its_shared_side(transposed: bool) -> None:
    x, y = given(7, 3) if not transposed else given(3, 7), weights(3, 5)
    (cost,) = costs_of(ops.matmul(x, y, transposed, False), inputs=[x])
    assert cost.flop == 2 * 7 * 3 * 5
    assert cost.weights == 15


def test_what_computes_no_products_costs_none_and_widened_weights_are_weights() -> None:
    x = given(2, 3)
    scaled = ops.multiply(ops.convert(ops.constant(np.ones((3, 4), np.int8)), np.float32), np.float32(0.5))
    (cost,) = costs_of(ops.relu(ops.matmul(x, scaled, False, False)), inputs=[x])
    assert (cost.activations, cost.weights) == (6 + 8, 12)


def test_a_graph_is_timed_layer_by_layer_and_all_its_products_are_found(tiny_bundle: Path, tmp_path: Path) -> None:
    model = roofline_worker.convolutions(8, 6, 3, is_int8=False)
    openvino.save_model(model, tmp_path / "graph.xml")
    found = roofline_worker.measure_graph(tmp_path / "graph.xml", "f32", 1)
    wanted = 3 * 2 * 9 * 8**2 * 6**2 / 1e9
    assert found["gflop"] == pytest.approx(wanted)
    assert sum(layer["gflop"] for layer in found["layers"]) == pytest.approx(wanted)
    assert all(layer["ms"] >= 0 for layer in found["layers"])
    assert found["ms"] > 0
    decoder = roofline_worker.measure_graph(tiny_bundle / "decoder.onnx", "f32", 1)  # a free number of boxes
    assert decoder["ms"] > 0


def test_a_product_that_took_in_its_bias_is_counted_though_its_name_is_lost(tmp_path: Path) -> None:
    x = given(1, 40, 32)
    first = ops.add(ops.matmul(x, weights(64, 32), False, True), weights(64))
    second = ops.add(ops.matmul(ops.gelu(first, "erf"), weights(16, 64), False, True), weights(16))
    openvino.save_model(openvino.Model([ops.result(second)], [x], "graph"), tmp_path / "graph.xml")
    found = roofline_worker.measure_graph(tmp_path / "graph.xml", "f32", 1)
    assert found["gflop"] == pytest.approx(2 * 40 * (32 * 64 + 64 * 16) / 1e9)
    assert sum(layer["gflop"] for layer in found["layers"]) == pytest.approx(found["gflop"])
    products = [layer for layer in found["layers"] if layer["gflop"]]
    assert sum(layer["mbytes"] for layer in products) >= 4 * (32 * 64 + 64 * 16) / 1e6


def test_peaks_are_found_in_every_precision_that_the_engine_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {name: roofline_worker.measure_rate(name, 1, 8, 0.01) for name in ("f32", "int8")}
    assert all(rate is not None and rate > 0 for rate in rates.values())
    assert roofline_worker.measure_bandwidth(2, 1 << 18, 1 << 14) > 0


def test_a_bound_is_the_slower_of_products_and_bytes_and_layers_are_summed_by_kind() -> None:
    layers = [
        {"kind": "Convolution", "precision": "f32", "ms": 4.0, "gflop": 0.2, "mbytes": 1.0},  # 2 ms of products
        {"kind": "Convolution", "precision": "f32", "ms": 5.0, "gflop": 0.1, "mbytes": 30.0},  # 3 ms of bytes
        {"kind": "Convolution", "precision": "int8", "ms": 1.0, "gflop": 0.2, "mbytes": 1.0},  # 0.5 ms of products
        {"kind": "Transpose", "precision": "f32", "ms": 9.0, "gflop": 0.0, "mbytes": 0.0},
    ]
    graphs = {("openvino auto", "encoder"): {"ms": 19.5, "gflop": 0.5, "layers": layers}}
    found = build_roofline({"gflops": {"f32": 100.0, "bf16": None, "int8": 400.0}, "bandwidth_gbs": 10.0}, graphs)
    assert found is not None
    (graph,) = found.graphs
    assert graph.bound_ms == pytest.approx(5.5)
    assert [(one.kind, one.precision, one.count, one.ms) for one in graph.layers] == [
        *(("Convolution", "f32", 2, 9.0), ("Transpose", "f32", 1, 9.0), ("Convolution", "int8", 1, 1.0)),
    ]
    assert build_roofline(None, graphs) is None


def test_extras_are_the_parts_asked_for_and_leave_the_reference_out() -> None:
    chosen = configurations([SUBJECT], ("openvino", "onnxruntime"), ("auto",), references=("default",))
    assert extra_tasks(chosen, roofline=False, labelled=False) == []
    kinds = [(task.kind, task.configuration and task.configuration.name) for task in
             extra_tasks(chosen, roofline=True, labelled=True)]  # fmt: skip
    assert kinds == [
        *(("peaks", None), ("graphs", "openvino auto"), ("labelled", "openvino auto")),
        *(("labelled", "onnxruntime auto"), ("baselines", None)),
    ]
