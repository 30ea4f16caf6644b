"""Training checkpoint -> bundle folder: graphs, model card, manifest.

Knows the manifest's schema and this model's facts. Must not know how the model was trained or evaluated beyond the
figures that it is handed.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from export.pretrain.checkpoint import read_checkpoint
from export.pretrain.config import BOX_SIDES, ModelConfig, load_config
from export.pretrain.graphs import ENCODER_OUTPUTS, OPSET, write_graphs
from export.pretrain.model import Network
from runtime._digest import sha256_of
from runtime.manifest import (
    FORMAT_VERSION,
    LAYOUT_REVISION,
    BoxPrompt,
    ChainSettings,
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

__all__ = ["BundleFacts", "write_bundle"]

_CARD = """# {title}

A convolutional encoder and a decoder that works in a window around the box, {parameters:.2f} million parameters,
trained on synthetic images and volumes that `export/pretrain` draws: no medical image and no published weight went
into it.

Give a box around the object; correct with clicks, together with the earlier answer. Clicks and strokes alone work,
less well. Several boxes of one object on different slices help most in a volume. The mask of a slice, and the slice
itself, prompt the next one. The model finds the boundary of what is in the box; it knows no anatomy. Rings (a box
cannot tell a wall from what it encloses: look at the other candidates), long thin structures, structures without
contrast in the window and long propagation are its weak spots. Check every mask: this is research software and not a
medical device.

What limits it: on drawn images accuracy rises with every doubling of their number, on real ones it has been flat since
about 18 thousand: 28 thousand and a network of 3.6 instead of 2.0 million parameters moved the tight box by less than
.005. The drawn images are too unlike the real ones; more training of this kind will not help.

{figures}
"""

_FIGURES = """Mean Dice, measured in float32. No image below trained the model, but the settings of the propagation and
the choice between training runs were made on them, so that expect somewhat less on other images:

"""


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle says about itself, and the evaluation it quotes (see ``evaluate``), if any."""

    name: str = "lite-infer-synthetic"
    version: str = "1.0"
    title: str = "lite-infer default model, trained on synthetic images"
    summary: dict[str, Any] | None = None
    dataset: str = "labelled development folder"


def write_bundle(checkpoint: Path, folder: Path, facts: BundleFacts | None = None) -> Path:
    """Write graphs, model card and manifest of a checkpoint's averaged weights; returns the manifest's path."""
    facts = facts or BundleFacts()
    state = read_checkpoint(checkpoint)
    config = load_config(state["config"])
    network = Network(config.model)
    network.load_state_dict(state["ema"])
    folder.mkdir(parents=True, exist_ok=True)
    encoder, decoder = write_graphs(network, folder)
    card = folder / "MODEL_CARD.md"
    metrics = _metrics(facts)
    lines = [f"* {metric.name} on {metric.dataset}: {metric.value:.3f} ({metric.note})" for metric in metrics]
    figures = _FIGURES + "\n".join(lines) + _tables(facts) if lines else "Not evaluated."
    parameters = sum(weight.numel() for weight in network.parameters()) / 1e6
    card.write_text(
        _CARD.format(title=facts.title, parameters=parameters, figures=figures).rstrip() + "\n",
        encoding="utf-8",
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        layout_revision=LAYOUT_REVISION,
        name=facts.name,
        version=facts.version,
        family="box-frame",
        title=facts.title,
        licence=Licence(spdx="Apache-2.0"),
        source=Source(exporter=f"lite-infer {_version()}", checkpoint_sha256=sha256_of(checkpoint), opset=OPSET),
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
            ),
        ),
        output=Output(low_res_size=(config.model.input_size,) * 2, candidates=config.model.candidates),
        graphs={"float": GraphSet(encoder=GraphFiles(onnx=encoder.name), decoder=GraphFiles(onnx=decoder.name))},
        propagation=Propagation(chain=ChainSettings(margin_px=1.0, mask_prompt=True, starts=3)),
        metrics=metrics,
        files={
            path.name: FileRecord(sha256=sha256_of(path), bytes=path.stat().st_size)
            for path in (encoder, decoder, card)
        },
    )
    return write_manifest(manifest, folder)


def _input(model: ModelConfig) -> Input:
    return Input(
        size=(model.input_size, model.input_size),
        resize="longest_side",
        interpolation="area",
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


def _metrics(facts: BundleFacts) -> tuple[Metric, ...]:
    """Mean Dice over cases of the protocols that matter to users."""
    wanted = {
        "box": "tight box on the largest slice",
        "jitter": "each side of that box moved by up to 3 px",
        "refined": "tight box, then the same box and its own answer",
        "click_1": "tight box, then one correction of its answer",
        "click_4": "tight box, then four corrections of its answers",
        "click_4_bare": "tight box and four corrections without the answers",
        "point": "one click and no box",
        "point_4": "four clicks and no box",
        "small/box": "tight box, objects of 20 to 99 px",
        "slice_range": "3-D: box on the largest slice, first and last slice given",
        "slice_only": "3-D: box on the largest slice alone",
        "box_3d": "3-D: box of six numbers",
        "three_boxes": "3-D: boxes on three slices, first and last slice given",
        "every_slice": "3-D: true box on every slice",
    }
    found = (facts.summary or {}).get("protocols", {})
    return tuple(
        Metric(
            name="dice_" + key.replace("/", "_"),
            value=round(float(found[key]["mean"]), 4),
            dataset=facts.dataset,
            note=f"{note}; mean over {found[key]['cases']} cases",
        )
        for key, note in wanted.items()
        if key in found
    )


def _tables(facts: BundleFacts) -> str:
    """Tight boxes by modality and by size, as Markdown."""
    summary = facts.summary or {}
    modalities, sizes = summary.get("box_by_modality", {}), summary.get("box_by_size", {})
    rows = [f"| {name} | {value:.3f} | |" for name, value in modalities.items()]
    rows += [
        f"| {name}, {row['objects']} objects | {row['box']:.3f} | {row['jitter']:.3f} |" for name, row in sizes.items()
    ]
    if not rows:
        return ""
    return "\n\n" + "\n".join(["| tight box | Dice | jittered |", "| --- | --- | --- |", *rows])


def _version() -> str:
    try:
        return version("lite-infer")
    except PackageNotFoundError:
        return "0.0.0"
