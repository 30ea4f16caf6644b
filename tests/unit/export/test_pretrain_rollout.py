"""Training on roll-outs: the first slice's prompt and the next one's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from export.pretrain import loop  # noqa: E402
from export.pretrain.config import ModelConfig, TrainConfig  # noqa: E402
from export.pretrain.dataset import Examples, example_numbers, is_rollout  # noqa: E402
from export.pretrain.rollout import SequenceBatch, _follow, _next_boxes, collate, rollout_loss  # noqa: E402
from export.pretrain.step import Batch  # noqa: E402

_TINY = TrainConfig(
    images=8,
    batch=2,
    prompts=2,
    processes=1,
    workers=0,
    warmup_steps=1,
    log_steps=1,
    rollout_share=0.5,
    sequences=2,
    slices=3,
    sequence_objects=2,
    checkpoint_seconds=1e9,
    bfloat16=False,
    model=ModelConfig(input_size=64, widths=(4, 4, 8, 8, 8), blocks=(0, 0, 0, 1, 0), embedding=(4, 8, 8)),
)


def test_the_next_box_is_the_grown_tight_box_inside_its_limits() -> None:
    masks = np.zeros((3, 20, 30), bool)[:, :20, :20]
    masks[0, 4:8, 5:11] = True
    masks[1, 4:8, 5:11] = True
    boxes = np.array([[1, 1, 2, 2]] * 3, np.float32)
    limits = np.array([[-np.inf, -np.inf, np.inf, np.inf], [4, 0, 11, 8], [0, 0, 19, 19]], np.float32)
    margins, still = np.full(3, 2.0, np.float32), np.zeros((3, 2), np.float32)
    found = _next_boxes(masks, boxes, limits, margins, still)
    assert found[0].tolist() == [3, 2, 12, 9]
    assert found[1].tolist() == [4, 2, 11, 8]
    assert found[2].tolist() == [1, 1, 2, 2]  # an empty mask keeps the box before it
    found = _next_boxes(masks, boxes, limits, margins, still + np.float32([3, -1]))
    assert found[0].tolist() == [6, 1, 15, 8]
    assert found[1].tolist() == [6, 1, 11, 8]


def test_masks_are_moved_with_what_they_cover() -> None:
    rows, columns = np.mgrid[:64, :64]
    before, now = (
        np.uint8(40 + 180 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 40))[np.newaxis]
        for x, y in ((30, 30), (33, 29))
    )
    masks = np.full((2, 1, 64, 64), -8, np.float32)
    masks[0, 0, 27:34, 27:34] = 8
    moved = _follow(before, now, masks)
    np.testing.assert_allclose(moved, [[3, -1], [0, 0]], atol=0.4)
    assert np.argwhere(masks[0, 0] > 0).min(axis=0).tolist() == [26, 30]
    assert (masks[1] < 0).all()


def test_a_box_that_is_a_limit_is_prompted_as_one_on_the_first_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = Examples(replace(_TINY, rollout_share=1.0, sequence_objects=4, limit_share=0.1))
    batch = collate([examples[index] for index in range(6)])
    assert isinstance(batch, SequenceBatch)
    assert 0 < int(batch.is_limit.sum()) < len(batch.is_limit)
    limits = torch.from_numpy(batch.limits)
    assert all(torch.equal(batch.boxes[row], limits[row]) for row in torch.nonzero(batch.is_limit)[:, 0])
    network = loop.Network(_TINY.model)
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    channels = network.decoder.geometry.channels

    def spy(*inputs: torch.Tensor) -> torch.Tensor:
        asked.append((inputs[3].clone(), inputs[4].clone()))
        return channels(*inputs)

    monkeypatch.setattr(network.decoder.geometry, "channels", spy)
    rollout_loss(network, batch, np.random.default_rng(0), score_weight=0.5)
    masks, has_mask = asked[0]
    assert torch.equal(has_mask, batch.is_limit * 2.0)
    assert (masks == -8).all()


def test_every_rank_makes_the_same_kind_of_step() -> None:
    config = replace(_TINY, images=400, batch=4, sequences=2, processes=2)
    batches = [list(example_numbers(config, rank, 0)) for rank in (0, 1)]
    assert len(batches[0]) == len(batches[1]) == 100
    kinds = [is_rollout(config, step) for step in range(100)]
    assert 30 < sum(kinds) < 70
    for step, (left, right) in enumerate(zip(*batches, strict=True)):
        assert len(left) == len(right) == (1 if kinds[step] else 2)
        assert not set(left) & set(right)
        assert {number // 4 for number in left + right} == {step}


def test_a_step_gets_images_or_sequences() -> None:
    examples = Examples(_TINY)
    for step, numbers in enumerate(example_numbers(_TINY, 0, 0)):
        batch = collate([examples[number] for number in numbers])  # type: ignore[arg-type]
        assert isinstance(batch, SequenceBatch if is_rollout(_TINY, step) else Batch)


def test_a_rollout_trains_the_decoder(tmp_path: Path) -> None:
    config = replace(_TINY, rollout_share=1.0)
    torch.manual_seed(0)
    network = loop.Network(config.model)
    examples = Examples(config)
    batch = collate([examples[0], examples[1]])
    assert isinstance(batch, SequenceBatch)
    assert batch.targets.shape == (3, 4, 1, 64, 64)
    result = rollout_loss(network, batch, np.random.default_rng(0), score_weight=0.5)
    result.loss.backward()
    gradient = network.decoder.head.weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0
    assert set(result.kind) == {3}
