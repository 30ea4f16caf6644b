"""Decoders that are functions of position: any size, a few rows and columns at a time.

Follows ``docs/bundle-format.md``, section 7. Knows arrays and a graph as a callable; knows no bundle and no session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InferenceError, PromptError
from runtime.manifest import Manifest
from runtime.transforms import Frame
from runtime.types import whole

__all__ = ["MAX_POINTS", "evaluated", "size_to_evaluate"]

MAX_POINTS = 1 << 24
"""Largest map that is evaluated, in points: 4096 x 4096."""
_POINTS_AT_ONCE = 1 << 15
"""Points of one run of the graph, some tens of thousands of floats each."""

Arrays = Mapping[str, NDArray[Any]]


def size_to_evaluate(manifest: Manifest, frame: Frame, output_size: Any = None) -> tuple[int, int] | None:
    """Rows and columns at which a decoder is evaluated; None for one whose logits have a size of their own.

    Parameters
    ----------
    manifest : Manifest
        The bundle's facts.
    frame : Frame
        Of the image, whose size is the default.
    output_size : tuple of 2 int, optional
        What was asked for.

    Returns
    -------
    size : tuple of 2 int or None
        (rows, columns).

    Raises
    ------
    PromptError
        If a size is asked of a bundle that has its own, is no pair of whole numbers from 1, or has more than
        `MAX_POINTS` points.
    """
    if not manifest.output.implicit:
        if output_size is not None:
            rows, columns = manifest.output.low_res_size
            msg = f"output_size: the logits of bundle {manifest.name!r} are {rows} x {columns} always; leave it out"
            raise PromptError(msg)
        return None
    wanted = frame.original_size if output_size is None else output_size
    try:
        rows, columns = (whole(side, "output_size") for side in wanted)
    except (TypeError, ValueError) as error:  # PromptError is a ValueError
        msg = f"output_size {output_size!r}: wanted two whole numbers, rows and columns"
        raise PromptError(msg) from error
    if min(rows, columns) < 1 or rows * columns > MAX_POINTS:
        what = "image of" if output_size is None else "output_size"
        limits = f"wanted at least 1 x 1 and at most {MAX_POINTS} points"
        msg = f"{what} {rows} x {columns}: {limits}; give a smaller output_size, or a smaller image"
        raise PromptError(msg)
    return rows, columns


def evaluated(
    run: Callable[[dict[str, NDArray[Any]]], Mapping[str, NDArray[Any]]],
    inputs: Arrays,
    prompts: Arrays,
    size: tuple[int, int],
) -> dict[str, NDArray[Any]]:
    """Run a decoder on every part of a map and put the parts together.

    Parameters
    ----------
    run : callable
        The graph: inputs by name to outputs by name.
    inputs : mapping of str to ndarray
        What all prompts share.
    prompts : mapping of str to ndarray
        Arrays with a row for each of N prompts; each prompt is evaluated on its own, so that memory does not grow.
    size : tuple of 2 int
        (rows, columns) of the map.

    Returns
    -------
    outputs : dict of str to ndarray
        ``low_res_logits`` (N, C, rows, columns), and other outputs as the graph gave them for the first part.

    Raises
    ------
    InferenceError
        If the graph's logits have another shape than the part that was asked for.
    """
    wide = min(size[1], _POINTS_AT_ONCE)
    high = max(1, _POINTS_AT_ONCE // wide)
    where = [
        (np.arange(top, min(top + high, size[0])), np.arange(left, min(left + wide, size[1])))
        for top in range(0, size[0], high)
        for left in range(0, size[1], wide)
    ]
    outputs: dict[str, list[NDArray[Any]]] = {}
    for index in range(max((len(array) for array in prompts.values()), default=1)):
        own = {name: array[index : index + 1] for name, array in prompts.items()}
        logits: NDArray[np.float32] | None = None
        for rows, columns in where:
            place = {"output_size": np.array(size, np.int64), "rows": rows, "columns": columns}
            found = dict(run({**inputs, **own, **place}))
            part = found.pop("low_res_logits", None)
            if part is None or part.ndim != 4 or (len(part), *part.shape[2:]) != (1, len(rows), len(columns)):
                shape = "no such output" if part is None else part.shape
                msg = f"low_res_logits: found {shape}, wanted (1, C, {len(rows)}, {len(columns)}); convert again"
                raise InferenceError(msg)
            if logits is None:
                logits = np.empty((1, part.shape[1], *size), np.float32)
                for name, array in found.items():
                    outputs.setdefault(name, []).append(array)
            logits[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = part
        assert logits is not None  # a size has at least one part
        outputs.setdefault("low_res_logits", []).append(logits)
    return {name: np.concatenate(arrays) for name, arrays in outputs.items()}
