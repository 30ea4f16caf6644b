"""The training loop: schedule, resuming, reproducibility."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export.pretrain import int8, loop  # noqa: E402
from export.pretrain.checkpoint import load_network, read_checkpoint  # noqa: E402
from export.pretrain.config import ModelConfig, TrainConfig, load_config  # noqa: E402
from export.pretrain.model import Network  # noqa: E402
from runtime._digest import sha256_of  # noqa: E402
from runtime.bundle import open_bundle  # noqa: E402
from runtime.command import run_command  # noqa: E402
from runtime.errors import CheckpointError  # noqa: E402

_TINY = TrainConfig(
    images=10,
    batch=2,
    prompts=2,
    processes=1,
    workers=0,
    warmup_steps=1,
    log_steps=2,
    refine_share=0.7,
    checkpoint_seconds=0.0,
    bfloat16=False,
    model=ModelConfig(input_size=64, widths=(4, 4, 8, 8, 8), blocks=(0, 0, 0, 1, 0), embedding=(4, 8, 8)),
)


def test_a_killed_run_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.train(_TINY, tmp_path / "whole")
    add = loop._Progress.add

    def die(self: loop._Progress, step: int, result: loop.StepResult) -> None:
        if step == 4:  # steps 1..3 are saved, the fourth is lost
            raise KeyboardInterrupt
        add(self, step, result)

    monkeypatch.setattr(loop._Progress, "add", die)
    with pytest.raises(KeyboardInterrupt):
        loop.train(_TINY, tmp_path / "killed")
    assert read_checkpoint(tmp_path / "killed" / loop.CHECKPOINT_NAME)["step"] == 3
    monkeypatch.undo()
    loop.train(_TINY, tmp_path / "killed")
    whole, killed = (read_checkpoint(tmp_path / name / loop.CHECKPOINT_NAME) for name in ("whole", "killed"))
    assert whole["step"] == killed["step"] == 5
    for part in ("model", "ema"):
        for name, value in whole[part].items():
            assert torch.equal(value, killed[part][name]), f"{part} {name}"


def test_training_moves_the_weights_and_logs_its_curve(tmp_path: Path) -> None:
    loop.train(_TINY, tmp_path)
    torch.manual_seed(_TINY.seed)
    fresh = loop.Network(_TINY.model).state_dict()
    state = read_checkpoint(tmp_path / loop.CHECKPOINT_NAME)
    assert not torch.equal(fresh["encoder.stages.0.0.conv.weight"], state["model"]["encoder.stages.0.0.conv.weight"])
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [4, 8]
    assert all(line["loss"] > 0 for line in lines)
    assert not load_network(tmp_path / loop.CHECKPOINT_NAME).training


def test_training_leaves_subnormal_numbers_to_who_called_it(tmp_path: Path) -> None:
    loop.train(replace(_TINY, images=2), tmp_path)
    assert float(np.float64(5e-324) * np.float64(1)) > 0


def test_two_processes_share_a_batch(tmp_path: Path) -> None:
    loop.train(replace(_TINY, processes=2, images=4), tmp_path)
    assert read_checkpoint(tmp_path / loop.CHECKPOINT_NAME)["images"] == 4
    assert not (tmp_path / "rendezvous").exists()


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    config = TrainConfig(images=8000, batch=8, warmup_steps=100, learning_rate=1.0)
    assert loop.learning_rate(config, 0) == pytest.approx(0.01)
    assert loop.learning_rate(config, 500) == pytest.approx(0.5)
    assert loop.learning_rate(config, 1000) == 0


def test_a_configuration_survives_json_and_refuses_unknown_settings() -> None:
    assert load_config(json.loads(json.dumps(_TINY.to_json()))) == _TINY
    with pytest.raises(CheckpointError, match="unknown settings imagse"):
        load_config({"imagse": 3})


def test_the_first_stage_is_trained_with_the_defaults(repository_configs: Path) -> None:
    assert load_config(repository_configs / "images.json") == TrainConfig()


@pytest.fixture
def repository_configs() -> Path:
    return Path(loop.__file__).parent / "configs"


def test_a_missing_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint; train first"):
        read_checkpoint(tmp_path / "none.pt")


def test_a_decoder_that_is_shown_the_neighbouring_slice_starts_as_one_that_is_not(tmp_path: Path) -> None:
    loop.train(_TINY, tmp_path / "one")
    before = read_checkpoint(tmp_path / "one" / loop.CHECKPOINT_NAME)["ema"]
    network = Network(replace(_TINY.model, reference=True))
    network.take_over(before)
    after = network.state_dict()
    wide, narrow = "decoder.prompt_64.weight", before["decoder.prompt_64.weight"].shape[1]
    assert after[wide].shape[1] > narrow
    torch.testing.assert_close(after[wide][:, :narrow], before[wide])
    assert not after[wide][:, narrow:].any()
    torch.testing.assert_close(after["decoder.head.weight"], before["decoder.head.weight"])


def test_one_command_trains_all_stages_and_writes_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.pretrain import __main__ as command

    stages = ("images", "rollouts", "settled", "boxes", "displaced", "coarse")
    small = {"images": 4, "batch": 2, "prompts": 2, "processes": 1, "workers": 0, "warmup_steps": 1}
    small["bfloat16"] = False
    second = {**small, "seed": 2, "rollout_share": 0.5, "sequences": 1, "slices": 3}
    third = {**second, "norm_steps": 1}
    fourth = {**third, "keep_answers": True}
    last = {**fourth, "seed": 9}
    given = (small, second, third, fourth, last, {**last, "seed": 11, "coarse_share": 0.5})
    for name, settings in zip(stages, given, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(settings))
    monkeypatch.setattr(command, "_CONFIGS", tmp_path)
    quantised: list[Path] = []
    monkeypatch.setattr(int8, "add_int8", lambda folder, **_: quantised.append(folder))  # has tests of its own
    assert command.main(["reproduce", "--output", str(tmp_path / "runs")]) == 0
    bundle = open_bundle(tmp_path / "runs" / "bundle")
    assert capsys.readouterr().out.strip() == str(bundle.folder / "manifest.json")
    assert quantised == [bundle.folder]
    runs = (*stages[:4], "displaced-1", "displaced-2", "coarse-1")
    states = [read_checkpoint(tmp_path / "runs" / name / loop.CHECKPOINT_NAME) for name in runs]
    for first, last in pairwise(state["ema"] for state in states):
        for half in ("encoder", "decoder"):
            assert any(not torch.equal(first[name], last[name]) for name in first if name.startswith(half))
    final = read_checkpoint(tmp_path / "runs" / "mean.pt")
    assert bundle.manifest.source.checkpoint_sha256 == sha256_of(tmp_path / "runs" / "mean.pt")
    assert final["images"] == 12
    name = "decoder.head.weight"
    one, two, coarse = (state["ema"][name] for state in states[-3:])
    torch.testing.assert_close(final["ema"][name], (one + two) / 4 + coarse / 2)
    assert command.main(["reproduce", "--output", str(tmp_path / "other"), "--seed", "5"]) == 0
    configs = [json.loads((tmp_path / "other" / name / "config.json").read_text()) for name in runs]
    assert [config["seed"] for config in configs] == [5, 6, 7, 8, 9, 10, 11]


def test_a_mean_is_of_runs_of_one_network(tmp_path: Path) -> None:
    from export.pretrain import __main__ as command

    loop.train(_TINY, tmp_path / "one")
    loop.train(replace(_TINY, seed=12), tmp_path / "two")
    wider = replace(_TINY.model, embedding=(4, 8, 12))
    loop.train(replace(_TINY, model=wider), tmp_path / "three")
    one, two, three = (str(tmp_path / name / loop.CHECKPOINT_NAME) for name in ("one", "two", "three"))
    assert command.main(["mean", one, two, "--output", str(tmp_path / "mean.pt")]) == 0
    name = "decoder.head.weight"
    ends = [load_network(Path(path)).state_dict()[name] for path in (one, two)]
    torch.testing.assert_close(load_network(tmp_path / "mean.pt").state_dict()[name], (ends[0] + ends[1]) / 2)
    (tmp_path / "four").mkdir()
    shutil.copy(tmp_path / "mean.pt", tmp_path / "four" / loop.CHECKPOINT_NAME)
    with pytest.raises(CheckpointError, match=r"a mean of runs, .* train from it with --start"):
        loop.train(_TINY, tmp_path / "four")
    with pytest.raises(CheckpointError, match=r"three.*network is not that of .*one"):
        command.main(["mean", one, three, "--output", str(tmp_path / "none.pt")])
    assert not (tmp_path / "none.pt").exists()


def test_the_command_says_an_error_in_one_line_and_that_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from export.pretrain import __main__ as command

    def run(*words: str) -> tuple[int, str]:
        return run_command("pretrain", command.main, words), capsys.readouterr().err

    none = str(tmp_path / "none.pt")
    code, said = run("export", "--checkpoint", none, "--output", str(tmp_path / "bundle"))
    assert (code, said.count("\n")) == (4, 1)
    assert "none.pt: no such checkpoint; train first" in said
    code, said = run("exprot")
    assert (code, said.count("\n")) == (2, 1)

    (tmp_path / "tiny.json").write_text(json.dumps(_TINY.to_json()))
    words = ("train", "--config", str(tmp_path / "tiny.json"), "--output", str(tmp_path / "run"))

    def die(self: loop._Progress, step: int, result: loop.StepResult) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._Progress, "add", die)
    assert run(*words) == (130, "pretrain: interrupted; the same command goes on from the last checkpoint\n")
    monkeypatch.undo()
    code, said = run(*words)
    assert code == 0
    assert re.fullmatch(r"(run: step [24] of 5, loss \d\.\d{3}, \d+\.\d images/s, 0 min left\n){2}", said)
    assert read_checkpoint(tmp_path / "run" / loop.CHECKPOINT_NAME)["images"] == _TINY.images
