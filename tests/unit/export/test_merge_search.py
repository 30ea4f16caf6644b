"""The search of a merge: its space, its cases, that it finds what is there to find, resumes and tells the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("optuna", reason="the export extra is not installed")

import msgspec  # noqa: E402
from tiny_family import SIDE, decoded, family, random_model, saved  # noqa: E402

import export._merge_predictors  # noqa: E402
import export.merge_search  # noqa: E402
from export import cli  # noqa: E402
from export._merge_cases import read_parts, score_cases  # noqa: E402
from export._merge_groups import fits, layer_groups  # noqa: E402
from export._merge_predictors import builder_of  # noqa: E402
from export._merge_space import Space  # noqa: E402
from export.load import read_checkpoint  # noqa: E402
from export.merge import Group, MergeSettings, merge, read_settings  # noqa: E402
from export.merge_search import SearchOptions, search_merge  # noqa: E402
from export.pretrain.checkpoint import load_network, write_checkpoint  # noqa: E402
from export.pretrain.config import ModelConfig, TrainConfig  # noqa: E402
from export.pretrain.model import Network  # noqa: E402
from export.pretrain.predictors import Answer, frame_image  # noqa: E402
from runtime.errors import CheckpointError, PromptError  # noqa: E402

TINY = TrainConfig(
    model=ModelConfig(input_size=64, widths=(4, 4, 8, 8, 8), blocks=(0, 0, 0, 1, 0), embedding=(4, 8, 8))
)
TASKS = {"CT": 3, "MR": 3, "US": 1}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of 40 x 48 pixels, of three modalities, with an ellipse each."""
    folder = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(2)
    cases: dict[str, Any] = {}
    for task, count in TASKS.items():
        for number in range(count):
            name = f"{task}_{number}"
            y, x = np.mgrid[0:40, 0:48]
            centre, radii = random.uniform([16, 14], [30, 26]), random.uniform(6, 12, 2)
            label = (((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1).astype(np.uint8)
            rows, columns = np.nonzero(label)
            box = [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())]
            image = np.where(label > 0, 190, 30) + random.integers(0, 20, label.shape)
            cv2.imwrite(str(folder / f"{name}.png"), image.astype(np.uint8))
            cv2.imwrite(str(folder / f"{name}_label.png"), label)
            cases[name] = {
                "image": f"{name}.png",
                "label": f"{name}_label.png",
                "modality": task,
                "shape": [40, 48],
                "objects": [{"label": 1, "name": "a", "z": 0, "box2d": box}],
                "small_objects": [],
            }
    (folder / "prompts.json").write_text(json.dumps({"cases": cases}))
    return folder


# --- layer groups


def test_groups_divide_what_is_large_and_numbered_and_keep_the_rest_whole() -> None:
    sizes = {
        **{f"image_encoder.blocks.{n}.mlp.weight": 100 for n in range(11)},
        "image_encoder.pos_embed": 10,
        "image_encoder.neck.0.weight": 5,
        "image_encoder.neck.1.weight": 5,
        "mask_decoder.iou_token.weight": 1,
    }
    groups = layer_groups({name: torch.empty(size) for name, size in sizes.items()}, layers=4)
    assert list(groups) == [
        *(f"image_encoder.blocks.{run}" for run in ("0-3", "4-7", "8-10")),
        *("image_encoder.pos_embed", "image_encoder.neck", "mask_decoder.iou_token"),
    ]
    for group, names in groups.items():
        assert {name for name in sizes if fits(name, group)} == set(names)


def test_every_tensor_is_in_one_group_of_its_name() -> None:
    tensors = random_model().state_dict()
    groups = layer_groups(tensors, layers=1)
    for name in tensors:
        assert [group for group in groups if fits(name, group)] == [group for group in groups if name in groups[group]]
        assert sum(name in names for names in groups.values()) == 1


# --- the space


class Recorder:
    """Answers with the last choice and the highest number."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[-1]

    def suggest_float(self, name: str, low: float, high: float) -> float:
        return high


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"encoder.a.weight": torch.full((2, 2), value), "decoder.b.weight": torch.full((2,), value)}


@pytest.mark.parametrize(
    ("methods", "models"),
    [(("linear",), 1), (("slerp", "ties"), 1), (("ties",), 1), (("dare",), 1), (("linear", "ties"), 2)],
)
def test_a_search_starts_at_every_parent(methods: Any, models: int) -> None:
    space = Space(("encoder.a", "decoder.b"), methods, models)
    parents = [weights(float(number)) for number in range(1, models + 2)]
    for parent, choices in zip(parents, space.starts(), strict=False):
        found = merge(parents[0], parents[1:], space.known(choices))
        torch.testing.assert_close(found, parent)
    assert len(space.starts()) == len(parents) + len(methods)


def test_linear_weights_of_several_models_are_shares() -> None:
    settings = Space(("encoder",), ("linear",), 2).settings(Recorder())
    assert settings.groups == (Group(names="encoder", method="linear", weights=(1 / 3, 1 / 3)),)


def test_a_space_without_differences_or_with_an_arc_of_three_is_refused() -> None:
    with pytest.raises(PromptError, match="nothing to search"):
        Space((), ("linear",), 1)
    with pytest.raises(PromptError, match="slerp: 2 models"):
        Space(("a",), ("slerp",), 2)


# --- the cases


def test_cases_of_every_modality_are_held_out_and_single_ones_searched_on(labelled: Path) -> None:
    parts = read_parts(labelled, held_out=1 / 3, objects=4, seed=1)
    assert sorted(case.task for case in parts.search) == ["CT", "CT", "MR", "MR", "US"]
    assert sorted(case.task for case in parts.held_out) == ["CT", "MR"]
    assert {case.name for case in parts.search} & {case.name for case in parts.held_out} == set()
    assert read_parts(labelled, held_out=1 / 3, objects=4, seed=1).digest() == parts.digest()
    assert read_parts(labelled, held_out=1 / 3, objects=4, seed=2).digest() != parts.digest()


# --- the search


class Ellipse:
    """Finds an ellipse so much larger than the one in the box as the weights are off their best."""

    best = 0.3

    def __init__(self, merged: Mapping[str, torch.Tensor]) -> None:
        self.grown = (
            1
            + abs(float(merged["encoder.a.weight"][0, 0]) - self.best)
            + abs(float(merged["decoder.b.weight"][0]) - 2 * self.best)
        )

    def encode(self, image: NDArray[np.uint8]) -> tuple[int, ...]:
        return image.shape

    def decode(self, embedding: tuple[int, ...], boxes: NDArray[np.float64], *_: Any) -> Answer:
        y, x = np.mgrid[0 : embedding[0], 0 : embedding[1]]
        masks = [
            ((x - (x0 + x1) / 2) / (self.grown * (x1 - x0 + 1) / 2)) ** 2
            + ((y - (y0 + y1) / 2) / (self.grown * (y1 - y0 + 1) / 2)) ** 2
            <= 1
            for x0, y0, x1, y1 in boxes
        ]
        return Answer(np.stack(masks), np.zeros((len(boxes), 1, 1), np.float32), np.ones(len(boxes), np.float32))


@pytest.fixture
def parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Weights of 0 and of 1, of which an `Ellipse` is made."""
    monkeypatch.setattr(export.merge_search, "builder_of", lambda *_: ("ellipses", Ellipse))
    return saved(weights(0.0), tmp_path / "base.pth"), saved(weights(1.0), tmp_path / "model.pth")


def search(parents: tuple[Path, Path], output: Path, labelled: Path, **options: Any) -> dict[str, Any]:
    given = {"trials": 40, "methods": ("linear",), "seed": 5, **options}
    return json.loads(search_merge(parents[0], parents[1:], output, SearchOptions(labelled, **given)).read_text())


def test_a_search_finds_settings_by_layer_that_beat_both_parents_on_cases_it_has_not_seen(
    parents: tuple[Path, Path], labelled: Path, tmp_path: Path
) -> None:
    record = search(parents, tmp_path / "merged.pth", labelled)
    scores = record["search"]["scores"]
    for part in ("search", "held_out"):
        means = {name: scores[name][part]["mean"] for name in scores}
        assert means["merge"] > max(means["base"], means["model 1"]) + 0.1
    merged = torch.load(tmp_path / "merged.pth", weights_only=True)
    assert merged["encoder.a.weight"][0, 0] == pytest.approx(0.3, abs=0.12)
    assert merged["decoder.b.weight"][0] == pytest.approx(0.6, abs=0.12)
    again = merge(weights(0.0), [weights(1.0)], read_settings(tmp_path / "merged.pth.json"))
    torch.testing.assert_close(again, merged, atol=0, rtol=0)
    predicted = score_cases(Ellipse(merged), read_parts(labelled, held_out=1 / 3, objects=8, seed=5).held_out)
    assert scores["merge"]["held_out"]["mean"] == pytest.approx(np.mean(list(predicted.values())))
    assert (scores["merge"]["search"]["cases"], scores["merge"]["held_out"]["cases"]) == (5, 2)
    assert not any(name in json.dumps(record) for name in ("CT_0", "MR_1"))


def test_an_interrupted_search_ends_like_one_that_was_not(
    parents: tuple[Path, Path], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(parents, tmp_path / "whole.pth", labelled, trials=14)
    told: list[str] = []

    def interrupt(text: str) -> None:
        told.append(text)
        if text.startswith("trial 9 "):
            raise KeyboardInterrupt

    score = export.merge_search.score_cases
    with pytest.raises(KeyboardInterrupt):
        search(parents, tmp_path / "part.pth", labelled, trials=14, report=interrupt)
    calls: list[int] = []

    def die(*arguments: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:  # in the middle of a trial
            raise KeyboardInterrupt
        return score(*arguments)

    monkeypatch.setattr(export.merge_search, "score_cases", die)
    with pytest.raises(KeyboardInterrupt):
        search(parents, tmp_path / "part.pth", labelled, trials=14)
    assert not (tmp_path / "part.pth").exists()
    monkeypatch.setattr(export.merge_search, "score_cases", score)
    resumed: list[str] = []
    record = search(parents, tmp_path / "part.pth", labelled, trials=14, report=resumed.append)
    assert [text.split(":")[0] for text in resumed if text.startswith("trial")] == [
        f"trial {n} of 14" for n in (12, 13, 14)
    ]
    assert record["settings"] == whole["settings"]
    assert record["search"]["scores"] == whole["search"]["scores"]


def test_a_study_of_another_search_is_refused(parents: tuple[Path, Path], labelled: Path, tmp_path: Path) -> None:
    search(parents, tmp_path / "merged.pth", labelled, trials=3)
    with pytest.raises(PromptError, match=r"merged\.pth\.study holds another search \(other methods\)"):
        search(parents, tmp_path / "merged.pth", labelled, trials=3, methods=("ties",), force=True)
    (tmp_path / "notes.study").write_text("these are notes\n")
    with pytest.raises(CheckpointError, match=r"notes\.study: cannot be used as a study"):
        search(parents, tmp_path / "other.pth", labelled, trials=3, study=tmp_path / "notes.study")


def test_several_objectives_give_a_pareto_set_whose_members_can_be_merged_again(
    parents: tuple[Path, Path], labelled: Path, tmp_path: Path
) -> None:
    record = search(parents, tmp_path / "merged.pth", labelled, trials=20, objective="multi")
    assert record["search"]["objectives"] == ["CT", "MR", "US"]
    pareto = record["search"]["pareto"]
    values = [tuple(one["scores"].values()) for one in pareto]
    for one in values:
        assert not any(other != one and all(np.array(other) >= one) for other in values)
    assert pareto[0]["settings"] == record["settings"]
    settings = read_settings(tmp_path / "merged.pth.json", len(pareto) - 1)
    assert settings == msgspec.convert(pareto[-1]["settings"], MergeSettings)
    with pytest.raises(PromptError, match="not settings of a merge"):
        read_settings(tmp_path / "merged.pth.json", len(pareto))


# --- what segments


def test_a_family_is_segmented_with_as_the_runtime_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export._merge_predictors, "load_families", lambda: (family(),))
    checkpoint = read_checkpoint(saved(random_model().state_dict(), tmp_path / "tiny.pth"))
    name, build = builder_of(checkpoint, checkpoint.state_dicts[0], None)
    assert name == "tiny"
    predictor = build(checkpoint.state_dicts[0].tensors)
    image = np.random.default_rng(1).integers(0, 255, (80, 96), dtype=np.uint8)
    found = predictor.decode(predictor.encode(image), np.array([[6.0, 8, 40, 60], [20, 20, 95, 79]]))
    framed, (rows, columns) = frame_image(image, SIDE)
    scale = SIDE / 96
    boxes = np.trunc(np.array([[6.0, 8, 40, 60], [20, 20, 95, 79]]) * scale).astype(np.float32)
    _, logits, scores = decoded(random_model(), framed[None], boxes)
    np.testing.assert_allclose(found.low_res_logits, logits, atol=1e-5)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    for mask, one in zip(found.masks, logits, strict=True):
        wanted = cv2.resize(one[:rows, :columns], (96, 80), interpolation=cv2.INTER_LINEAR) > 0
        assert np.mean(mask != wanted) < 2e-3


def test_a_family_that_needs_more_than_a_box_cannot_be_searched(tmp_path: Path, monkeypatch: Any) -> None:
    facts = family().facts
    fed = replace(
        family(), facts=replace(facts, prompts=msgspec.structs.replace(facts.prompts, vectors={"clip_image": 512}))
    )
    monkeypatch.setattr(export._merge_predictors, "load_families", lambda: (fed,))
    checkpoint = read_checkpoint(saved(random_model().state_dict(), tmp_path / "tiny.pth"))
    with pytest.raises(CheckpointError, match="needs other prompts than boxes"):
        builder_of(checkpoint, checkpoint.state_dicts[0], None)


def training_checkpoint(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    network = Network(TINY.model)
    state = network.state_dict()
    write_checkpoint(path, {"config": TINY.to_json(), "step": 1, "images": 8, "ema": state, "model": state})
    return path


def test_training_checkpoints_are_searched_from_the_command_line_and_stay_training_checkpoints(
    labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, model = (training_checkpoint(tmp_path / f"{seed}.pt", seed) for seed in (1, 2))
    line = f"merge --base {base} --model {model} -o {tmp_path / 'merged.pt'} --search {labelled} --trials 5 --objects 1"
    assert cli.main(line.split()) == 0
    text = capsys.readouterr().out
    assert "default: " in text
    assert "5 cases searched on, 2 held out" in text
    assert "trial 5 of 5" in text
    assert [row.split()[0] for row in text.splitlines()[-4:]] == ["base", "model", "merge", "done:"]
    record = json.loads((tmp_path / "merged.pt.json").read_text())
    assert record["checkpoint_of"] == "default"
    assert record["base"]["weights_under"] == "ema"
    load_network(tmp_path / "merged.pt")
    assert torch.load(tmp_path / "merged.pt", weights_only=True).keys() == {"format", "config", "step", "images", "ema"}
    best = record["search"]["scores"]["merge"]["search"]["mean"]
    assert best >= max(record["search"]["scores"][name]["search"]["mean"] for name in ("base", "model 1"))
