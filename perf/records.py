"""The layout of the JSON file, as frozen values.

Knows names, units and the version of the layout; measures nothing and formats nothing. ``perf/README.md`` is the
documentation of these fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "PERF_VERSION",
    "Agreement",
    "Answer",
    "BudgetFigures",
    "BundleFacts",
    "CaseFacts",
    "CaseFigures",
    "ConfigurationFigures",
    "GraphFigures",
    "LabelledFigures",
    "LayerFigures",
    "LogitsAgreement",
    "Machine",
    "Option",
    "ProcessFigures",
    "Report",
    "RooflineFigures",
    "Stat",
    "Status",
    "Stopped",
    "decode_report",
    "encode_report",
]

PERF_VERSION = 2

Status = Literal["ok", "partial", "failed", "not measured", "duplicate"]
Stopped = Literal["interrupted", "time limit"]
Option = str | int | float | bool | list[str | int] | None


class Stat(msgspec.Struct, frozen=True):
    """Samples of one quantity, in the order they were taken."""

    median: float
    min: float
    max: float
    n: int
    samples: tuple[float, ...]


class ProcessFigures(msgspec.Struct, frozen=True):
    """Fresh processes of one kind; what the platform does not tell is null."""

    wall_s: Stat
    cpu_s: Stat | None = None
    peak_rss_bytes: Stat | None = None


class Agreement(msgspec.Struct, frozen=True):
    """Dice of the label map with that of another configuration, over the objects."""

    reference: str
    dice_mean: float
    dice_min: float


class LogitsAgreement(msgspec.Struct, frozen=True):
    """Logits of a box on a slice beside another configuration's: differences over their standard deviation."""

    reference: str
    largest: float
    rms: float


class Answer(msgspec.Struct, frozen=True):
    """The label map that every run of a configuration on a case gave."""

    sha256: str
    voxels: dict[str, int]
    to_fp32: Agreement | None = None
    to_truth: Agreement | None = None
    logits: LogitsAgreement | None = None


class CaseFigures(msgspec.Struct, frozen=True):
    """One configuration on one case."""

    case: str
    status: Status
    error: str | None
    processes: dict[str, ProcessFigures]
    stages: dict[str, Stat]
    counts: dict[str, float]
    answer: Answer | None


class BundleFacts(msgspec.Struct, frozen=True):
    """Which bundle, beyond doubt."""

    name: str
    version: str
    sha256: str


class ConfigurationFigures(msgspec.Struct, frozen=True):
    """One bundle, backend (or what stands for it), precision, number of threads and limit of instructions."""

    name: str
    subject: str
    bundle: BundleFacts | None
    backend: str
    precision: str
    precision_used: str | None
    threads: int | None
    threads_used: int | None
    isa: str | None
    status: Status
    error: str | None
    same_as: str | None
    start: dict[str, dict[str, Stat]]
    cases: tuple[CaseFigures, ...]


class CaseFacts(msgspec.Struct, frozen=True):
    """What was segmented."""

    name: str
    title: str
    shape: tuple[int, ...]
    dtype: str
    prompts: int
    boxes: tuple[str, ...]
    sha256: str | None
    file_bytes: int


class BudgetFigures(msgspec.Struct, frozen=True):
    """A budget, and what was measured for it: ``value`` in ``unit``, null where nothing was.

    Where ``than`` names a case, ``limit`` is the share that was found on that one, null where nothing was.
    """

    subject: str
    configuration: str | None
    case: str
    quantity: str
    against: str
    limit: float | None
    unit: str
    value: float | None
    low: float | None
    high: float | None
    met: bool
    asked: bool = True
    than: str | None = None


class LayerFigures(msgspec.Struct, frozen=True):
    """All layers of one kind and precision in a graph; ``bound_ms`` is what the machine's peaks allow."""

    kind: str
    precision: str
    count: int
    ms: float
    gflop: float
    mbytes: float
    bound_ms: float


class GraphFigures(msgspec.Struct, frozen=True):
    """One graph of a configuration: its time, its cost, and its layers."""

    configuration: str
    graph: str
    ms: float
    gflop: float
    bound_ms: float
    layers: tuple[LayerFigures, ...]


class RooflineFigures(msgspec.Struct, frozen=True):
    """What this machine can do: 10^9 operations a second by precision, 10^9 bytes a second; and the graphs."""

    gflops: dict[str, float | None]
    bandwidth_gbs: float
    graphs: tuple[GraphFigures, ...]


class LabelledFigures(msgspec.Struct, frozen=True):
    """Masks of labelled images by one configuration, or by a baseline without a network (``ms`` an object)."""

    name: str
    objects: int | None
    dice: float
    to_fp32: Agreement | None
    ms: float


class Machine(msgspec.Struct, frozen=True):
    """The computer and its software; no name of it, its user or its folders."""

    cpu: str
    architecture: str
    isa: tuple[str, ...]
    physical_cores: int | None
    logical_cores: int
    usable_cores: int
    quota_cores: float | None
    memory_bytes: int | None
    system: str
    governor: str | None
    load_average: float | None
    openvino_capabilities: tuple[str, ...] | None
    environment: dict[str, str]
    python: str
    packages: dict[str, str]


class Report(msgspec.Struct, frozen=True):
    """Everything that one invocation measured."""

    perf_version: int
    lite_infer: str
    created: str
    seconds: float
    stopped: Stopped | None
    rounds: int
    options: dict[str, Option]
    machine: Machine
    floor: dict[str, ProcessFigures]
    cases: tuple[CaseFacts, ...]
    configurations: tuple[ConfigurationFigures, ...]
    budgets: tuple[BudgetFigures, ...] = ()
    roofline: RooflineFigures | None = None
    labelled: tuple[LabelledFigures, ...] = ()
    failures: tuple[str, ...] = ()


def encode_report(report: Report) -> str:
    """Make the text of the JSON file."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"


def decode_report(text: str) -> Report:
    """Read the text of a JSON file; msgspec.ValidationError where it is another layout."""
    return msgspec.json.decode(text, type=Report)
