"""One torch module -> one ONNX file, and optionally OpenVINO IR; the weights in float32 or float16.

Knows torch's exporter and the two graph formats. Must not know families, checkpoints or bundles.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export._onnx_weights import rewrite, store_half
from runtime.errors import BackendUnavailable

if TYPE_CHECKING:
    from export.families import Graph

__all__ = ["OPSET", "write_onnx", "write_openvino"]

OPSET = 18
"""Version of the ONNX operators; the one that torch's exporter writes without converting."""

_FOLD_BYTES = 1 << 28


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from telling users about its own deprecations, torchvision and what it did not fold."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_onnx(graph: Graph, path: Path, *, half_weights: bool = False) -> None:
    """Export a graph to one self-contained ONNX file; what does not depend on the input is computed now.

    With `half_weights` large weights are stored in float16 and widened by a cast, which the engines fold when they load
    the file; inputs, outputs and arithmetic stay float32.
    """
    import torch
    from onnxscript import optimizer

    module = graph.module.eval()
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module,
            tuple(graph.inputs.values()),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamic_shapes=_free_axes(graph),
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # only the exporter without dynamo returns None
        optimizer.optimize_ir(program.model, input_size_limit=_FOLD_BYTES, output_size_limit=_FOLD_BYTES)
        _drop_exporter_notes(program.model)
        program.save(path, external_data=False)
    if half_weights:
        rewrite(path, store_half)


def _free_axes(graph: Graph) -> tuple[dict[int, Any] | None, ...]:
    """Axes of each input whose length is free at run time, as torch's exporter wants them."""
    from torch.export import Dim

    free = (Dim("prompts", min=1), graph.per_prompt), (Dim("points", min=1), graph.per_point)
    own = {name: {0: Dim(name, min=1)} for name in graph.own_length}
    return tuple(
        own.get(name) or {axis: size for axis, (size, names) in enumerate(free) if name in names} or None
        for name in graph.inputs
    )


def _drop_exporter_notes(model: Any) -> None:
    """Leave out what the exporter notes on every node: stack traces with paths of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def write_openvino(onnx_path: Path, path: Path) -> None:
    """Convert an ONNX file to OpenVINO IR: `path` (``.xml``) and the ``.bin`` beside it, weights as they are."""
    try:
        import openvino
    except ImportError as error:
        msg = f"OpenVINO IR needs openvino, which does not load ({error}); install it with 'pip install openvino'"
        raise BackendUnavailable(msg) from error
    with _quiet():
        model = openvino.Core().read_model(onnx_path)
        openvino.save_model(model, path, compress_to_fp16=False)
