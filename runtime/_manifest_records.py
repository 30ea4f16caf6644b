"""The records of ``manifest.json``: every field's name, type and bounds.

The normative text is ``docs/bundle-format.md``. Knows msgspec alone; `runtime.manifest` reads and writes the
records and gives them on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = [
    "MAX_SIDE",
    "BoxPrompt",
    "ChainSettings",
    "Closer",
    "Crop",
    "EmbeddingTensor",
    "FileRecord",
    "GraphFiles",
    "GraphSet",
    "Input",
    "Licence",
    "LoopSettings",
    "Manifest",
    "MaskPrompt",
    "Metric",
    "Name",
    "Normalise",
    "Output",
    "PointPrompt",
    "Prompts",
    "Propagation",
    "Source",
]

MAX_SIDE = 4096

Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Size = tuple[Side, Side]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
TensorName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Interpolation = Literal["area", "area_lanczos", "linear", "bilinear", "bilinear_antialias", "bicubic_antialias"]
CropInterpolation = Interpolation | Literal["bilinear_antialias_float"]
StoredDtype = Literal["float32", "float16", "uint8", "int8"]


class _Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every object in the manifest: immutable, unknown keys refused."""


class Normalise(_Record, frozen=True):
    """How resized uint8 pixels become the floats that the encoder reads."""

    kind: Literal["min_max", "mean_std", "scale"]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class Crop(_Record, frozen=True):
    """An extra decoder input cut from the original image at the box, directly or through a third graph."""

    name: TensorName
    size: Size
    interpolation: CropInterpolation
    normalise: Normalise
    far_edge: Literal["inclusive", "exclusive"] = "inclusive"
    graph: TensorName | None = None
    length: Annotated[int, Meta(ge=1, le=1 << 16)] | None = None


class Input(_Record, frozen=True):
    """From an image to the encoder's input tensor."""

    size: Size
    resize: Literal["longest_side", "stretch"]
    interpolation: Interpolation
    normalise: Normalise
    channels: Literal[1, 3] = 3
    pad: Literal["bottom_right", "none"] = "none"
    coordinates: Literal["exact", "resized", "edges"] = "exact"
    spectrum: TensorName | None = None


class EmbeddingTensor(_Record, frozen=True):
    """One output of the encoder, read by the decoder under the same name."""

    name: TensorName
    shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=1 << 20)], ...], Meta(min_length=1, max_length=5)]
    dtype: Literal["float32", "uint8"] = "float32"
    stored_dtype: StoredDtype = "float32"


class BoxPrompt(_Record, frozen=True):
    """How a box in image pixels becomes the decoder's ``boxes``."""

    use: Literal["required", "optional", "limits_mask"] = "required"
    rounding: Literal["none", "truncate"] = "none"


class PointPrompt(_Record, frozen=True):
    """Clicks: the decoder's ``points`` and ``point_labels``."""

    requires_box: bool = False
    derived: Literal["box_quarters"] | None = None
    box_sides: Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(max_length=8)] = ()


class MaskPrompt(_Record, frozen=True):
    """An earlier mask or a stroke: the decoder's ``masks`` (and ``has_mask``)."""

    kind: Literal["logits", "scribble"]
    size: Size
    derived: Literal["box_stroke"] | None = None
    neighbour_flag: Literal[1, 2] = 1
    neighbour_tensors: Annotated[tuple[TensorName, ...], Meta(max_length=8)] = ()
    empty_is_limit: bool = False


class Closer(_Record, frozen=True):
    """Small boxes of a single image are answered by the mean of looks at crops around them."""

    below: Annotated[float, Meta(gt=0, le=1)]
    sides: Annotated[tuple[Annotated[float, Meta(gt=1, le=64)], ...], Meta(min_length=1, max_length=8)]


class Prompts(_Record, frozen=True):
    """The prompts that the decoder understands; what is null is refused."""

    box: BoxPrompt | None = None
    points: PointPrompt | None = None
    mask: MaskPrompt | None = None
    modality: Literal["required", "optional"] | None = None
    crops: tuple[Crop, ...] = ()
    closer: Closer | None = None
    vectors: dict[TensorName, Annotated[int, Meta(ge=1, le=1 << 16)]] = {}

    @property
    def reads_boxes(self) -> bool:
        """Whether the decoder reads boxes."""
        return self.box is not None and self.box.use != "limits_mask"

    @property
    def sees_neighbours(self) -> bool:
        """Whether the decoder reads the embedding of the slice that a mask is from."""
        return self.mask is not None and bool(self.mask.neighbour_tensors)

    @property
    def finds_alone(self) -> bool:
        """Whether the decoder finds the object itself: it is given no place in the image."""
        return not self.reads_boxes and self.points is None and self.mask is None


class Output(_Record, frozen=True):
    """From the decoder's logits to masks at the image's size."""

    low_res_size: Size
    candidates: Annotated[int, Meta(ge=1, le=16)] = 1
    scores: bool = True
    order: Literal["score", "graph"] = "score"
    activation: Literal["none", "sigmoid"] = "none"
    upsample: Literal["direct", "via_input"] = "direct"
    threshold: float = 0.0
    inclusive: bool = False
    implicit: bool = False


class ChainSettings(_Record, frozen=True):
    """lite-infer's own propagation: the previous mask prompts the next slice."""

    margin_px: Annotated[float, Meta(ge=0, le=64)] = 2.0
    mask_prompt: bool = False
    min_score: Fraction = 0.5
    min_overlap: Fraction = 0.3
    max_area_ratio: Annotated[float, Meta(gt=1)] = 3.0
    starts: Annotated[int, Meta(ge=1, le=9)] = 1
    min_quality: Fraction = 0.45
    other_planes: bool = False


class LoopSettings(_Record, frozen=True):
    """The propagation that the system's authors published."""

    box_from: Literal["resized_label", "mask"]
    label_dtype: Literal["uint8", "uint16"] = "uint8"
    margin_px: Annotated[int, Meta(ge=0, le=64)] = 0
    crop_margin_px: Annotated[int, Meta(ge=0, le=64)] = 0
    last_slice: Literal["included", "excluded"] = "included"
    first_slice: Literal["included", "excluded"] = "included"
    fallback_down: Literal["rounded", "unrounded"] = "rounded"


class Propagation(_Record, frozen=True):
    """Defaults of 3-D propagation."""

    chain: ChainSettings = ChainSettings()
    published: LoopSettings | None = None


class FileRecord(_Record, frozen=True):
    """Size and digest of one file of the bundle."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    bytes: Annotated[int, Meta(ge=0, le=1 << 34)]


class GraphFiles(_Record, frozen=True):
    """One graph in the formats the bundle carries it in; paths relative to the bundle."""

    onnx: str | None = None
    openvino: str | None = None


class GraphSet(_Record, frozen=True):
    """The graphs of one precision."""

    encoder: GraphFiles
    decoder: GraphFiles
    one_box: GraphFiles | None = None
    extra: dict[TensorName, GraphFiles] = {}

    @property
    def by_role(self) -> dict[str, GraphFiles]:
        """Every graph there is by its role: ``encoder``, ``decoder``, ``one_box``, or an extra one's name."""
        own = {"encoder": self.encoder, "decoder": self.decoder}
        return {**self.extra, **own, **({} if self.one_box is None else {"one_box": self.one_box})}

    @staticmethod
    def from_roles(files: Mapping[str, GraphFiles]) -> GraphSet:
        """The set whose `by_role` that is."""
        left = dict(files)
        return GraphSet(left.pop("encoder"), left.pop("decoder"), left.pop("one_box", None), left)


class Licence(_Record, frozen=True):
    """Under which terms the weights may be used."""

    spdx: str
    url: str | None = None
    notice: str | None = None


class Source(_Record, frozen=True):
    """Where the weights come from and what converted them."""

    exporter: str
    repository: str | None = None
    revision: str | None = None
    paper: str | None = None
    checkpoint_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    extra_sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    opset: int | None = None


class Metric(_Record, frozen=True):
    """One measured figure."""

    name: str
    value: float
    dataset: str
    note: str | None = None


class Manifest(_Record, frozen=True, kw_only=True):
    """Everything the runtime needs to know of a bundle; fields as in ``docs/bundle-format.md``."""

    format_version: int
    layout_revision: int
    name: Name
    version: str
    family: str
    title: str
    licence: Licence
    source: Source
    input: Input
    embedding: Annotated[tuple[EmbeddingTensor, ...], Meta(min_length=1, max_length=16)]
    prompts: Prompts
    output: Output
    graphs: dict[Literal["float", "int8"], GraphSet]
    weights: Literal["fp32", "fp16", "int8"] = "fp32"
    int8_faster: dict[Literal["openvino", "onnxruntime"], tuple[Literal["vnni", "dotprod"], ...]] = {}
    int8_rest: Literal["fp32", "bf16"] = "fp32"
    propagation: Propagation = Propagation()
    modalities: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    files: dict[str, FileRecord]
