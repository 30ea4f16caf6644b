"""Training checkpoint -> bundle folder: graphs, model card, manifest.

Knows the manifest's schema and this model's facts. Must not know how the model was trained or evaluated beyond the
figures that it is handed.
"""

from __future__ import annotations

from pathlib import Path

from export.pretrain.card import PROTOCOLS, Facts, write_card
from export.pretrain.checkpoint import read_checkpoint
from export.pretrain.config import BOX_SIDES, ModelConfig, load_config
from export.pretrain.graphs import ENCODER_OUTPUTS, OPSET, write_graphs
from export.pretrain.model import Network
from runtime._digest import sha256_of
from runtime._version import __version__
from runtime.manifest import (
    FORMAT_VERSION,
    LAYOUT_REVISION,
    BoxPrompt,
    ChainSettings,
    Closer,
    EmbeddingTensor,
    FileRecord,
    GraphFiles,
    GraphSet,
    Input,
    Licence,
    Manifest,
    MaskPrompt,
    Metric,
    Normalise,
    Output,
    PointPrompt,
    Prompts,
    Propagation,
    Source,
    write_manifest,
)

__all__ = ["write_bundle"]

_NAME = "lite-infer-synthetic"
_VERSION = "1.0"
_TITLE = "lite-infer default model, trained on synthetic images"


def write_bundle(checkpoint: Path, folder: Path, facts: Facts | None = None) -> Path:
    """Write graphs, model card and manifest of a checkpoint's averaged weights; returns the manifest's path."""
    facts = facts or Facts()
    state = read_checkpoint(checkpoint)
    config = load_config(state["config"])
    network = Network(config.model)
    network.load_state_dict(state["ema"])
    folder.mkdir(parents=True, exist_ok=True)
    graphs = write_graphs(network, folder)
    card = folder / "MODEL_CARD.md"
    parameters = sum(weight.numel() for weight in network.parameters()) / 1e6
    card.write_text(write_card(_TITLE, parameters, facts), encoding="utf-8")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        layout_revision=LAYOUT_REVISION,
        name=_NAME,
        version=_VERSION,
        family="box-frame",
        title=_TITLE,
        licence=Licence(spdx="Apache-2.0"),
        source=Source(exporter=f"lite-infer {__version__}", checkpoint_sha256=sha256_of(checkpoint), opset=OPSET),
        input=_input(config.model),
        embedding=_embedding(config.model),
        prompts=Prompts(
            box=BoxPrompt(use="optional"),
            points=PointPrompt(box_sides=BOX_SIDES),
            mask=MaskPrompt(
                kind="logits",
                size=(config.model.input_size,) * 2,
                neighbour_flag=2,
                neighbour_tensors=("pixels",) if config.model.reference else (),
                empty_is_limit=config.limit_share > 0,
            ),
            closer=Closer(below=1 / 8, sides=(6.0, 8.0)),
        ),
        output=Output(low_res_size=(config.model.input_size,) * 2, candidates=config.model.candidates),
        graphs={"float": GraphSet.from_roles({role: GraphFiles(onnx=path.name) for role, path in graphs.items()})},
        propagation=Propagation(
            chain=ChainSettings(margin_px=1.0, mask_prompt=True, starts=3, min_score=0.3, other_planes=True)
        ),
        metrics=_metrics(facts),
        files={
            path.name: FileRecord(sha256=sha256_of(path), bytes=path.stat().st_size)
            for path in (*graphs.values(), card)
        },
    )
    return write_manifest(manifest, folder)


def _input(model: ModelConfig) -> Input:
    return Input(
        size=(model.input_size, model.input_size),
        resize="longest_side",
        interpolation="area_lanczos",
        normalise=Normalise(kind="min_max"),
        pad="bottom_right",
        coordinates="edges",
    )


def _embedding(model: ModelConfig) -> tuple[EmbeddingTensor, ...]:
    size = model.input_size
    levels = [
        EmbeddingTensor(name=name, shape=(1, channels, size // stride, size // stride), stored_dtype="float16")
        for name, channels, stride in zip(ENCODER_OUTPUTS[:3], model.embedding, (4, 8, 16), strict=True)
    ]
    pixels = EmbeddingTensor(name=ENCODER_OUTPUTS[3], shape=(1, 3, size, size), dtype="uint8", stored_dtype="uint8")
    return (*levels, pixels)


def _metrics(facts: Facts) -> tuple[Metric, ...]:
    """Mean Dice over cases of the protocols that matter to users."""
    found = (facts.summary or {}).get("protocols", {})
    return tuple(
        Metric(
            name="dice_" + key.replace("/", "_"),
            value=round(float(found[key]["mean"]), 4),
            dataset=facts.dataset,
            note=f"{note}; mean over {found[key]['cases']} cases",
        )
        for key, note in PROTOCOLS.items()
        if key in found
    )
