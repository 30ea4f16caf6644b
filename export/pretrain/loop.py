"""The training loop: one process, two with an all-reduce, or a GPU; survives being killed.

Knows optimiser, schedule, averaging, processes, checkpoints and the learning-curve log. Must not know how scenes or
prompts are made.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader

from export.pretrain.checkpoint import read_checkpoint, write_checkpoint
from export.pretrain.config import TrainConfig
from export.pretrain.dataset import Examples, example_numbers, is_rollout
from export.pretrain.model import Network
from export.pretrain.norms import count_norms
from export.pretrain.rollout import SequenceBatch, collate, rollout_loss
from export.pretrain.step import Batch, StepResult, training_loss
from export.pretrain.unfold import read_bundle_weights
from runtime.errors import CheckpointError

__all__ = ["CHECKPOINT_NAME", "learning_rate", "train"]

CHECKPOINT_NAME = "checkpoint.pt"
_LOG_NAME = "curve.jsonl"
_KINDS = ("box", "neighbour", "second", "rollout")


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then linear to zero at the last step."""
    total = max(1, config.images // config.batch)
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * max(0.0, 1 - step / total)


def train(config: TrainConfig, output: Path, start: Path | None = None) -> None:
    """Train into ``output``, continuing from its checkpoint if there is one, else from the weights of ``start``.

    That is a checkpoint, or the folder of a bundle, for a configuration that counts statistics and keeps answers.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")
    if torch.cuda.is_available() or config.processes == 1:
        _run(0, replace(config, processes=1), output, start, "")
        return
    meeting = output / "rendezvous"
    meeting.unlink(missing_ok=True)
    spawn(  # type: ignore[no-untyped-call]
        _run, (config, output, start, meeting.resolve().as_uri()), nprocs=config.processes
    )
    meeting.unlink(missing_ok=True)


def _bfloat16_is_native() -> bool:
    return bool(
        torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def _weights_of(start: Path, config: TrainConfig) -> dict[str, Tensor]:
    if not start.is_dir():
        weights: dict[str, Tensor] = read_checkpoint(start)["ema"]
        return weights
    if not (config.norm_steps and config.keep_answers):
        msg = (
            f"{start}: the normalisations of a bundle are folded, so that a run by each batch's own statistics would "
            "not go on from its answers; set norm_steps and keep_answers, or start from a checkpoint"
        )
        raise CheckpointError(msg)
    return read_bundle_weights(start, config.model)


class _Run:
    """State of one rank: network, optimiser, average, step."""

    def __init__(self, config: TrainConfig, output: Path, start: Path | None) -> None:
        """Allocate, take over the averaged weights of ``start``, or continue the checkpoint in ``output``."""
        self.config = config
        self.output = output
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(config.seed)
        self.network = Network(config.model).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if start is not None:
            self.network.take_over(_weights_of(start, config))
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.step = 0
        checkpoint = output / CHECKPOINT_NAME
        if config.norm_steps and not checkpoint.is_file():
            self._count_norms()
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        if checkpoint.is_file():
            state = read_checkpoint(checkpoint)
            if "model" not in state:
                msg = f"{checkpoint}: a mean of runs, which is not a run to continue; train from it with --start"
                raise CheckpointError(msg)
            self.network.load_state_dict(state["model"])
            self.network.train(not config.norm_steps)
            self.optimizer.load_state_dict(state["optimizer"])
            self.average = {name: value.to(self.device) for name, value in state["ema"].items()}
            self.step = int(state["step"])

    def update(self, batch: Batch | SequenceBatch, rng: np.random.Generator) -> StepResult:
        """One optimiser step; gradients are averaged over the processes."""
        config = self.config
        rate = learning_rate(config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        refine = self.step >= 2 * config.warmup_steps and _refines(config, self.step)
        result = self._loss(batch, rng, refine=refine)
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()  # type: ignore[no-untyped-call]
        _average_gradients(self.parameters, config.processes)
        nn.utils.clip_grad_norm_(self.parameters, config.clip)
        self.optimizer.step()
        self.step += 1
        keep = min(config.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - keep)
            else:
                self.average[name].copy_(value)
        return result

    def _loss(self, batch: Batch | SequenceBatch, rng: np.random.Generator, *, refine: bool) -> StepResult:
        config = self.config
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16 and _bfloat16_is_native()):
            if isinstance(batch, SequenceBatch):
                return rollout_loss(self.network, batch, rng, score_weight=config.score_weight)
            return training_loss(self.network, batch, rng, refine=refine, score_weight=config.score_weight)

    def _count_norms(self) -> None:
        """Fix the statistics that normalise the whole run; counted over the steps that would come after its last."""
        images, rollouts = 1 - self.config.rollout_share, self.config.rollout_share
        second = images * self.config.refine_share
        kinds = {(False, False): images - second, (False, True): second, (True, False): rollouts}
        passes = [self._passes(*kind) for kind, share in kinds.items() if share > 0]
        count_norms(self.network, passes, keep_answers=self.config.keep_answers)

    def _passes(self, rollout: bool, refine: bool) -> Iterator[Callable[[], StepResult]]:
        config, examples = self.config, Examples(self.config)
        later = example_numbers(replace(config, processes=1, images=sys.maxsize), 0, config.images // config.batch)
        wanted = (numbers for numbers in later if is_rollout(config, numbers[0] // config.batch) == rollout)
        for numbers in islice(wanted, config.norm_steps):
            batch = collate([examples[number] for number in numbers]).to(self.device)
            rng = np.random.default_rng([config.seed, numbers[0], 8])
            yield partial(self._loss, batch, rng, refine=refine)

    def save(self) -> None:
        """Write everything that a resumed run needs; examples and clicks follow from seed and step."""
        state: dict[str, Any] = {
            "config": self.config.to_json(),
            "step": self.step,
            "ema": self.average,
            "images": self.step * self.config.batch,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_checkpoint(self.output / CHECKPOINT_NAME, state)


def _refines(config: TrainConfig, step: int) -> bool:
    """Same decision on every rank."""
    return bool(np.random.default_rng([config.seed, step, 99]).uniform() < config.refine_share)


def _average_gradients(parameters: list[nn.Parameter], processes: int) -> None:
    if processes == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    flat /= processes
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view(parameter.shape)
        start += parameter.numel()


def _run(rank: int, config: TrainConfig, output: Path, start: Path | None, meeting: str) -> None:
    """Train as one of ``config.processes`` ranks."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # several one-thread processes beat one process with several threads here
    if config.processes > 1:
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=config.processes)
    with _subnormals_as_zero():
        _steps(rank, config, output, start)
    if config.processes > 1:
        distributed.destroy_process_group()


@contextmanager
def _subnormals_as_zero() -> Iterator[None]:
    """Numbers below the smallest normal one cost a hundred times as much; the caller's thread gets them back."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _steps(rank: int, config: TrainConfig, output: Path, start: Path | None) -> None:
    """All steps that are left, with a checkpoint from time to time and at the end."""
    run = _Run(config, output, start)
    numbers = example_numbers(config, rank, run.step)
    examples: Any = Examples(config)  # map-style, but endless: it has no length
    batches: DataLoader[Any] = DataLoader(
        examples,
        batch_sampler=numbers,
        collate_fn=collate,
        num_workers=config.workers,
        multiprocessing_context="spawn" if config.workers else None,  # a fork may inherit a held lock of OpenMP's
    )
    progress = _Progress(config, output)
    saved = time.monotonic()
    for batch in batches:
        rng = np.random.default_rng([config.seed, run.step, rank, 7])
        result = run.update(batch.to(run.device), rng)
        if rank:
            continue
        progress.add(run.step, result)
        if time.monotonic() - saved > config.checkpoint_seconds:
            run.save()
            saved = time.monotonic()
    if rank == 0:
        run.save()


class _Progress:
    """Running means every ``log_steps`` steps: a JSON line of the learning curve, and a line to standard error."""

    def __init__(self, config: TrainConfig, output: Path) -> None:
        """Open nothing; lines are appended one by one."""
        self._config = config
        self._path = output / _LOG_NAME
        self._name = output.name
        self._started = time.monotonic()
        self._losses: list[float] = []
        self._dice: list[list[float]] = [[] for _ in _KINDS]

    def add(self, step: int, result: StepResult) -> None:
        """Collect one step and write a line when it is due."""
        self._losses.append(float(result.loss.detach()))
        for value, kind in zip(result.dice, result.kind, strict=True):
            self._dice[int(kind)].append(float(value))
        if step % self._config.log_steps:
            return
        now = time.monotonic()
        rate = len(self._losses) * self._config.batch / max(now - self._started, 1e-9)
        line: dict[str, float | None] = {
            "step": step,
            "images": step * self._config.batch,
            "lr": learning_rate(self._config, step),
            "loss": round(float(np.mean(self._losses)), 4),
            "images_per_s": round(rate, 2),
        }
        for name, values in zip(_KINDS, self._dice, strict=True):
            line[f"dice_{name}"] = round(float(np.mean(values)), 4) if values else None
        with self._path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        total = self._config.images // self._config.batch
        left = (total - step) * self._config.batch / max(rate, 1e-9) / 60
        sys.stderr.write(
            f"{self._name}: step {step} of {total}, loss {line['loss']:.3f}, {rate:.1f} images/s, {left:.0f} min left\n"
        )
        self._started, self._losses, self._dice = now, [], [[] for _ in _KINDS]
