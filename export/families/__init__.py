"""The published systems that convert: one module each, found by name.

A family is data: where it was published, which manifest facts it has, and three functions (its torch model, the
graphs made of it, nothing else). Importing this package loads neither torch nor a family; `load_family` does. Must
not know files, checkpoints or ONNX.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.errors import CheckpointError
from runtime.manifest import EmbeddingTensor, Input, Licence, Output, Prompts, Propagation

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FAMILIES", "KEEP_FLOAT", "Extra", "Facts", "Family", "Graph", "layout_of", "load_families", "load_family"]

FAMILIES = (
    "lite_medsam",
    "medsam",
    "sam_vit_b",
    "medficientsam_l0",
    "medficientsam_l1",
    "medficientsam_l2",
    "daft",
    "rep_medsam",
    "swin_litemedsam",
    "mcp_medsam",
    "esp_medsam",
    "imedsam",
)
"""Names of all families; each is a module of this package with a constant `FAMILY`."""


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle: a module, example inputs by name, and the names of what it gives.

    The first axis of the inputs and outputs named in `per_prompt` is the number of prompts, free at run time; so is
    the second axis of the inputs named in `per_point`, the number of points of each prompt. The first axis of each
    input named in `own_length` is free by itself.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    per_prompt: frozenset[str] = frozenset()
    per_point: frozenset[str] = frozenset()
    own_length: frozenset[str] = frozenset()


KEEP_FLOAT = ("*iou_prediction_head*", "*output_hypernetworks_mlps*")
"""Heads of SAM's mask decoder: they work on a handful of tokens, so that INT8 costs accuracy and saves nothing."""


@dataclass(frozen=True)
class Facts:
    """What the runtime must know of a system, sections 4 to 7 and 9 of the bundle format, and what stays out of INT8.

    `keep_float` has shell patterns of weight names: layers that INT8 graphs compute in float, beside those that
    `export.quantize` leaves out everywhere (docs/adr/0008).
    """

    input: Input
    embedding: tuple[EmbeddingTensor, ...]
    prompts: Prompts
    output: Output
    propagation: Propagation
    modalities: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = KEEP_FLOAT


@dataclass(frozen=True)
class Extra:
    """A second file of weights that a system is converted with.

    `build` makes its torch module, with the parameter names of the published file, for the names and shapes that a
    file holds; what else is in the file is left alone. `facts` are those of a bundle made with it, where they differ
    from the family's. Without a file that is not `required` the bundle does `without` it, in words.
    """

    title: str
    weights: str
    licence: Licence
    build: Callable[[Mapping[str, tuple[int, ...]]], nn.Module]
    facts: Facts | None = None
    without: str = ""

    @property
    def required(self) -> bool:
        """Whether there is no bundle without it."""
        return not self.without


@dataclass(frozen=True)
class Family:
    """A published system.

    `build` makes the torch model with the parameter names of the published checkpoint; `graphs` turns a loaded model,
    and the module of the `extra` file where one is given, into the graphs of a bundle, `encoder` and `decoder` among
    them. `gflops` counts the published encoder, and its decoder for one prompt, two operations a multiplication.
    """

    name: str
    title: str
    paper: str
    repository: str
    revision: str
    licence: Licence
    weights: str
    gflops: tuple[float, float]
    facts: Facts
    build: Callable[[], nn.Module]
    graphs: Callable[..., Mapping[str, Graph]]
    extra: Extra | None = None

    def layout(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every entry of the published state dict, counters of batch normalisation left out."""
        import torch

        with torch.device("meta"):
            return layout_of(self.build())


COUNTER = "num_batches_tracked"
"""Last part of the state dict entries that inference does not need."""


def layout_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every entry of a module's state dict, counters of batch normalisation left out."""
    entries = module.state_dict()
    return {name: tuple(entry.shape) for name, entry in entries.items() if not name.endswith(COUNTER)}


def load_family(name: str) -> Family:
    """Import a family by name; CheckpointError lists the names there are."""
    if name not in FAMILIES:
        msg = f"family {name!r} is unknown; wanted one of {', '.join(FAMILIES)}"
        raise CheckpointError(msg)
    family: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return family


def load_families() -> tuple[Family, ...]:
    """Import all families."""
    return tuple(load_family(name) for name in FAMILIES)
