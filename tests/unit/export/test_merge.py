"""Merging: what each method must give where the answer is known, refusals, and the files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from tiny_family import family, random_model, saved  # noqa: E402

from export.load import load_model, match, read_checkpoint  # noqa: E402
from export.merge import METHODS, Group, MergeSettings, merge, merge_checkpoints, read_settings  # noqa: E402
from runtime.errors import CheckpointError, OutputError, PromptError  # noqa: E402

Weights = dict[str, torch.Tensor]


def weights(seed: int, scale: float = 1.0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"encoder.0.weight": (7, 5), "encoder.1.weight": (7, 5), "head.bias": (11,), "scalar": ()}
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


BASE, ONE, TWO = weights(0), weights(1, 2.0), weights(2)


def assert_same(found: Weights, wanted: Weights, *, exact: bool = False) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        tolerance = 0.0 if exact else 1e-6
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=tolerance, equal_nan=True, msg=name)


def settings(method: str, *given: float, **further: object) -> MergeSettings:
    return MergeSettings(method=method, weights=given or None, **further)


# --- known answers


@pytest.mark.parametrize("method", METHODS)
def test_a_whole_weight_gives_the_model_back(method: str) -> None:
    assert_same(merge(BASE, [ONE], settings(method, 1.0)), ONE)


@pytest.mark.parametrize("method", ["linear", "slerp", "task-arithmetic", "dare"])
def test_no_weight_gives_the_base_back(method: str) -> None:
    assert_same(merge(BASE, [ONE], settings(method, 0.0)), BASE)


@pytest.mark.parametrize(("given", "wanted"), [((1.0, 0.0), ONE), ((0.0, 1.0), TWO), ((0.0, 0.0), BASE)])
def test_a_linear_merge_gives_each_of_three_parents_back_bit_for_bit(
    given: tuple[float, float], wanted: Weights
) -> None:
    assert_same(merge(BASE, [ONE, TWO], settings("linear", *given)), wanted, exact=True)


def test_without_weights_a_linear_merge_is_the_mean_of_all() -> None:
    assert_same(merge(BASE, [ONE, TWO]), {name: (BASE[name] + ONE[name] + TWO[name]) / 3 for name in BASE})


def test_without_weights_task_vectors_share_equally() -> None:
    wanted = {name: (ONE[name] + TWO[name]) / 2 for name in BASE}
    assert_same(merge(BASE, [ONE, TWO], settings("task-arithmetic")), wanted)


def test_scale_lengthens_the_sum_of_task_vectors() -> None:
    found = merge(BASE, [ONE, TWO], settings("task-arithmetic", 1.0, -0.5, scale=0.4))
    assert_same(found, {n: BASE[n] + 0.4 * ((ONE[n] - BASE[n]) - 0.5 * (TWO[n] - BASE[n])) for n in BASE})


def test_slerp_keeps_the_length_between_two_tensors_of_one_length() -> None:
    found = merge({"w": torch.tensor([3.0, 0.0])}, [{"w": torch.tensor([0.0, 3.0])}], settings("slerp", 1 / 3))
    wanted = 3 * torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)])
    torch.testing.assert_close(found["w"], wanted)


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_slerp_goes_straight_where_there_is_no_angle(factor: float) -> None:
    base = {"w": torch.tensor([1.0, 2.0, 3.0])}
    found = merge(base, [{"w": factor * base["w"]}], settings("slerp", 0.25))
    torch.testing.assert_close(found["w"], (0.75 + 0.25 * factor) * base["w"])


def test_ties_keeps_the_largest_changes_of_one_model() -> None:
    base = {"w": torch.zeros(5)}
    found = merge(base, [{"w": torch.tensor([1.0, -5.0, 2.0, 0.5, 4.0])}], settings("ties", 1.0, density=0.4))
    assert found["w"].tolist() == [0, -5, 0, 0, 4]


def test_ties_averages_the_side_that_outweighs_the_other() -> None:
    base = {"w": torch.ones(4)}
    models = [{"w": 1 + torch.tensor([2.0, 2.0, -1.0, 0.0])}, {"w": 1 + torch.tensor([4.0, -3.0, -3.0, 5.0])}]
    assert merge(base, models, settings("ties", 0.5, 0.5))["w"].tolist() == [4, -2, -1, 6]
    # now the first model has the say where they disagree, and three quarters of the mean where they agree
    assert merge(base, models, settings("ties", 0.75, 0.25))["w"].tolist() == [3.5, 3, -0.5, 6]
    assert merge(base, models, settings("ties", 0.5, 0.5, scale=2.0))["w"].tolist() == [7, -5, -3, 11]


def test_ties_leaves_the_base_where_the_sides_weigh_the_same() -> None:
    models = [{"w": torch.tensor([2.0])}, {"w": torch.tensor([-2.0])}]
    assert merge({"w": torch.zeros(1)}, models, settings("ties"))["w"].tolist() == [0]


def test_dare_expects_what_task_arithmetic_gives() -> None:
    wanted = merge(BASE, [ONE, TWO], settings("task-arithmetic", 0.6, 0.3))
    runs = [merge(BASE, [ONE, TWO], settings("dare", 0.6, 0.3, density=0.5, seed=n))["head.bias"] for n in range(400)]
    spread = torch.stack(runs).std(0)
    assert (spread > 0).all()
    assert ((torch.stack(runs).mean(0) - wanted["head.bias"]).abs() < 4 * spread / math.sqrt(400)).all()


def test_dare_keeps_or_drops_each_change_and_makes_up_for_what_it_dropped() -> None:
    base, model = {"w": torch.zeros(1000)}, {"w": torch.ones(1000)}
    found = merge(base, [model], settings("dare", 1.0, density=0.25))["w"]
    assert set(found.tolist()) == {0.0, 4.0}
    assert 200 < (found > 0).sum() < 300


def test_dare_draws_by_seed_name_and_place_alone() -> None:
    first = merge(BASE, [ONE, TWO], settings("dare", density=0.5, seed=3))
    assert_same(merge(BASE, [ONE, TWO], settings("dare", density=0.5, seed=3)), first, exact=True)
    alone = {"encoder.1.weight": BASE["encoder.1.weight"]}
    models = [{"encoder.1.weight": model["encoder.1.weight"]} for model in (ONE, TWO)]
    found = merge(alone, models, settings("dare", density=0.5, seed=3))
    torch.testing.assert_close(found["encoder.1.weight"], first["encoder.1.weight"], atol=0, rtol=0)
    other = merge(BASE, [ONE, TWO], settings("dare", density=0.5, seed=4))
    assert not torch.equal(other["encoder.1.weight"], first["encoder.1.weight"])


# --- kinds of tensors


def test_whole_numbers_and_counters_stay_as_they_are_in_the_base() -> None:
    base = {"w": torch.zeros(2), "index": torch.tensor([1, 2]), "bn.num_batches_tracked": torch.tensor(7)}
    model = {"w": torch.ones(2), "index": torch.tensor([5, 6])}
    found = merge(base, [model], settings("linear", 1.0))
    assert found["index"].tolist() == [1, 2]
    assert found["bn.num_batches_tracked"].item() == 7
    assert found["w"].tolist() == [1, 1]


def test_what_all_parents_have_alike_stays_even_if_it_is_infinite() -> None:
    mask = torch.tensor([0.0, -torch.inf])
    found = merge({"mask": mask}, [{"mask": mask.clone()}, {"mask": mask.half()}], settings("dare", density=0.1))
    assert torch.equal(found["mask"], mask)


def test_a_variance_never_falls_below_those_of_the_parents() -> None:
    base, model = {"bn.running_var": torch.tensor([1.0, 4.0])}, {"bn.running_var": torch.tensor([0.5, 6.0])}
    found = merge(base, [model], settings("task-arithmetic", 4.0))
    assert found["bn.running_var"].tolist() == [0.5, 12.0]


def test_the_result_has_the_base_s_dtype_and_shares_no_memory() -> None:
    base = {"w": torch.ones(2, dtype=torch.bfloat16), "same": torch.ones(2)}
    found = merge(base, [{"w": torch.full((2,), 3.0), "same": torch.ones(2)}], settings("linear", 0.5))
    assert found["w"].dtype == torch.bfloat16
    assert found["w"].tolist() == [2, 2]
    assert found["same"].data_ptr() != base["same"].data_ptr()


# --- groups


def test_a_tensor_takes_the_settings_of_the_first_group_that_it_fits() -> None:
    groups = (
        Group(names="encoder.0.*", weights=(1.0,)),
        Group(names="encoder.*", method="ties", density=0.2, weights=(1.0,)),
    )
    found = merge(BASE, [ONE], MergeSettings(method="linear", weights=(0.0,), groups=groups))
    torch.testing.assert_close(found["encoder.0.weight"], ONE["encoder.0.weight"])
    assert (found["encoder.1.weight"] != BASE["encoder.1.weight"]).sum() == 7  # a fifth of 35
    assert torch.equal(found["head.bias"], BASE["head.bias"])


def test_a_group_that_fits_nothing_is_a_typing_error() -> None:
    with pytest.raises(
        PromptError, match=r"group 'encodr\.\*' fits no tensor of the base, which has encoder\.0\.weigh"
    ):
        merge(BASE, [ONE], MergeSettings(groups=(Group(names="encodr.*"),)))


# --- refusals


@pytest.mark.parametrize(
    ("given", "models", "message"),
    [
        (settings("linear", 0.5, 0.5), 1, "linear of '*': 2 weights for 1 models; give one per model"),
        (settings("linear", 0.7, 0.7), 2, "wanted none below 0 and at most 1 together (task-arithmetic goes beyond)"),
        (settings("slerp", -0.1), 1, "wanted none below 0"),
        (settings("slerp"), 2, "slerp of '*': 2 models; an arc joins the base and exactly one model"),
        (settings("ties", 0.0), 1, "wanted none below 0, not all 0"),
        (settings("dare", density=0.0), 1, "density 0; wanted above 0 and up to 1"),
        (settings("ties", density=1.5), 1, "density 1.5; wanted above 0 and up to 1"),
        (settings("dare", math.nan), 1, "weights and scale must be finite"),
        (settings("mean"), 1, "mean of '*': no such method; wanted one of linear, slerp, task-arithmetic, ties, dare"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: MergeSettings, models: int, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        merge(BASE, [ONE, TWO][:models], given)
    assert message in str(caught.value)


def test_models_of_another_layout_are_refused_with_the_first_names() -> None:
    other = {**BASE, "scalar": torch.ones(3), "extra": torch.ones(1)}
    del other["head.bias"]
    wanted = (
        r"model 2 does .* lacks head\.bias; has the unknown extra; has another shape at scalar \(3,\) instead of \(\)"
    )
    with pytest.raises(CheckpointError, match=wanted):
        merge(BASE, [ONE, other])


def test_long_lists_of_names_are_cut() -> None:
    with pytest.raises(CheckpointError, match=r"lacks encoder\.0\.weight, encoder\.1\.weight, head\.bias and 1 more"):
        merge(BASE, [{}])


def test_a_merge_needs_a_model() -> None:
    with pytest.raises(CheckpointError, match="there is no model to merge into the base"):
        merge(BASE, [])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_parent_is_refused_by_name(value: float) -> None:
    with pytest.raises(CheckpointError, match=r"head\.bias of model 1 holds NaN or infinity"):
        merge(BASE, [{**ONE, "head.bias": torch.full((11,), value)}])


# --- files


@pytest.fixture(scope="module")
def parents() -> tuple[Weights, Weights]:
    base = dict(random_model().state_dict())
    return base, {name: value + 1 if value.is_floating_point() else value for name, value in base.items()}


def test_a_merged_checkpoint_converts_like_its_parents_and_tells_what_it_is(
    tmp_path: Path, parents: tuple[Weights, Weights]
) -> None:
    base, model = saved(parents[0], tmp_path / "base.pth"), saved({"model": parents[1]}, tmp_path / "model.pth")
    how = MergeSettings(method="linear", weights=(0.25,), groups=(Group(names="mask_decoder.*", weights=(1.0,)),))
    record = merge_checkpoints(base, [model], tmp_path / "new" / "merged.pth", how)
    source = read_checkpoint(tmp_path / "new" / "merged.pth")
    found = load_model(*match(source, [family()])).state_dict()
    torch.testing.assert_close(found["image_encoder.neck.0.weight"], parents[0]["image_encoder.neck.0.weight"] + 0.25)
    torch.testing.assert_close(found["mask_decoder.iou_token.weight"], parents[1]["mask_decoder.iou_token.weight"])
    document = json.loads(record.read_text())
    assert record.name == "merged.pth.json"
    assert document["sha256"] == source.sha256
    assert document["base"] == {"file": "base.pth", "sha256": read_checkpoint(base).sha256, "weights_under": ""}
    assert [one["weights_under"] for one in document["models"]] == ["model"]
    assert msgspec.convert(document["settings"], MergeSettings) == how
    assert sorted(path.name for path in record.parent.iterdir()) == ["merged.pth", "merged.pth.json"]


def test_the_same_merge_gives_the_same_bytes(tmp_path: Path, parents: tuple[Weights, Weights]) -> None:
    files = [saved(one, tmp_path / f"{index}.pth") for index, one in enumerate(parents)]
    records = [merge_checkpoints(files[0], files[1:], tmp_path / f"{name}.pth") for name in ("a", "long_name")]
    assert records[0].read_text() == records[1].read_text()


def test_the_base_s_wrapping_stays_without_what_the_merge_made_stale(
    tmp_path: Path, parents: tuple[Weights, Weights]
) -> None:
    base, model = parents
    wrapped = {
        "format": 1,
        "config": {"widths": [8, 16]},
        "model": base,
        "state_dict_ema": {f"module.{name}": value for name, value in base.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
    }
    files = saved(wrapped, tmp_path / "base.pth"), saved(model, tmp_path / "model.pth")
    record = merge_checkpoints(files[0], [files[1]], tmp_path / "merged.pth", settings("linear", 1.0))
    found = torch.load(tmp_path / "merged.pth", weights_only=True)
    assert json.loads(record.read_text())["base"]["weights_under"] == "state_dict_ema.module"
    assert found.keys() == {"format", "config", "state_dict_ema"}
    assert found["config"] == {"widths": [8, 16]}
    assert_same(found["state_dict_ema"], {f"module.{name}": value for name, value in model.items()}, exact=True)


def test_files_of_another_layout_are_refused_by_path(tmp_path: Path, parents: tuple[Weights, Weights]) -> None:
    files = saved(parents[0], tmp_path / "base.pth"), saved({"model": {"w": torch.ones(2)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth does not have the base's layout: it lacks .*unknown w"):
        merge_checkpoints(files[0], [files[1]], tmp_path / "merged.pth")
    assert not (tmp_path / "merged.pth").exists()


@pytest.mark.parametrize("taken", ["merged.pth", "merged.pth.json"])
def test_what_exists_is_replaced_by_force_alone(tmp_path: Path, parents: tuple[Weights, Weights], taken: str) -> None:
    files = [saved(one, tmp_path / f"{index}.pth") for index, one in enumerate(parents)]
    (tmp_path / taken).write_text("mine")
    with pytest.raises(OutputError, match=rf"{taken} exists; choose another name, or replace it with --force"):
        merge_checkpoints(files[0], files[1:], tmp_path / "merged.pth")
    assert (tmp_path / taken).read_text() == "mine"
    merge_checkpoints(files[0], files[1:], tmp_path / "merged.pth", force=True)
    assert read_checkpoint(tmp_path / "merged.pth").sha256 in (tmp_path / "merged.pth.json").read_text()


def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, parents: tuple[Weights, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [saved(one, tmp_path / f"{index}.pth") for index, one in enumerate(parents)]

    def full_disk(_: object, file: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match=r"merged\.pth: cannot be written \(No space left on device\)"):
        merge_checkpoints(files[0], files[1:], tmp_path / "out" / "merged.pth")
    assert list((tmp_path / "out").iterdir()) == []


def test_settings_are_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"method": "ties", "weights": [1], "groups": [{"names": "a.*", "density": 0.2}]}')
    wanted = MergeSettings(method="ties", weights=(1.0,), groups=(Group(names="a.*", density=0.2),))
    assert read_settings(path) == wanted
    path.write_text('{"method": "ties", "wieghts": [1]}')
    with pytest.raises(PromptError, match=r"settings\.json: not settings of a merge .*wieghts"):
        read_settings(path)


def test_statistics_of_normalisation_go_linearly_whatever_the_method() -> None:
    base = {"n.running_mean": torch.tensor([0.0, 2.0, -1.0]), "n.running_var": torch.tensor([1.0, 4.0, 2.0])}
    model = {"n.running_mean": torch.tensor([1.0, 0.0, -1.5]), "n.running_var": torch.tensor([2.0, 1.0, 2.5])}
    for settings, share in (
        (MergeSettings(method="slerp", weights=(0.25,)), 0.25),
        (MergeSettings(method="ties", weights=(0.5,), density=0.1, scale=0.4), 0.4),
        (MergeSettings(method="dare", weights=(0.5,), density=0.1, scale=0.5), 0.25),
    ):
        for name, value in merge(base, [model], settings).items():
            torch.testing.assert_close(value, base[name] + share * (model[name] - base[name]))
