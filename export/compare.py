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

LIMITS = {"fp32": 1e-3, "fp16": 3e-2}
"""Largest difference allowed, over the root mean square of the output, by the precision of the weights."""


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
                difference = _difference(found[name], tensor.numpy())
                if not difference <= LIMITS[precision]:
                    msg = (
                        f"the {role} graph's {name} differs from the torch model by {difference:.1e} of its root "
                        f"mean square under {engine}; wanted at most {LIMITS[precision]:g}: report this as a bug"
                    )
                    raise BundleError(msg)
                worst = max(worst, difference)
    return worst


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest difference over the root mean square of what was wanted."""
    return float(np.abs(found - wanted).max() / max(float(np.sqrt(np.square(wanted).mean())), 1e-6))
