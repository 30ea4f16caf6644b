"""Trainable weights from the graphs of a bundle: where a checkpoint is no longer at hand, or somebody else made it.

The graphs have each normalisation folded into the convolution before it, and weights in 16 bits. Here every filter has
length one and what it had becomes the normalisation's scale; the statistics are those of one that does nothing. A run
that starts from these weights counts real ones around the same answers (``keep_answers``), which brings scales back to
the size that an optimiser is used to.

Knows the network, its graphs' names and ONNX. Must not know training.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor

from export.pretrain.config import ModelConfig
from export.pretrain.model import Block, ConvBnRelu, Network
from runtime.errors import CheckpointError

__all__ = ["read_bundle_weights"]

_HALF = "_half"  # what the writer of 16-bit weights adds to a name


def read_bundle_weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """State of a network of this shape that answers as the bundle's float graphs do.

    Parameters
    ----------
    folder : Path
        Bundle with ``encoder.onnx`` and ``decoder.onnx``.
    config : ModelConfig
        Shape of the network that the bundle was exported from.

    Raises
    ------
    CheckpointError
        If a graph is missing or holds other weights than the network needs.
    """
    stored = _constants(folder / "encoder.onnx") | _constants(folder / "decoder.onnx")
    network = Network(config)
    state = network.state_dict()
    for name, module in network.named_modules():
        if not isinstance(module, ConvBnRelu | Block):
            continue
        weight, bias = stored.pop(f"{name}.conv.weight", None), stored.pop(f"{name}.conv.bias", None)
        if weight is None or bias is None:
            continue  # reported below with all others
        if isinstance(module, Block):  # without the skip that folding has put on the centre tap
            diagonal = torch.arange(len(weight))
            weight[diagonal, diagonal, 1, 1] -= 1
        scale = torch.sqrt((weight * weight).sum((1, 2, 3)).clamp(min=1e-8))
        stored |= {
            f"{name}.conv.weight": weight / scale[:, None, None, None],
            f"{name}.norm.weight": scale,
            f"{name}.norm.bias": bias,
            f"{name}.norm.running_mean": torch.zeros_like(bias),
            f"{name}.norm.running_var": torch.full_like(bias, 1 - module.norm.eps),
            f"{name}.norm.num_batches_tracked": state[f"{name}.norm.num_batches_tracked"],
        }
    wrong = [name for name, own in state.items() if name not in stored or stored[name].shape != own.shape]
    if wrong:
        msg = (
            f"{folder}: its graphs do not hold the weights of this network; missing or of another shape: "
            f"{', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}; use the configuration it was trained with"
        )
        raise CheckpointError(msg)
    return {name: stored[name] for name in state}


def _constants(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        msg = f"{path}: no such graph; give a bundle of this family, or a checkpoint"
        raise CheckpointError(msg)
    graph = onnx.load(path).graph
    return {
        constant.name.removesuffix(_HALF): torch.from_numpy(onnx.numpy_helper.to_array(constant).copy()).float()
        for constant in graph.initializer
    }
