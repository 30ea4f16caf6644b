"""INT8 graphs for a bundle in a folder: made, held against float32 masks, partly put back to float, timed.

Knows candidates and their figures. Must not know how a graph is rewritten, nor where the images came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

import runtime
from export._bundle_copy import Graphs, rewrite_manifest
from export._calibration import Images, one_box_calls, record
from export._mask_drop import POINTS, Masks, masks_of, mean_dice, speed_ratio
from export._onnx_weights import store_half, widen
from export._qdq import name_nodes, products, quantise_graph, quantised_nodes, restore_float, worth_quantising
from export._quantize_report import QuantizeOptions, Report
from export._skips import split_skips
from runtime.backends import BACKENDS
from runtime.backends.units import int8_unit
from runtime.cache import EmbeddingCache
from runtime.errors import BundleError
from runtime.manifest import GraphFiles, GraphSet, load_manifest

__all__ = ["Int8"]

_ROLES = ("encoder", "decoder")
_DECISIVE = BACKENDS[0]
_GROUPS = 8
_TRIES = 12
_AIM = 0.9  # of the drop allowed: candidates are measured on one engine, the result on both, which differ a little
_NOT_SLOWER = 0.97
_FASTER = 1.1
_TRANSFORMER = {"Softmax", "LayerNormalization"}


class Int8:
    """The making of INT8 graphs; what is learnt on the way goes into the report."""

    def __init__(
        self, folder: Path, images: Images, reference: Masks, report: Report, options: QuantizeOptions
    ) -> None:
        self._folder, self._reference, self._report, self._options = folder, reference, report, options
        self._manifest = load_manifest(folder)
        self._calibrate, self._held = images.calibrate, images.held_out
        self._files = self._manifest.graphs["float"].by_role
        self._originals: dict[str, Any] = {}
        self._models: dict[str, Any] = {}
        self._cache = EmbeddingCache(disk_bytes=0)
        self._limit = _AIM * options.max_drop
        self._recorded: dict[str, list[dict[str, Any]]] = {}

    def make(self) -> GraphSet:
        """Write the INT8 graphs and return their files; a graph that INT8 does not speed up is the float one.

        BundleError where no choice of layers stays within the drop, or nothing gets faster.
        """
        self._quantise()
        self._restore_until_close()
        self._keep_what_pays()
        for role in set(_ROLES) - set(self._models):
            (self._folder / _file(role)).unlink(missing_ok=True)
        if "one_box" in self._files and "decoder" in self._models:
            self._follow_decoder()
        return self._graph_set(self._models)

    def _follow_decoder(self) -> None:
        """Quantise the layers of the graph for one box that the decoder has in INT8."""
        model = self._float_model("one_box")
        chosen = quantised_nodes(self._models["decoder"])
        if missing := sorted(set(chosen) - {node.name for node in model.graph.node}):
            msg = f"one_box graph: it has no {', '.join(missing)}, as the decoder has; convert the checkpoint again"
            raise BundleError(msg)
        calls = one_box_calls(self._recorded["decoder"], [value.name for value in model.graph.input])
        made = quantise_graph(model, calls, chosen, transformer=_is_transformer(model))
        store_half(made)
        self._models["one_box"] = made
        self._report.quantised["one_box"] = len(quantised_nodes(made))
        onnx.save(made, self._folder / _file("one_box"))

    def _quantise(self) -> None:
        with runtime.Session(self._folder, backend="onnxruntime", precision="fp32", cache=False) as session:
            self._recorded = record(session, self._calibrate)
        for role in _ROLES:
            model = self._float_model(role)
            keep = _keep_float(self._manifest.family)
            chosen, left = worth_quantising(model, head=role == "decoder", keep_float=keep)
            self._originals[role], self._report.left_float[role] = model, left
            self._options.report(f"quantising {len(chosen)} layers of the {role}")
            calls = self._recorded[role]
            self._models[role] = quantise_graph(model, calls, chosen, transformer=_is_transformer(model))

    def _float_model(self, role: str) -> Any:
        """A float graph, ready to be quantised."""
        model = onnx.load(self._folder / str(self._files[role].onnx))
        widen(model)
        name_nodes(model)
        split_skips(model)
        return model

    def _restore_until_close(self) -> None:
        """Put layers back to float, first the groups whose return brings the masks closest, until all are close.

        The groups are ranked once, each alone; how many of them must go is then found by halving, and which of their
        layers need not go by trying.
        """
        limit = self._limit
        drop = self._drop(self._models)
        self._options.report(f"masks differ from those of fp32 by {drop:.2f} Dice points")
        if drop <= limit:
            return
        groups = [(role, group) for role in _ROLES for group in _grouped(quantised_nodes(self._models[role]))]
        alone = [self._drop(self._restored([group])) for group in groups]
        ranked = [group for _, group in sorted(zip(alone, groups, strict=True), key=lambda pair: pair[0])]
        low, high = 1, len(ranked)
        while low < high:
            middle = (low + high) // 2
            close = self._drop(self._restored(ranked[:middle])) <= limit
            low, high = (low, middle) if close else (middle + 1, high)
        restored = [(role, name) for role, group in ranked[:low] for name in group]
        needed = self._without_needless(restored)
        if low == len(ranked) and len(needed) == len(restored):
            msg = (
                f"int8: every choice of layers costs about {self._options.max_drop:g} Dice points or more on the "
                f"held-out images ({drop:.2f} with all of them); allow more with --max-drop, or choose int8-weights or "
                "fp16"
            )
            raise BundleError(msg)
        self._models = self._restored([(role, [name]) for role, name in needed])
        for role, name in needed:
            self._report.left_float[role][name] = "cost too much accuracy"
        self._options.report(f"put {len(needed)} layers back to float")

    def _without_needless(self, layers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of the layers that must stay float: the others, tried from the largest on, stay in INT8 after all."""
        sizes = {role: products(model) for role, model in self._originals.items()}
        needed = list(layers)
        for layer in sorted(layers, key=lambda one: -sizes[one[0]][one[1]])[:_TRIES]:
            fewer = [one for one in needed if one != layer]
            if self._drop(self._restored([(role, [name]) for role, name in fewer])) <= self._limit:
                needed = fewer
        return needed

    def _restored(self, groups: Sequence[tuple[str, Sequence[str]]]) -> dict[str, Any]:
        names = {role: [name for one, group in groups if one == role for name in group] for role in self._models}
        return {
            role: restore_float(model, self._originals[role], names[role]) if names[role] else model
            for role, model in self._models.items()
        }

    def _drop(self, models: Mapping[str, Any]) -> float:
        """Dice points between the masks of candidate graphs and those of float32."""
        self._write(models)
        found = masks_of(
            self._folder, self._held, precision="int8", reference=self._reference, cache=self._cache, one_box=False
        )
        return (1 - mean_dice(found, self._reference)) * POINTS

    def _write(self, models: Mapping[str, Any]) -> None:
        for role, model in models.items():
            onnx.save(model, self._folder / _file(role))
        both: Graphs = {"float": self._manifest.graphs["float"], "int8": self._graph_set(models)}
        rewrite_manifest(self._folder, self._manifest, both)

    def _graph_set(self, models: Mapping[str, Any]) -> GraphSet:
        files = {role: GraphFiles(onnx=_file(role)) if role in models else own for role, own in self._files.items()}
        return GraphSet.from_roles(files)

    def _keep_what_pays(self) -> None:
        """Time the graphs on both engines; where the CPU has 8-bit products, drop those that do not get faster.

        The engine that ``auto`` prefers decides: both run the same files.
        """
        models, report = self._models, self._report
        for role in [role for role, model in models.items() if not quantised_nodes(model)]:
            del models[role]
        counts = {role: quantised_nodes(model) for role, model in models.items()}
        for model in models.values():
            store_half(model)
        self._write(models)
        for engine in BACKENDS:
            report.int8_unit[engine] = int8_unit(engine)
            ratios = {role: speed_ratio(self._folder, role, engine, self._recorded[role][0]) for role in models}
            report.speed[engine] = {role: round(ratio, 3) for role, ratio in ratios.items()}
        for role in list(models):
            ratio = report.speed[_DECISIVE][role]
            if ratio < 1 and report.int8_unit[_DECISIVE] is not None:
                del models[role]
                report.left_float[role] |= dict.fromkeys(counts[role], f"not faster in int8 here ({ratio:.2f} times)")
        if not models:
            msg = "int8: no graph is faster than in float on this CPU; int8-weights or fp16 make the bundle smaller"
            raise BundleError(msg)
        for engine, unit in report.int8_unit.items():
            kept = [report.speed[engine][role] for role in models]
            if unit is not None and min(kept) >= _NOT_SLOWER and max(kept) >= _FASTER:
                report.int8_faster[engine] = [unit]
        report.quantised = {role: len(counts[role]) if role in models else 0 for role in _ROLES}


def _is_transformer(model: Any) -> bool:
    return any(node.op_type in _TRANSFORMER for node in model.graph.node)


def _file(role: str) -> str:
    return f"{role}_int8.onnx"


def _keep_float(family: str) -> tuple[str, ...]:
    """Weights that a family keeps in float; a bundle of no published system keeps what most of them do."""
    from export.families import FAMILIES, KEEP_FLOAT, load_family

    return load_family(family).facts.keep_float if family in FAMILIES else KEEP_FLOAT


def _grouped(names: Sequence[str]) -> list[list[str]]:
    """Names cut into up to `_GROUPS` runs of neighbours."""
    size = -(-len(names) // _GROUPS) if names else 1
    return [list(names[start : start + size]) for start in range(0, len(names), size)]
