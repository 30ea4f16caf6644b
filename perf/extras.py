"""What is measured once, after the rounds: peaks of the machine, graphs layer by layer, masks of labelled images.

Knows workers, configurations and the recorder; knows neither rounds nor the layout of the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perf.plan import REFERENCE, Configuration, Task
from perf.recorder import Recorder
from runtime.manifest import load_manifest

__all__ = ["KINDS", "Ask", "extra_tasks", "run_extra"]

KINDS = ("peaks", "graphs", "baselines", "labelled")

Ask = Callable[[str, dict[str, Any], Configuration | None], dict[str, Any]]
"""(module of a worker, specification, configuration) -> what it found"""


def extra_tasks(chosen: Sequence[Configuration], *, roofline: bool, labelled: bool) -> list[Task]:
    """Tasks of the parts that were asked for.

    Graphs are looked into with OpenVINO, as many threads as the peaks are measured with, and no limit of instructions.
    """
    own = [one for one in chosen if one.is_own]
    tasks = []
    if roofline and own:
        native = [one for one in own if one.backend == "openvino" and one.isa is None and one.threads == own[0].threads]
        tasks = [Task("peaks"), *(Task("graphs", configuration=one) for one in native if one.wants("graphs"))]
    if labelled:
        tasks += [Task("labelled", configuration=one) for one in own if one.wants("labelled")]
        tasks.append(Task("baselines"))
    return tasks


def run_extra(task: Task, ask: Ask, recorder: Recorder, labelled: Path | None, folder: Path) -> None:
    """Carry out one task and note what it found."""
    one = task.configuration
    if task.kind == "peaks":
        threads = next((opened.threads for opened in recorder.opened.values() if opened.backend != REFERENCE), 1)
        recorder.peaks = ask("perf.roofline_worker", {"peaks": True, "threads": threads}, None)
    elif task.kind == "baselines":
        recorder.baselines = ask("perf.labelled_worker", {"baselines": True, "folder": str(labelled)}, None)
    elif one is not None and task.kind == "graphs":
        opened = recorder.opened[one.name]
        manifest = load_manifest(one.subject.folder)
        graphs = manifest.graphs["int8" if opened.precision.startswith("int8") else "float"].by_role
        for name in [name for name in ("encoder", "decoder", "one_box") if name in graphs]:
            path = one.subject.folder / str(graphs[name].openvino or graphs[name].onnx)
            precision = {"fp32": "f32"}.get(opened.precision, opened.precision)
            spec = {"graph": str(path), "precision": precision, "threads": opened.threads}
            recorder.graphs[one.name, name] = ask("perf.roofline_worker", spec, one)
    elif one is not None:
        masks = folder / f"masks-{len(recorder.labelled)}.npz"
        spec = {"bundle": one.subject.bundle, "modality": one.subject.modality, "expert": one.subject.expert}
        spec |= {"backend": one.backend, "precision": one.precision, "threads": one.threads}
        spec |= {"folder": str(labelled), "masks": str(masks)}
        found = ask("perf.labelled_worker", spec, one)
        recorder.labelled[one.name] = (found, masks)
