"""Masks of a labelled folder, and their Dice to the truth: ``python -m perf.labelled_worker SPEC``.

Knows the public face of `runtime`, `perf.labelled` and a clock. SPEC is JSON: ``folder``; ``result``, the file that is
written; and either ``baselines``: true, or ``bundle``, ``modality``, ``expert``, ``backend``, ``precision``,
``threads`` and ``masks``, the NPZ file that the masks are packed into, one array for each slice.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtime
from perf.baselines import BASELINES
from perf.labelled import dice, read_labelled
from runtime.errors import LiteInferError

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Measure as the specification says; the exit code is 1 where lite-infer refuses."""
    spec: dict[str, Any] = json.loads(arguments[0])
    try:
        found = _baselines(spec) if spec.get("baselines") else _bundle(spec)
    except LiteInferError as error:
        print(error, file=sys.stderr)
        return 1
    Path(spec["result"]).write_text(json.dumps(found), encoding="utf-8")
    return 0


def _bundle(spec: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, NDArray[np.uint8]] = {}
    values: list[float] = []
    encode_s, decode_s = 0.0, 0.0
    names = ("backend", "precision", "threads")
    with runtime.Session(spec["bundle"], cache=False, **{name: spec[name] for name in names}) as session:
        session.warm_up()
        for one in read_labelled(Path(spec["folder"])):
            begun = time.perf_counter()
            embedding = session.encode(one.image, modality=spec["expert"])
            middle = time.perf_counter()
            masks = session.decode(embedding, boxes=one.boxes, modality=spec["modality"]).masks
            encode_s, decode_s = encode_s + middle - begun, decode_s + time.perf_counter() - middle
            kept[one.name] = np.packbits(masks.reshape(len(masks), -1), axis=1)
            values += [dice(mask, truth) for mask, truth in zip(masks, one.masks, strict=True)]
    np.savez_compressed(spec["masks"], **kept)  # type: ignore[arg-type] # its stub takes them for its options
    per_object = 1e3 / max(1, len(values))
    times = {"encode_ms": encode_s * 1e3 / max(1, len(kept)), "decode_ms": decode_s * per_object}
    return {"slices": len(kept), "objects": len(values), "dice": float(np.mean(values)), **times}


def _baselines(spec: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, list[float]] = {name: [] for name in BASELINES}
    seconds = dict.fromkeys(BASELINES, 0.0)
    for one in read_labelled(Path(spec["folder"])):
        for box, truth in zip(one.boxes, one.masks, strict=True):
            x0, y0, x1, y1 = (int(value) for value in box)
            for name, make in BASELINES.items():
                begun = time.perf_counter()
                mask = make(one.image, (x0, y0, x1, y1))
                seconds[name] += time.perf_counter() - begun
                values[name].append(dice(mask, truth))
    return {
        name: {"dice": float(np.mean(each)), "ms": seconds[name] * 1e3 / max(1, len(each))}
        for name, each in values.items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
