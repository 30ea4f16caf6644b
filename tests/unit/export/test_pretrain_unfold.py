"""Weights taken back from a bundle's graphs: the network answers as they do, and can be trained on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from export.pretrain import loop  # noqa: E402
from export.pretrain.bundle import write_bundle  # noqa: E402
from export.pretrain.checkpoint import load_network, read_checkpoint  # noqa: E402
from export.pretrain.config import ModelConfig, TrainConfig  # noqa: E402
from export.pretrain.model import Network  # noqa: E402
from export.pretrain.unfold import read_bundle_weights  # noqa: E402
from runtime.errors import CheckpointError  # noqa: E402

_TINY = TrainConfig(
    images=8,
    batch=2,
    prompts=2,
    processes=1,
    workers=0,
    warmup_steps=0,
    bfloat16=False,
    checkpoint_seconds=0.0,
    model=ModelConfig(
        input_size=64, widths=(4, 4, 8, 8, 8), blocks=(0, 1, 0, 1, 1), embedding=(4, 8, 8), reference=True
    ),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint of a short run, and the folder of its bundle."""
    folder = tmp_path_factory.mktemp("trained")
    loop.train(_TINY, folder / "run")
    checkpoint = folder / "run" / loop.CHECKPOINT_NAME
    return checkpoint, write_bundle(checkpoint, folder / "bundle").parent


def _answers(network: Network, image: torch.Tensor) -> list[torch.Tensor]:
    boxes = torch.tensor([[10.0, 12.0, 40.0, 50.0], [5.0, 5.0, 15.0, 25.0]])
    masks, has_mask = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(2)), torch.tensor([0.0, 2.0])
    with torch.no_grad():
        levels = network.encoder(image)
        prompt = network.decoder.geometry.channels(boxes, None, None, masks, has_mask)
        return [*levels, *network.decoder(levels, image, boxes, prompt, image.flip(3), has_mask)]


def test_the_network_answers_as_the_checkpoint_did(trained: tuple[Path, Path]) -> None:
    checkpoint, bundle = trained
    network = Network(_TINY.model)
    network.load_state_dict(read_bundle_weights(bundle, _TINY.model))
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for found, wanted in zip(_answers(network.eval(), image), _answers(load_network(checkpoint), image), strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)  # weights of 16 bits


def test_a_run_that_starts_from_a_bundle_keeps_its_answers(trained: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, bundle = trained
    config = replace(_TINY, norm_steps=2, keep_answers=True)
    run = loop._Run(config, tmp_path, bundle)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for found, wanted in zip(_answers(run.network, image), _answers(load_network(checkpoint), image), strict=True):
        torch.testing.assert_close(found, wanted, rtol=5e-3, atol=5e-3)
    loop.train(replace(config, images=4), tmp_path / "on", bundle)
    after = read_checkpoint(tmp_path / "on" / loop.CHECKPOINT_NAME)
    assert after["step"] == 2
    assert not torch.equal(
        after["model"]["decoder.head.weight"], read_checkpoint(checkpoint)["ema"]["decoder.head.weight"]
    )


@pytest.mark.parametrize("settings", [{}, {"norm_steps": 2}, {"keep_answers": True}])
def test_a_configuration_that_would_not_keep_its_answers_is_refused(
    trained: tuple[Path, Path], tmp_path: Path, settings: dict[str, int]
) -> None:
    with pytest.raises(CheckpointError, match="set norm_steps and keep_answers"):
        loop.train(replace(_TINY, **settings), tmp_path, trained[1])  # type: ignore[arg-type]


def test_a_bundle_of_another_shape_is_refused(trained: tuple[Path, Path]) -> None:
    wider = replace(_TINY.model, embedding=(4, 8, 16))
    with pytest.raises(CheckpointError, match=r"do not hold the weights of this network; .*encoder\.necks\.2\.weight"):
        read_bundle_weights(trained[1], wider)


def test_a_folder_without_graphs_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copy(trained[1] / "encoder.onnx", tmp_path)
    with pytest.raises(CheckpointError, match=r"decoder\.onnx: no such graph"):
        read_bundle_weights(tmp_path, _TINY.model)
