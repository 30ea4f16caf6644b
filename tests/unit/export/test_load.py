"""Checkpoints as people have them: wrapped, halved, damaged, foreign."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from dataclasses import replace  # noqa: E402

from tiny_family import build, family, random_model, saved  # noqa: E402

from export.families import FAMILIES, load_families, load_family  # noqa: E402
from export.load import load_model, match, read_checkpoint  # noqa: E402
from runtime.errors import CheckpointError  # noqa: E402

TINY = family()


def other_family():
    """A family that differs in one tensor's shape and lacks another."""

    def changed():
        model = build()
        model.mask_decoder.iou_token = torch.nn.Embedding(2, 16)
        del model.prompt_encoder.not_a_point_embed
        return model

    return replace(family("other"), build=changed)


def prefixed(prefix: str, weights) -> OrderedDict:
    return OrderedDict((prefix + name, value) for name, value in weights.items())


@pytest.fixture(scope="module")
def weights():
    return random_model().state_dict()


WRAPPERS = {
    "bare": lambda w: w,
    "model": lambda w: {"model": w, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "state_dict": lambda w: {"state_dict": w},
    "DataParallel": lambda w: prefixed("module.", w),
    "Lightning": lambda w: {
        "state_dict": prefixed("model.", w) | {"loss.weight": torch.ones(2)},
        "pytorch-lightning_version": "2.2.1",
        "hyper_parameters": {},
    },
    "compiled in DataParallel": lambda w: {"model": prefixed("module._orig_mod.", w)},
    "AveragedModel": lambda w: prefixed("module.", w) | {"n_averaged": torch.tensor(5)},
    "EMA module": lambda w: {"ema": prefixed("ema_model.", w) | {"initted": torch.tensor(1)}},
    "without counters": lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_weights_are_found_under_every_usual_wrapper(tmp_path: Path, weights, wrapper: str) -> None:
    path = saved(WRAPPERS[wrapper](weights), tmp_path / "checkpoint.pth")
    found, state_dict = match(read_checkpoint(path), [other_family(), TINY])
    assert found is TINY
    model = load_model(found, state_dict)
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, weights[name], atol=0, rtol=0)
    assert not model.training


def test_moving_averages_are_preferred_and_named(tmp_path: Path, weights) -> None:
    average = {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()}
    path = saved({"state_dict": weights, "state_dict_ema": average}, tmp_path / "checkpoint.pth")
    _, state_dict = match(read_checkpoint(path), [TINY])
    assert state_dict.where == "state_dict_ema"
    torch.testing.assert_close(
        state_dict.tensors["image_encoder.neck.0.weight"], average["image_encoder.neck.0.weight"]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tmp_path: Path, weights, dtype) -> None:
    path = saved({name: value.to(dtype) for name, value in weights.items()}, tmp_path / "checkpoint.pth")
    model = load_model(*match(read_checkpoint(path), [TINY]))
    name = "image_encoder.neck.0.weight"
    value = model.state_dict()[name]
    assert value.dtype is torch.float32
    torch.testing.assert_close(value, weights[name].to(dtype).float(), atol=0, rtol=0)


def test_the_digest_is_that_of_the_file(tmp_path: Path, weights) -> None:
    path = saved(weights, tmp_path / "checkpoint.pth")
    assert read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_truncated_file_is_called_damaged(tmp_path: Path, weights) -> None:
    path = saved(weights, tmp_path / "checkpoint.pth")
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth is damaged or not a PyTorch checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all\n" * 50, b"PK\x03\x04" + b"\0" * 100])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or not a PyTorch checkpoint"):
        read_checkpoint(path)


def program(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), str(path))


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("work_dir/medsam.pth", "weights")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: path.write_text("\n<!DOCTYPE html><html>Virus scan warning</html>"),
            "is a web page, not weights",
        ),
        (program, "is a TorchScript program; wanted weights: save the state_dict"),
        (archive, r"is a zip archive with work_dir/medsam\.pth; wanted a checkpoint: unpack it first"),
    ],
)
def test_files_that_people_take_for_checkpoints_are_named(tmp_path: Path, make, message: str) -> None:
    make(tmp_path / "medsam.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "medsam.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_is_a_checkpoint_error(tmp_path: Path, zipped: bool) -> None:
    path, random = tmp_path / "checkpoint.pth", np.random.default_rng(4)
    torch.save({"model": {"layer.weight": torch.ones(4, 3)}, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    intact = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(60):
        damaged = intact[: random.integers(1, len(intact))] if random.random() < 0.3 else intact.copy()
        if len(damaged) == len(intact):
            damaged[random.integers(0, min(600, len(intact)), 5)] = random.integers(0, 256, 5)
        path.write_bytes(damaged.tobytes())
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 30


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth: cannot be read"):
        read_checkpoint(tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(2)], {}])
def test_a_checkpoint_without_named_tensors_is_refused(tmp_path: Path, content) -> None:
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        read_checkpoint(saved(content, tmp_path / "checkpoint.pth"))


class Payload:
    """Runs a function when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, weights) -> None:
    path = saved({"model": weights, "hook": Payload(tmp_path / "ran")}, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match=r"holds Python objects \(\w+\.mkdir\).*--unsafe-pickle"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_needs_permission(tmp_path: Path) -> None:
    path = saved(random_model(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"tiny|Sam.*save model\.state_dict\(\)"):
        read_checkpoint(path)
    found, _ = match(read_checkpoint(path, unsafe_pickle=True), [TINY])
    assert found is TINY


def test_a_pickle_whose_project_is_absent_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"cproject.that.is.absent\nModel\n.")
    with pytest.raises(CheckpointError, match=r"cannot be unpickled.*save model\.state_dict\(\)"):
        read_checkpoint(path, unsafe_pickle=True)


def test_a_foreign_checkpoint_lists_the_closest_family_and_what_differs(tmp_path: Path, weights) -> None:
    changed = dict(weights)
    del changed["mask_decoder.iou_token.weight"]
    changed["classifier.weight"] = torch.ones(2)
    changed["image_encoder.neck.0.weight"] = torch.ones(3)
    path = saved(changed, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError) as caught:
        match(read_checkpoint(path), [other_family(), TINY])
    message = str(caught.value)
    assert "fits no known family; the closest is tiny" in message
    assert "missing mask_decoder.iou_token.weight" in message
    assert "unexpected classifier.weight" in message
    assert "of another shape image_encoder.neck.0.weight (3,) instead of (16, 16, 1, 1)" in message


def test_a_long_list_of_differences_is_cut(tmp_path: Path, weights) -> None:
    path = saved(weights | {f"layer.{index}": torch.ones(1) for index in range(9)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"unexpected layer\.0, layer\.1, layer\.2 and 6 more"):
        match(read_checkpoint(path), [TINY])


def test_a_checkpoint_with_nothing_in_common_is_told_what_it_holds(tmp_path: Path) -> None:
    path = saved({f"layer.{index}": torch.ones(1) for index in range(9)}, tmp_path / "foreign.pth")
    with pytest.raises(
        CheckpointError, match=r"no tensor name in common with any known family; .* layer\.0, layer\.1, l"
    ):
        match(read_checkpoint(path), [TINY])


def test_families_that_are_equally_close_are_all_named(tmp_path: Path, weights) -> None:
    path = saved(weights | {"extra": torch.ones(1)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=r"the closest is tiny and twin\. Its tensors: unexpected extra"):
        match(read_checkpoint(path), [TINY, family("twin")])


def test_the_wrong_name_is_told_every_family_that_fits(tmp_path: Path, weights) -> None:
    path = saved(weights, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match="fits tiny and twin, not other; leave --family out or correct it"):
        match(read_checkpoint(path), [other_family(), TINY, family("twin")], wanted="other")


def test_naming_the_wrong_family_names_the_right_one(tmp_path: Path, weights) -> None:
    path = saved(weights, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match="fits tiny, not other; leave --family out or correct it"):
        match(read_checkpoint(path), [other_family(), TINY], wanted="other")


def test_naming_a_family_that_does_not_fit_lists_its_differences(tmp_path: Path, weights) -> None:
    path = saved(weights | {"extra": torch.ones(1)}, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match=r"does not fit tiny.*unexpected extra"):
        match(read_checkpoint(path), [other_family(), TINY], wanted="tiny")


def test_a_checkpoint_that_fits_two_families_needs_a_name(tmp_path: Path, weights) -> None:
    path = saved(weights, tmp_path / "checkpoint.pth")
    twin = family("twin")
    with pytest.raises(CheckpointError, match="fits tiny and twin alike; say which with --family"):
        match(read_checkpoint(path), [TINY, twin])
    assert match(read_checkpoint(path), [TINY, twin], wanted="twin")[0] is twin


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, weights) -> None:
    broken = dict(weights)
    broken["image_encoder.neck.0.weight"] = torch.full((16, 16, 1, 1), torch.nan)
    path = saved(broken, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match=r"neck\.0\.weight \(1 of 1 such tensors\) holds NaN"):
        load_model(*match(read_checkpoint(path), [TINY]))


def test_every_registered_family_is_named_after_its_module_and_complete() -> None:
    families = load_families()
    assert [one.name for one in families] == list(FAMILIES)
    for one in families:
        assert one.layout()
        assert all((one.title, one.paper, one.repository, one.revision, one.licence.spdx))


def test_an_unknown_family_lists_those_there_are() -> None:
    with pytest.raises(CheckpointError, match="family 'sam9' is unknown; wanted one of lite_medsam"):
        load_family("sam9")
