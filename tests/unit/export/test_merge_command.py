"""``lite-infer-export merge`` without a search: settings, groups, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("optuna", reason="the export extra is not installed")

from tiny_family import family, random_model, saved  # noqa: E402

from export import cli  # noqa: E402
from export._merge_groups import layer_groups  # noqa: E402
from export.load import load_model, match, read_checkpoint  # noqa: E402
from export.merge import Group, MergeSettings, read_settings  # noqa: E402
from export.merge_command import parse_group  # noqa: E402
from runtime.errors import PromptError  # noqa: E402


def test_given_settings_reach_the_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, model = random_model(0).state_dict(), random_model(1).state_dict()
    files = saved(base, tmp_path / "base.pth"), saved(model, tmp_path / "model.pth")
    line = (
        f"merge --base {files[0]} --model {files[1]} --method ties --density 0.5 --scale 0.9 --seed 3 "
        f"--group mask_decoder:method=linear,weight=1 -o {tmp_path / 'merged.pth'}"
    )
    assert cli.main(line.split()) == 0
    assert "what was merged is in merged.pth.json" in capsys.readouterr().out
    settings = read_settings(tmp_path / "merged.pth.json")
    group = Group(names="mask_decoder", method="linear", weights=(1.0,))
    assert settings == MergeSettings(method="ties", density=0.5, scale=0.9, seed=3, groups=(group,))
    found = load_model(*match(read_checkpoint(tmp_path / "merged.pth"), [family()])).state_dict()
    torch.testing.assert_close(found["mask_decoder.iou_token.weight"], model["mask_decoder.iou_token.weight"])
    again = (
        f"merge --base {files[0]} --model {files[1]} --settings {tmp_path / 'merged.pth.json'} -o {tmp_path / 'b.pth'}"
    )
    assert cli.main(again.split()) == 0
    assert (tmp_path / "b.pth").read_bytes() == (tmp_path / "merged.pth").read_bytes()


def test_groups_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = saved({"model": random_model(0).state_dict()}, tmp_path / "base.pth")
    assert cli.main(["merge", "--base", str(base), "--list-groups"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(layer_groups(random_model(0).state_dict()))
    assert all(line.endswith("weights") for line in lines)


def test_models_of_different_shapes_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"encoder.a.weight": torch.zeros(2, 2), "decoder.b.weight": torch.zeros(2)}
    base = saved(tensors, tmp_path / "base.pth")
    model = saved(tensors | {"decoder.b.weight": torch.ones(3)}, tmp_path / "model.pth")
    assert cli.main(["merge", "--base", str(base), "--model", str(model), "-o", str(tmp_path / "m.pth")]) == 4
    told = capsys.readouterr().err
    assert (
        "model.pth does not have the base's layout: it has another shape at decoder.b.weight (3,) instead of (2,)"
        in told
    )
    assert not (tmp_path / "m.pth").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--output m", "arguments are required: --model, --output"),
        ("--model b --output m --method linear --method ties", "2 methods; a merge has one"),
        ("--model b --output m --settings s --weight 1", "--settings says it all"),
        ("--model b --output m --group a:weight", "--group 'a:weight': wanted NAME:KEY=VALUE"),
        ("--model b --output m --search d --density 0.5", "--density is what a search finds"),
        ("--model b --output m --search d --trials 0", "--trials, --objects and --layers from 1"),
    ],
)
def test_misuse_is_told(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["merge", "--base", "a", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_group_is_read_with_weights_of_several_models() -> None:
    wanted = Group(names="image_encoder.blocks.0-3", method="ties", weights=(0.2, 0.8), density=0.5, scale=2.0)
    assert parse_group("image_encoder.blocks.0-3:method=ties,weight=0.2/0.8,density=0.5,scale=2") == wanted
    with pytest.raises(PromptError):
        parse_group("encoder:methud=ties")
