"""Training examples by number: example ``i`` of a seed is always the same, whoever draws it.

Knows the generator and the arrays a step needs; must not know the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pretrain.config import TrainConfig
from export.pretrain.pixels import draw_pixels
from export.pretrain.prompts import Prompt, PromptMix, make_prompt
from export.pretrain.scenes import draw_size, make_scene
from export.pretrain.sequences import Sequence, make_sequence

__all__ = ["Example", "Examples", "example_numbers", "is_rollout", "make_example"]


@dataclass(frozen=True)
class Example:
    """One image in the input frame with P prompts; padding is 0 right and bottom."""

    pixels: NDArray[np.uint8]  # (3, S, S)
    targets: NDArray[np.uint8]  # (P, S, S), 0 or 1
    boxes: NDArray[np.float32]  # (P, 4)
    neighbours: NDArray[np.uint8]  # (P, S, S), 0 or 1; empty where the box is a limit
    has_neighbour: NDArray[np.bool_]  # (P,)
    clicks: NDArray[np.float32]  # (P, 2) x and y
    has_click: NDArray[np.bool_]  # (P,)


def make_example(
    seed: int,
    index: int,
    *,
    size: int = 256,
    prompts: int = 4,
    mix: PromptMix = PromptMix(),  # noqa: B008 (frozen)
    coarse_share: float = 0.0,
) -> Example:
    """Draw example ``index`` of ``seed``; an unusable scene is drawn again under the same number."""
    rng = np.random.default_rng([seed, index])
    drawn: list[Prompt] = []
    while len(drawn) < prompts:
        drawn_scene = make_scene(rng, draw_size(rng, size, coarse_share))
        scene = drawn_scene.enlarged(size)
        found = [make_prompt(scene, rng, mix) for _ in range(prompts)]
        drawn = [prompt for prompt in found if prompt is not None]
        if drawn:
            drawn = (drawn * prompts)[:prompts]
    pixels = draw_pixels(drawn_scene, size, rng, rng)
    height, width = scene.labels.shape
    masks = np.zeros((2, prompts, size, size), np.uint8)
    clicks = np.zeros((prompts, 2), np.float32)
    for slot, prompt in enumerate(drawn):
        masks[0, slot, :height, :width] = prompt.target
        if prompt.neighbour is not None:
            masks[1, slot, :height, :width] = prompt.neighbour
        if prompt.click is not None:
            clicks[slot] = prompt.click
    return Example(
        pixels,
        masks[0],
        np.stack([prompt.box for prompt in drawn]),
        masks[1],
        np.array([prompt.neighbour is not None for prompt in drawn]),
        clicks,
        np.array([prompt.click is not None for prompt in drawn]),
    )


class Examples:
    """All examples of a run by number: images, and in roll-out steps sequences; a map-style set for a torch loader."""

    def __init__(self, config: TrainConfig) -> None:
        """Remember the numbers; nothing is drawn yet."""
        self._config = config
        self._mix = PromptMix(**{item.name: getattr(config, item.name) for item in fields(PromptMix)})

    def __getitem__(self, index: int) -> Example | Sequence:
        """Draw example ``index`` on one thread."""
        cv2.setNumThreads(1)
        config = self._config
        size = config.model.input_size
        if is_rollout(config, index // config.batch):
            return make_sequence(
                config.seed,
                index,
                slices=config.slices,
                size=size,
                objects=config.sequence_objects,
                mark_limits=config.limit_share > 0,
                coarse_share=config.coarse_share,
            )
        return make_example(
            config.seed,
            index,
            size=size,
            prompts=config.prompts,
            mix=self._mix,
            coarse_share=config.coarse_share,
        )


def is_rollout(config: TrainConfig, step: int) -> bool:
    """Whether a step works on sequences; the same on every rank."""
    return bool(np.random.default_rng([config.seed, step, 98]).uniform() < config.rollout_share)


def example_numbers(config: TrainConfig, rank: int, step: int) -> Iterator[list[int]]:
    """Numbers of a rank's examples, batch by batch from ``step`` to the end."""
    share = config.batch // config.processes
    for number in range(step, config.images // config.batch):
        first = number * config.batch + rank * share
        count = max(1, config.sequences // config.processes) if is_rollout(config, number) else share
        yield list(range(first, first + count))
