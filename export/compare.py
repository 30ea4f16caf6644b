"""Do the graphs of a bundle compute what the torch model computes? Asked after every conversion.

Knows torch modules and the runtime's backends. Must not know goldens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends import BACKENDS, BackendOptions, open_backend
from runtime.bundle import open_bundle
from runtime.errors import BundleError

if TYPE_CHECKING:
    from export.families import Graph

__all__ = ["LIMITS", "compare_graphs"]

LIMITS = {"fp32": (1e-3, 2e-2), "fp16": (1e-2, 1e-1)}
"""Differences allowed over the root mean square of the output, by the precision of the weights: their own root mean
square, and the largest. A wrong graph is off everywhere, or far off somewhere; float32 may be off by more than 1e-3 in
single values where a model is as unstable as Rep-MedSAM with pseudo-weights."""


def compare_graphs(graphs: Mapping[str, Graph], folder: Path, precision: str) -> float:
    """Run every graph of a bundle on its example inputs, in each format it has, and compare with its torch module.

    Returns the largest difference over the output's root mean square. BundleError if it is beyond `LIMITS`.
    """
    import torch

    bundle = open_bundle(folder)
    files = bundle.manifest.graphs["float"]
    worst = 0.0
    for role, graph in graphs.items():
        names = files.extra[role] if role in files.extra else getattr(files, role)
        inputs = {name: value.numpy() for name, value in graph.inputs.items()}
        with torch.no_grad():
            given = graph.module(*graph.inputs.values())
        wanted = dict(zip(graph.outputs, given if isinstance(given, tuple) else (given,), strict=True))
        formats = {"openvino": names.openvino, "onnxruntime": names.onnx}
        for engine in (engine for engine in BACKENDS if formats[engine] is not None):
            backend = open_backend(engine, bundle, role, BackendOptions(precision="fp32"))
            found = backend.run(inputs)
            backend.close()
            for name, tensor in wanted.items():
                typical, largest = _differences(found[name], tensor.numpy())
                limits = LIMITS[precision]
                if not (typical <= limits[0] and largest <= limits[1]):
                    msg = (
                        f"the {role} graph's {name} differs from the torch model by {typical:.1e} of its root mean "
                        f"square under {engine}, in one place by {largest:.1e}; wanted at most {limits[0]:g} and "
                        f"{limits[1]:g}: report this as a bug"
                    )
                    raise BundleError(msg)
                worst = max(worst, largest)
    return worst


def _differences(found: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float]:
    """Root mean square of the difference and the largest one, over the root mean square of what was wanted."""
    difference, scale = np.abs(found - wanted), max(float(np.sqrt(np.square(wanted).mean())), 1e-6)
    return float(np.sqrt(np.square(difference).mean())) / scale, float(difference.max()) / scale
