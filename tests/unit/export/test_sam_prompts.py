"""SAM's decoder with all its prompts: points, an optional box, earlier logits, four masks; a tiny ViT, random weights.

What it computes is compared with the modules put together prompt by prompt, as the paper describes them: no token is
hidden there, because there is none too many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import ENGINES, skip_without
from msgspec.structs import replace as change

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from tiny_family import randomised, saved  # noqa: E402

import export._merge_predictors  # noqa: E402
import export.convert  # noqa: E402
import runtime  # noqa: E402
from export._merge_predictors import builder_of  # noqa: E402
from export.convert import convert  # noqa: E402
from export.families import Family, load_family  # noqa: E402
from export.families._sam import Sam  # noqa: E402
from export.families._sam_graphs import PromptDecoder, prompt_graphs  # noqa: E402
from export.families._vit import VitSize, vit_sam  # noqa: E402
from export.load import read_checkpoint  # noqa: E402
from runtime.errors import PromptError  # noqa: E402
from runtime.manifest import EmbeddingTensor, MaskPrompt  # noqa: E402
from runtime.transforms import frame_of  # noqa: E402

TINY = VitSize(image=64, patch=16, width=32, depth=1, heads=2, window=3, global_blocks=(0,), outputs=16)
SIDE, WIDTH, GRID = 64, 16, 4
LOW = 4 * GRID
NONE = [[float("nan")] * 4]


@pytest.fixture(scope="module")
def model() -> Sam:
    return randomised(vit_sam(TINY), seed=4)


@pytest.fixture(scope="module")
def embedding() -> Any:
    return torch.randn(1, WIDTH, GRID, GRID, generator=torch.Generator().manual_seed(5))


def as_published(model: Sam, embedding, box=None, points=None, labels=None, mask=None):
    """Masks (4, h, w) and scores (4,) of one prompt, in the order of the checkpoint."""
    encoder, decoder = model.prompt_encoder, model.mask_decoder
    parts = []
    if points is not None:
        parts.append(encoder.points(torch.tensor([points]), torch.tensor([labels])))
        if box is None:
            parts.append(encoder.not_a_point_embed.weight[None])
    if box is not None:
        parts.append(encoder.boxes(torch.tensor([box])))
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None]
    dense = encoder.no_mask() if mask is None else encoder.masks(mask)
    pixels = (embedding + dense).flatten(2).transpose(1, 2)
    tokens, pixels = decoder.transformer(torch.cat([own, *parts], dim=1), pixels, encoder.grid())
    maps = decoder.output_upscaling(pixels.transpose(1, 2).reshape(1, WIDTH, GRID, GRID))[0]
    weights = [mlp(tokens[0, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    logits = torch.stack([(row[:, None, None] * maps).sum(0) for row in weights])
    return logits, decoder.iou_prediction_head(tokens[0, 0])


def best_first(logits, scores, *, clear: bool):
    """SAM's one answer to a clear prompt, else its three to an unclear one, sorted; the others after them."""
    rest = (1 + torch.argsort(scores[1:], descending=True)).tolist()
    order = [0, *rest] if clear else [*rest, 0]
    return logits[order], scores[order]


MASK = torch.linspace(-4, 4, LOW * LOW).reshape(1, 1, LOW, LOW)
PROMPTS: dict[str, tuple[dict[str, Any], bool]] = {
    "a box": ({"box": [3.0, 7.0, 40.0, 60.0]}, True),
    "a click": ({"points": [[20.0, 33.0]], "labels": [1.0]}, False),
    "two clicks": ({"points": [[20.0, 33.0], [50.0, 5.0]], "labels": [1.0, 0.0]}, True),
    "a box and a click": ({"box": [3.0, 7.0, 40.0, 60.0], "points": [[20.0, 33.0]], "labels": [0.0]}, True),
    "a click on an earlier answer": ({"points": [[20.0, 33.0]], "labels": [1.0], "mask": MASK}, True),
    "an earlier answer": ({"mask": MASK}, True),
}


def row(box=None, points=(), labels=(), mask=None) -> list[Any]:
    """The decoder's inputs for one prompt, its points padded to three."""
    padding = 3 - len(points)
    return [
        torch.tensor(NONE if box is None else [box]),
        torch.tensor([[*points, *[[9.0, 9.0]] * padding]]),
        torch.tensor([[*labels, *[-1.0] * padding]]),
        torch.zeros(1, 1, LOW, LOW) if mask is None else mask,
        torch.tensor([0.0 if mask is None else 1.0]),
    ]


@pytest.mark.parametrize("name", PROMPTS)
def test_each_kind_of_prompt_is_decoded_as_published_and_padding_does_not_matter(
    model: Sam, embedding: Any, name: str
) -> None:
    prompt, clear = PROMPTS[name]
    wanted, scores = best_first(*as_published(model, embedding, **prompt), clear=clear)
    found, found_scores = PromptDecoder(model)(embedding, *row(**prompt))
    assert found.shape == (1, 4, LOW, LOW)
    torch.testing.assert_close(found_scores[0], scores, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0], wanted, atol=1e-5, rtol=1e-5)


def test_prompts_of_all_kinds_in_one_call_give_what_each_gives_alone(model: Sam, embedding: Any) -> None:
    rows = [row(**prompt) for prompt, _ in PROMPTS.values()]
    together = PromptDecoder(model)(embedding, *map(torch.cat, zip(*rows, strict=True)))
    alone = [PromptDecoder(model)(embedding, *one) for one in rows]
    for index, result in enumerate(together):
        torch.testing.assert_close(result, torch.cat([one[index] for one in alone]), atol=1e-5, rtol=1e-5)


def tiny_sam() -> Family:
    """SAM's published facts at 64 pixels."""
    family = load_family("sam_vit_b")
    facts = family.facts
    facts = replace(
        facts,
        input=change(facts.input, size=(SIDE, SIDE)),
        embedding=(EmbeddingTensor(name="image_embedding", shape=(1, WIDTH, GRID, GRID)),),
        prompts=change(facts.prompts, mask=MaskPrompt(kind="logits", size=(LOW, LOW))),
        output=change(facts.output, low_res_size=(LOW, LOW)),
    )
    graphs = partial(prompt_graphs, input_size=(SIDE, SIDE))
    return replace(family, facts=facts, build=partial(vit_sam, TINY), graphs=graphs)


@pytest.fixture(scope="module")
def bundle(model: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam")
    checkpoint = saved(model.state_dict(), folder / "sam.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.convert, "load_families", lambda: (tiny_sam(),))
        return convert(checkpoint, folder / "bundle")


@pytest.fixture(scope="module", params=ENGINES)
def session(bundle: Path, request: pytest.FixtureRequest) -> Iterator[runtime.Session]:
    skip_without(request.param)
    with runtime.Session(bundle, backend=request.param, precision="fp32", cache=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def encoded(session: runtime.Session) -> runtime.Embedding:
    return session.encode(IMAGE)


IMAGE = np.random.default_rng(6).integers(0, 256, (48, 96, 3), dtype=np.uint8)
BOX = [10.0, 8.0, 60.0, 40.0]
CLICKS = [[30.0, 20.0], [80.0, 44.0]]
ASKED: dict[str, tuple[dict[str, Any], bool]] = {
    "a box": ({"boxes": [BOX]}, True),
    "a click": ({"points": [CLICKS[:1]], "point_labels": [[1]]}, False),
    "a padded click": ({"points": [CLICKS], "point_labels": [[1, -1]]}, False),
    "two clicks": ({"points": [CLICKS], "point_labels": [[1, 0]]}, True),
    "a box and clicks": ({"boxes": [BOX], "points": [CLICKS], "point_labels": [[1, 0]]}, True),
    "a click on an earlier answer": ({"points": [CLICKS[:1]], "point_labels": [[1]], "masks": MASK.numpy()}, True),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_session_decodes_each_kind_of_prompt_as_published_on_both_engines(
    model: Sam, session: runtime.Session, encoded: runtime.Embedding, name: str
) -> None:
    asked, clear = ASKED[name]
    frame = frame_of(session.manifest, encoded.original_size)
    prompt: dict[str, Any] = {}
    if "boxes" in asked:
        prompt["box"] = frame.boxes_to_input(np.array(asked["boxes"]))[0].tolist()
    if "points" in asked:
        labels = np.array(asked["point_labels"][0])
        prompt["points"] = frame.points_to_input(np.array(asked["points"]))[0][labels >= 0].tolist()
        prompt["labels"] = [float(label) for label in labels if label >= 0]
    if "masks" in asked:
        prompt["mask"] = torch.from_numpy(asked["masks"])
    tensor = torch.from_numpy(np.array(encoded.tensors["image_embedding"]))
    logits, scores = best_first(*as_published(model, tensor, **prompt), clear=clear)
    found = session.decode(encoded, **asked)
    np.testing.assert_allclose(found.low_res_logits[0], logits[0], atol=1e-4)
    np.testing.assert_allclose(found.candidate_scores[0], scores, atol=1e-4)
    assert found.candidates.shape == (1, 4, 48, 96)
    np.testing.assert_array_equal(found.candidates[:, 0], found.masks)
    again = session.decode(encoded, **asked, **({} if "masks" in asked else {"masks": found.low_res_logits}))
    assert ("masks" in asked) == np.array_equal(again.low_res_logits, found.low_res_logits)


def test_a_search_for_a_merge_segments_with_boxes_as_the_session_does(
    model: Sam, session: runtime.Session, encoded: runtime.Embedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export._merge_predictors, "load_families", lambda: (tiny_sam(),))
    checkpoint = read_checkpoint(saved(model.state_dict(), tmp_path / "sam.pth"))
    _, build = builder_of(checkpoint, checkpoint.state_dicts[0], None)
    predictor = build(checkpoint.state_dicts[0].tensors)
    boxes = np.array([BOX, [0.0, 0, 95, 47]])
    found, wanted = predictor.decode(predictor.encode(IMAGE), boxes), session.decode(encoded, boxes=boxes)
    np.testing.assert_allclose(found.low_res_logits, wanted.low_res_logits, atol=1e-4)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def test_the_graphs_hold_nothing_that_could_be_folded(bundle: Path) -> None:
    import onnx

    for name in ("encoder.onnx", "decoder.onnx"):
        graph = onnx.load(bundle / name).graph
        constants = {one.name for one in graph.initializer}
        assert [node.name for node in graph.node if node.input and set(node.input) <= constants] == []


def test_a_click_alone_is_followed_through_a_volume(session: runtime.Session) -> None:
    volume = np.random.default_rng(7).integers(0, 256, (40, 50, 5)).astype(np.float32)
    result = session.segment(volume, points=[runtime.Point((20, 25, 2))])
    assert result.label_map.shape == volume.shape
    assert 2 in {part.slice_index for part in result.objects[0].slices}


def test_what_the_bundle_does_not_understand_is_refused_with_what_it_does(
    session: runtime.Session, encoded: runtime.Embedding
) -> None:
    with pytest.raises(PromptError, match="understands box, points, mask, scribble"):
        session.decode(encoded)
    with pytest.raises(PromptError, match="takes no modality"):
        session.decode(encoded, boxes=[BOX], modality="CT")
    with pytest.raises(PromptError, match=r"wanted \(1, 1, 16, 16\), earlier low_res_logits"):
        session.decode(encoded, masks=np.zeros((1, 1, 8, 8)))
