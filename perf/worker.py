"""The stages inside one process, timed apart; run as ``python -m perf.worker SPEC`` in a fresh interpreter.

Knows the public names of `runtime` and a clock; imports nothing heavy before the clock of the import runs. SPEC is
JSON: ``bundle``, ``modality``, ``expert`` (the modality for a set's encoders), ``backend``, ``precision``, ``threads``,
``case`` (null: start only; else ``path``, ``volume``, ``boxes``, ``second_box``, ``output``, ``logits``),
``repeat_seconds`` and ``result``, the file that the figures are written to.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import runtime

__all__ = ["main"]

_REPEATS = 5
_T = TypeVar("_T")


class _Stages:
    """Milliseconds by stage; a stage may be timed several times."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    def time(self, name: str, work: Callable[[], _T]) -> _T:
        begun = time.perf_counter()
        result = work()
        self.add(name, (time.perf_counter() - begun) * 1e3)
        return result


def main(arguments: list[str]) -> int:
    """Measure as the specification says; the exit code is 1 where lite-infer refuses."""
    spec: dict[str, Any] = json.loads(arguments[0])
    stages = _Stages()
    stages.time("import_ms", _import_runtime)
    from runtime.errors import LiteInferError

    try:
        facts, counts = _measure(spec, stages)
    except LiteInferError as error:
        print(error, file=sys.stderr)
        return 1
    found = {"facts": facts, "counts": counts, "stages": stages.samples}
    Path(spec["result"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


def _import_runtime() -> None:
    import runtime  # noqa: F401 - its cost is what is measured


def _measure(spec: dict[str, Any], stages: _Stages) -> tuple[dict[str, Any], dict[str, float]]:
    import runtime

    session = stages.time(
        "open_ms",
        lambda: runtime.Session(
            spec["bundle"],
            backend=spec["backend"],
            precision=spec["precision"],
            threads=spec["threads"],
            cache=False,
        ),
    )
    with session:
        kind = _kind(spec["case"])
        stages.time("compile_ms", lambda: session.warm_up(kind))
        stages.add("start_ms", stages.samples["open_ms"][0] + stages.samples["compile_ms"][0])
        counts = {} if spec["case"] is None else _measure_case(spec, session, stages)
        return _facts(session), counts


def _kind(case: dict[str, Any] | None) -> Literal["image", "volume"]:
    """What a case segments, as far as its boxes tell."""
    from runtime.prompt_text import parse_box

    return "volume" if case is not None and parse_box(case["second_box"]).is_3d else "image"


def _measure_case(spec: dict[str, Any], session: runtime.Session, stages: _Stages) -> dict[str, float]:
    import runtime
    from runtime.prompt_text import parse_box

    case = spec["case"]
    volume = stages.time("read_ms", lambda: runtime.load(case["path"], volume=case["volume"]))
    prompts = [parse_box(text) for text in case["boxes"]] or list(volume.prompts)
    second = [parse_box(case["second_box"])]
    told = {"modality": spec["modality"]}
    result = stages.time("first_propagate_ms", lambda: session.segment(volume, prompts=prompts, **told))
    stages.time("write_ms", lambda: result.save(case["output"]))
    _keep_logits(session, volume, prompts[0], spec)
    until = time.perf_counter() + spec["repeat_seconds"]
    for repeat in range(_REPEATS):
        if repeat and time.perf_counter() > until:
            break
        session.cache.clear()
        timings = session.segment(volume, prompts=prompts, **told).timings
        _add_segment(timings, stages)
        stages.time("stored_propagate_ms", lambda: session.segment(volume, prompts=prompts, **told))
        other = stages.time("second_box_ms", lambda: session.segment(volume, prompts=second, **told)).timings
    counts = {name: timings[name] for name in ("slices_encoded", "prompts_decoded")}
    return {**counts, "second_prompts_decoded": other["prompts_decoded"]}


def _keep_logits(session: runtime.Session, volume: runtime.Volume, box: runtime.Box, spec: dict[str, Any]) -> None:
    """Write the logits of one box on its middle slice, with which precisions are compared."""
    import numpy as np

    numbers, half = box.xyxy, len(box.xyxy) // 2
    middle = int(numbers[2] + numbers[5]) // 2 if half == 3 else box.slice_index
    k = 0 if volume.is_2d else volume.array.shape[2] // 2 if middle is None else middle
    plane = np.ascontiguousarray(volume.array[:, :, k].swapaxes(0, 1))  # (i, j) -> (row, column)
    embedding = session.encode(plane, modality=spec["expert"])
    corners = [*numbers[:2], *numbers[half : half + 2]]
    logits = session.decode(embedding, boxes=[corners], modality=spec["modality"]).low_res_logits
    np.save(spec["case"]["logits"], logits)


def _add_segment(timings: dict[str, float], stages: _Stages) -> None:
    """The parts of one `Session.segment`; what no part claims is the loop and the label map."""
    parts = ("window_ms", "encode_ms", "decode_ms")
    for name in parts:
        stages.add(name, timings[name])
    if timings["slices_encoded"]:
        stages.add("encode_per_slice_ms", timings["encode_ms"] / timings["slices_encoded"])
    if timings["prompts_decoded"]:
        stages.add("decode_per_box_ms", timings["decode_ms"] / timings["prompts_decoded"])
    stages.add("propagate_ms", timings["total_ms"])
    stages.add("rest_ms", timings["total_ms"] - sum(timings[name] for name in parts))


def _facts(session: runtime.Session) -> dict[str, Any]:
    manifest = session.manifest
    listing = "".join(f"{path} {manifest.files[path].sha256}\n" for path in sorted(manifest.files))
    return {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "backend": session.backend,
        "precision": session.precision,
        "threads": session.threads,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
