"""Statistics of the batch normalisations: counted anew, every kind of step alike, and kept through a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from export.pretrain import loop  # noqa: E402
from export.pretrain.checkpoint import read_checkpoint  # noqa: E402
from export.pretrain.config import ModelConfig, TrainConfig  # noqa: E402
from export.pretrain.model import Network  # noqa: E402
from export.pretrain.norms import count_norms  # noqa: E402

_TINY = TrainConfig(
    images=8,
    batch=2,
    prompts=2,
    processes=1,
    workers=0,
    warmup_steps=0,
    sequences=1,
    slices=2,
    rollout_share=0.5,
    norm_steps=2,
    checkpoint_seconds=0.0,
    bfloat16=False,
    model=ModelConfig(input_size=64, widths=(4, 4, 8, 8, 8), blocks=(0, 0, 0, 1, 0), embedding=(4, 8, 8)),
)


def test_kinds_count_alike_however_many_passes_they_have() -> None:
    norm = nn.BatchNorm2d(2)
    low, high = torch.full((1, 2, 4, 4), 1.0), torch.full((1, 2, 4, 4), 5.0)
    noise = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    count_norms(norm, [[lambda: norm(low + noise)] * 9, [lambda: norm(high + noise)]])
    both = torch.cat([low + noise, high + noise])
    torch.testing.assert_close(norm.running_mean, both.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, both.var((0, 2, 3), unbiased=False))
    assert not norm.training
    assert not norm._forward_pre_hooks


def test_each_normalisation_sees_what_training_shows_it() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    count_norms(network, [[lambda: network(torch.randn(4, 1, 8, 8) * 9 + 4)]])
    second = network[1]
    assert isinstance(second, nn.BatchNorm2d)
    assert float(second.running_mean) == pytest.approx(0, abs=1e-5)  # type: ignore[arg-type]
    assert float(second.running_var) == pytest.approx(1, abs=1e-3)  # type: ignore[arg-type]


def test_answers_stay_where_they_are_to_be_kept() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2)).train()
    for norm in (network[0], network[2]):
        assert isinstance(norm, nn.BatchNorm2d)
        norm.running_mean = torch.tensor([0.5, -2.0])
        norm.running_var = torch.tensor([0.1, 7.0])
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    seen = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(5)) * 3 + 1
    with torch.no_grad():
        before = network.eval()(seen)
        count_norms(network, [[lambda: network(seen)]], keep_answers=True)
        torch.testing.assert_close(network(seen), before)
    first = network[0]
    assert isinstance(first, nn.BatchNorm2d)
    torch.testing.assert_close(first.running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(first.running_var, seen.var((0, 2, 3), unbiased=False))


def test_the_statistics_are_those_of_the_start_and_stay(tmp_path: Path) -> None:
    loop.train(replace(_TINY, norm_steps=0, rollout_share=0.0), tmp_path / "first")
    start = tmp_path / "first" / loop.CHECKPOINT_NAME
    run = loop._Run(_TINY, tmp_path / "none", start)
    counted = {name: value for name, value in run.network.state_dict().items() if "running_" in name}
    loop.train(_TINY, tmp_path / "second", start)
    before = read_checkpoint(start)["ema"]
    after = read_checkpoint(tmp_path / "second" / loop.CHECKPOINT_NAME)
    assert any(not torch.equal(value, before[name]) for name, value in counted.items())
    for name, value in counted.items():
        assert torch.equal(value, after["model"][name]), name
        assert torch.equal(value, after["ema"][name]), name
    for name in ("encoder.stages.0.0.conv.weight", "decoder.head.weight"):
        assert not torch.equal(before[name], after["model"][name]), name


def test_a_killed_run_with_fixed_statistics_continues_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.train(_TINY, tmp_path / "whole")
    add = loop._Progress.add

    def die(self: loop._Progress, step: int, result: loop.StepResult) -> None:
        if step == 3:
            raise KeyboardInterrupt
        add(self, step, result)

    monkeypatch.setattr(loop._Progress, "add", die)
    with pytest.raises(KeyboardInterrupt):
        loop.train(_TINY, tmp_path / "killed")
    monkeypatch.undo()
    monkeypatch.setattr(loop._Run, "_count_norms", lambda _: pytest.fail("counted again"))
    loop.train(_TINY, tmp_path / "killed")
    whole, killed = (read_checkpoint(tmp_path / name / loop.CHECKPOINT_NAME) for name in ("whole", "killed"))
    for name, value in whole["model"].items():
        assert torch.equal(value, killed["model"][name]), name


def test_steps_of_a_kind_the_run_has_not_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[int] = []
    monkeypatch.setattr(loop, "count_norms", lambda _, passes, keep_answers: kinds.append(len(passes)))
    for shares in ({"rollout_share": 1.0}, {"rollout_share": 0.0}, {"refine_share": 0.0}, {}):
        loop._Run(replace(_TINY, **shares), tmp_path, None)  # type: ignore[arg-type]
    assert kinds == [1, 2, 2, 3]
    assert Network(_TINY.model).training
