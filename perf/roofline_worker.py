"""What this machine can compute and move at most, and how near a graph comes; ``python -m perf.roofline_worker SPEC``.

Knows OpenVINO, numpy and a clock. SPEC is JSON: ``result``, the file that is written; ``threads``; and either
``peaks``: true, or ``graph``, a path, with ``precision``, the engine's word for it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from perf.engine import openvino, ops
from perf.graph_cost import OperationCost, costs, executed_cost, make_static
from runtime.backends._ov_snippets import needs_snippets

__all__ = ["convolutions", "main", "measure_bandwidth", "measure_graph", "measure_rate"]

_CHANNELS, _SIDE, _LAYERS = 128, 28, 1
_COPIED_BYTES, _PIECE_BYTES, _ROUNDS = 256 << 20, 2 << 20, 4
_SECONDS = 1.0
_BYTES = {"f32": (4, 4), "bf16": (2, 2), "int8": (1, 1)}  # of an activation and of a weight
_HINTS = {"bf16": "bf16", "fp16": "f16", "int8-bf16": "bf16"}
_KERNELS = (("i8", "int8"), ("u8", "int8"), ("bf16", "bf16"))  # how names of kernels end


def main(arguments: list[str]) -> int:
    """Measure as the specification says."""
    spec: dict[str, Any] = json.loads(arguments[0])
    threads = spec["threads"]
    if spec.get("peaks"):
        rates = {name: measure_rate(name, threads) for name in _BYTES}
        found: dict[str, Any] = {"gflops": rates, "bandwidth_gbs": measure_bandwidth(threads)}
    else:
        found = measure_graph(Path(spec["graph"]), spec["precision"], threads)
    Path(spec["result"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


def _best(work: Callable[[], object], seconds: float = _SECONDS) -> float:
    """Shortest time of a call, repeated for a while after one that is not timed."""
    work()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 3:
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def _properties(precision: str, threads: int) -> dict[str, Any]:
    wanted: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS.get(precision, "f32")}
    wanted |= {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    return {**wanted, "INFERENCE_NUM_THREADS": threads}


def convolutions(channels: int, side: int, layers: int, *, is_int8: bool) -> Any:
    """A graph of 3x3 convolutions, one after the other, in floats or with 8-bit operands."""
    rng = np.random.default_rng(1)
    given = ops.parameter([1, channels, side, side], np.float32, name="x")
    node, pads = given, [1, 1]
    for _ in range(layers):
        weights = rng.integers(-127, 128, (channels, channels, 3, 3)).astype(np.int8)
        if is_int8:
            limits = [np.float32(value) for value in (0.0, 2.55, 0.0, 2.55)]
            node = ops.fake_quantize(node, *limits, 256)
            scaled = ops.multiply(ops.convert(ops.constant(weights), np.float32), np.float32(1e-4))
        else:
            scaled = ops.constant(weights.astype(np.float32) * np.float32(1e-4))
        node = ops.relu(ops.convolution(node, scaled, [1, 1], pads, pads, [1, 1]))
    return openvino.Model([ops.result(node)], [given], "convolutions")


def measure_rate(precision: str, threads: int, channels: int = _CHANNELS, seconds: float = _SECONDS) -> float | None:
    """10^9 operations a second in wide convolutions; None where the engine does not compute in that precision."""
    core = openvino.Core()
    model = convolutions(channels, _SIDE, _LAYERS, is_int8=precision == "int8")
    try:
        compiled = core.compile_model(model, "CPU", _properties(precision, threads))
    except RuntimeError:  # bf16 on a CPU without it
        return None
    if precision == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() != "bf16":
        return None
    request = compiled.create_infer_request()
    shape = (1, channels, _SIDE, _SIDE)
    request.set_input_tensor(openvino.Tensor(np.random.default_rng(2).random(shape, dtype=np.float32)))
    flop = 2 * 9 * channels**2 * _SIDE**2 * _LAYERS
    return round(1e-9 * flop / _best(request.infer, seconds), 2)


def measure_bandwidth(threads: int, size: int = _COPIED_BYTES, piece: int = _PIECE_BYTES) -> float:
    """10^9 bytes a second, read and written, that copies of arrays far larger than the caches reach.

    Every thread copies its own array piece by piece, all at once; of its pieces the fastest tenth is left out and the
    next one counts, so that neither a lucky hit in a cache nor a neighbour's program decides.
    """
    with ThreadPoolExecutor(threads) as pool:
        rates = list(pool.map(lambda _: _copy_rate(size // threads, piece), range(threads)))
    return round(sum(rates), 2)


def _copy_rate(size: int, piece: int) -> float:
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    rates = []
    for _ in range(_ROUNDS):
        for start in range(0, size - piece + 1, piece):
            begun = time.perf_counter()
            target[start : start + piece] = source[start : start + piece]
            rates.append(2e-9 * piece / (time.perf_counter() - begun))
    return float(np.percentile(rates, 90))


def measure_graph(path: Path, precision: str, threads: int) -> dict[str, Any]:
    """Cost of a graph from its shapes, and its time, layer by layer, from the engine's own counters."""
    core = openvino.Core()
    model = core.read_model(path)
    make_static(model)
    operations = {one.name: one for one in costs(model.get_ordered_ops())}
    compiled = _compiled(core, model, precision, {**_properties(precision, threads), "PERF_COUNT": True})
    request = compiled.create_infer_request()
    rng = np.random.default_rng(3)
    given = {port: _filled(port, rng) for port in compiled.inputs}
    times: dict[str, list[float]] = {}

    def infer() -> None:
        request.infer(given)
        for one in request.profiling_info:
            times.setdefault(one.node_name, []).append(one.real_time.total_seconds() * 1e3)

    best = _best(lambda: request.infer(given)) * 1e3
    _best(infer)
    layers = list(_layers(compiled.get_runtime_model(), operations, times))
    return {"ms": best, "gflop": sum(one.flop for one in operations.values()) / 1e9, "layers": layers}


def _compiled(core: Any, model: Any, precision: str, properties: Mapping[str, Any]) -> Any:
    """Compile as lite-infer does: without snippets, but for 8-bit graphs that need them, and where this version can."""
    if precision.startswith("int8") and needs_snippets(model):
        return core.compile_model(model, "CPU", properties)
    try:
        return core.compile_model(model, "CPU", {**properties, "SNIPPETS_MODE": "DISABLE"})
    except RuntimeError as error:
        if "SNIPPETS_MODE" not in str(error):
            raise
        return core.compile_model(model, "CPU", properties)


def _filled(port: Any, rng: np.random.Generator) -> Any:
    kind = port.element_type.to_dtype()
    values = rng.random(tuple(port.shape), dtype=np.float32)
    return (values * 100).astype(kind) if np.issubdtype(kind, np.integer) else values.astype(kind)


def _layers(
    executed: Any, operations: Mapping[str, OperationCost], times: Mapping[str, Sequence[float]]
) -> Iterator[dict[str, Any]]:
    """Every executed layer: kind, precision, shortest milliseconds, and what was fused into it costs."""
    for node in executed.get_ordered_ops():
        info = node.get_rt_info()
        taken = times.get(node.get_friendly_name())
        if not taken:
            continue
        names = {name.strip() for name in _text(info, "originalLayersNames").split(",")}
        fused = [operations[name] for name in names if name in operations]
        own = None if fused else executed_cost(node)
        fused += [] if own is None else [own]
        precision = next((name for end, name in _KERNELS if _text(info, "primitiveType").lower().endswith(end)), "f32")
        moved = sum(one.bytes(*_BYTES[precision]) for one in fused)
        yield {
            "kind": _text(info, "layerType"),
            "precision": precision,
            "ms": min(taken),
            "gflop": sum(one.flop for one in fused) / 1e9,
            "mbytes": moved / 1e6,
        }


def _text(info: Any, name: str) -> str:
    return str(info[name].astype(str)) if name in info else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
