"""From what a machine can do and what graphs cost to how far they are from it.

Knows numbers as the workers found them and the layout of the report; measures nothing. A layer cannot take less time
than its products at the peak rate of its precision, nor less than its bytes at the peak bandwidth (Williams, Waterman
and Patterson, Roofline, CACM 52(4), 2009); layers that compute no products are given no bound, as they could be fused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perf.records import GraphFigures, LayerFigures, RooflineFigures

__all__ = ["build_roofline"]


def build_roofline(
    peaks: Mapping[str, Any] | None, graphs: Mapping[tuple[str, str], Mapping[str, Any]]
) -> RooflineFigures | None:
    """Make the figures of the report, the costliest kinds of layers first; None where the peaks are not known."""
    if peaks is None:
        return None
    rates, bandwidth = peaks["gflops"], float(peaks["bandwidth_gbs"])
    made = []
    for (configuration, name), found in graphs.items():
        kinds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for layer in found["layers"]:
            kinds.setdefault((layer["kind"], layer["precision"]), []).append(layer)
        layers = [_layers(kind, precision, each, rates, bandwidth) for (kind, precision), each in kinds.items()]
        layers.sort(key=lambda one: -one.ms)
        bound = round(sum(one.bound_ms for one in layers), 4)
        made.append(GraphFigures(configuration, name, found["ms"], found["gflop"], bound, tuple(layers)))
    return RooflineFigures(dict(rates), bandwidth, tuple(made))


def _layers(
    kind: str, precision: str, layers: list[Mapping[str, Any]], rates: Mapping[str, float | None], bandwidth: float
) -> LayerFigures:
    rate = rates.get(precision) or rates["f32"] or 1.0
    bound = sum(max(one["gflop"] / rate * 1e3, one["mbytes"] / bandwidth) for one in layers)  # MB over GB/s is ms
    ms, gflop, mbytes = (sum(one[name] for one in layers) for name in ("ms", "gflop", "mbytes"))
    return LayerFigures(kind, precision, len(layers), round(ms, 4), round(gflop, 5), round(mbytes, 4), round(bound, 4))
