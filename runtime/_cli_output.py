"""What the command line writes and prints: file names, the JSON summary, the report, the progress bar.

Knows results and the public API; parses nothing. The summary is documented in ``docs/json-summary.md``.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import runtime
from runtime._cli_targets import Written
from runtime.backends.graph_cache import LIMIT_BYTES, compiled_graphs
from runtime.cache import CacheInfo
from runtime.errors import BackendUnavailable
from runtime.segmentation import ObjectResult, Segmentation

__all__ = [
    "Clock",
    "ProgressBar",
    "cache_report",
    "cache_summary",
    "demo_command",
    "report",
    "summary",
]

SUMMARY_VERSION = 1


@dataclass(slots=True)
class Clock:
    """Wall time of the stages around `Session.segment`."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.stages[f"{name}_ms"] = (time.perf_counter() - begun) * 1e3


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _object_summary(one: ObjectResult, result: Segmentation) -> dict[str, Any]:
    voxels = int(np.count_nonzero(result.label_volume[one.region] == one.label))
    return {
        "label": one.label,
        "name": one.name,
        "voxels": voxels,
        "volume_ml": None if result.volume.is_2d else round(voxels * result.volume.voxel_ml, 4),
        "score": _number(one.score),
        "slices": [
            {"slice": each.slice_index, "score": _number(each.score), "area": each.area, "stop": each.stop}
            for each in one.slices
        ],
    }


def summary(result: Segmentation, written: Written, clock: Clock) -> dict[str, Any]:
    """Make the machine-readable summary of a run; the layout is ``docs/json-summary.md``."""
    window = result.window
    timings = {key: round(value, 3) for key, value in {**clock.stages, **result.timings}.items()}
    timings["segment_ms"] = timings.pop("total_ms")
    timings["total_ms"] = round((time.perf_counter() - clock.started) * 1e3, 3)
    return {
        "summary_version": SUMMARY_VERSION,
        "lite_infer": runtime.__version__,
        "output": str(written.outputs[0]),
        "outputs": [str(path) for path in written.outputs],
        "statistics": None if written.statistics is None else str(written.statistics),
        "preview": None if written.preview is None else str(written.preview),
        "bundle": result.bundle,
        "backend": result.backend,
        "precision": result.precision,
        "shape": list(result.label_map.shape),
        "slice_axis": result.slice_axis,
        "window": None
        if window is None
        else {
            "level": window.level,
            "width": window.width,
            "lower": window.lower,
            "upper": window.upper,
            "origin": window.origin,
        },
        "warnings": list(result.volume.notes),
        "objects": [_object_summary(one, result) for one in result.objects],
        "timings": timings,
    }


def report(data: dict[str, Any]) -> str:
    """Say the same to a person, in a few lines."""
    window = data["window"]
    shown = "uint8 as it is" if window is None else f"{window['level']:g},{window['width']:g} ({window['origin']})"
    lines = [f"model     {data['bundle']} on {data['backend']} {data['precision']}, window {shown}"]
    for one in data["objects"]:
        kept = [each["slice"] for each in one["slices"] if each["area"]]
        extent = f"slices {min(kept)} to {max(kept)}" if kept else "nothing found"
        size = "" if one["volume_ml"] is None else f" = {one['volume_ml']:.2f} ml"
        score = "" if one["score"] is None else f", score {one['score']:.2f}"
        stops = sorted({each["stop"] for each in one["slices"] if each["stop"]})
        reason = f", stopped by {' and '.join(stops)}" if stops else ""
        lines.append(f"{one['label']:<9} {one['name']}: {one['voxels']} voxels{size}, {extent}{score}{reason}")
    times = data["timings"]
    lines.append(
        f"time      {times['total_ms'] / 1e3:.2f} s: read {times['read_ms']:.0f} ms, start {times['start_ms']:.0f} ms, "
        f"encode {times['encode_ms']:.0f} ms ({times['slices_encoded']:.0f} slices, {times['slices_cached']:.0f} from "
        f"the cache), decode {times['decode_ms']:.0f} ms ({times['prompts_decoded']:.0f} prompts), "
        f"write {times['write_ms']:.0f} ms"
    )
    extra = [data[name] for name in ("statistics", "preview") if data[name] is not None]
    lines += [f"{'' if number else 'written':<9} {path}" for number, path in enumerate([*data["outputs"], *extra])]
    return "\n".join(lines)


class ProgressBar:
    """A tqdm bar that is a progress callback of `Session.segment`."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit="slice", leave=False)

    def __enter__(self) -> ProgressBar:
        """Return the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar from the terminal."""
        self._bar.close()

    def __call__(self, event: runtime.Progress) -> None:
        """Show one more slice."""
        self._bar.total = event.total
        self._bar.set_description(event.name, refresh=False)
        self._bar.update(event.done - self._bar.n)


def demo_command() -> list[str]:
    """Arguments that the demo runs: nibabel's MR sample, a box around the lateral ventricles."""
    from importlib.resources import files  # with all that it imports, of use here alone

    sample = files("nibabel") / "tests" / "data" / "example4d.nii.gz"
    if not sample.is_file():
        msg = "nibabel lacks its test data (example4d.nii.gz); run: pip install --force-reinstall nibabel"
        raise BackendUnavailable(msg)
    return [
        str(sample),
        "--volume",
        "0",
        "--box",
        "ventricles=53,50,74,65@13",
        "-o",
        "demo_segmentation.nii.gz",
        "--preview",
        "demo_preview.png",
    ]


def cache_summary(embeddings: CacheInfo, graphs: Path) -> dict[str, Any]:
    """Make ``lite-infer cache info --json``; `graphs` is the folder of compiled graphs."""
    compiled = compiled_graphs(graphs)
    return {
        "directory": str(embeddings.directory),
        "entries": embeddings.disk_entries,
        "bytes": embeddings.disk_bytes,
        "limit_bytes": embeddings.disk_limit,
        "graphs": {
            "directory": str(graphs),
            "entries": len(compiled),
            "bytes": sum(graph.bytes for graph in compiled),
            "limit_bytes": LIMIT_BYTES,
        },
    }


def cache_report(summary: dict[str, Any]) -> str:
    """Say what is kept where, and how much of its limit it takes."""
    mib = 1 << 20
    return "\n".join(
        f"{part['entries']} {what}, {part['bytes'] / mib:.1f} of at most {part['limit_bytes'] / mib:.0f} MiB, "
        f"in {part['directory']}"
        for what, part in (("embeddings", summary), ("compiled graphs", summary["graphs"]))
    )
