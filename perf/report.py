"""From what was recorded to the report: statistics, Dice, states. And the file it is written to.

Knows the recorder and the layout; knows no process. Texts are cleaned of folders and of the user's file names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

import runtime
from perf.cases import Case, read_label_map
from perf.extras import KINDS
from perf.plan import Configuration
from perf.recorder import AnswerFile, Recorder
from perf.records import (
    PERF_VERSION,
    Agreement,
    Answer,
    CaseFigures,
    ConfigurationFigures,
    LabelledFigures,
    LogitsAgreement,
    Machine,
    Option,
    ProcessFigures,
    Report,
    Stat,
    Status,
)
from perf.roofline import build_roofline
from perf.stats import dice_by_label, packed_dice, summarise
from perf.suite import Outcome
from runtime.errors import OutputError

__all__ = ["PROCESSES", "Context", "build_report", "check_writable", "write_text"]

PROCESSES = ("cold", "warm", "stored", "second")
"""Kinds of whole processes, in the order they are shown."""


@dataclass(frozen=True, slots=True)
class Context:
    """All that a report needs beside the figures."""

    machine: Machine
    configurations: Sequence[Configuration]
    cases: Sequence[Case]
    options: Mapping[str, Option]
    private: Sequence[tuple[str, str]] = ()
    created: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


def build_report(recorder: Recorder, context: Context, outcome: Outcome, seconds: float) -> Report:
    """Make the report of what has been recorded, complete or not."""
    return Report(
        perf_version=PERF_VERSION,
        lite_infer=runtime.__version__,
        created=context.created.strftime("%Y-%m-%dT%H:%MZ"),
        seconds=round(seconds, 1),
        stopped=outcome.stopped,
        rounds=outcome.rounds,
        options=dict(context.options),
        machine=context.machine,
        floor=_processes(recorder, ("", "", "floor")),
        cases=tuple(case.facts for case in context.cases),
        configurations=tuple(_configuration(recorder, context, one) for one in context.configurations),
        roofline=build_roofline(recorder.peaks, recorder.graphs),
        labelled=tuple(_labelled(recorder, context)),
        failures=tuple(_failures(recorder, context)),
    )


def _failures(recorder: Recorder, context: Context) -> Iterator[str]:
    """Errors of extras, which belong to no case."""
    for (configuration, part), message in recorder.errors.items():
        if part in KINDS:
            yield f"{configuration} {part}: {_clean(message, context)}".lstrip()


def _configuration(recorder: Recorder, context: Context, one: Configuration) -> ConfigurationFigures:
    opened = recorder.opened.get(one.name)
    error = _clean(recorder.errors.get((one.name, "")), context)
    same_as = recorder.same_as.get(one.name)
    cases = tuple(_case(recorder, context, one, case) for case in context.cases if one.takes(case))
    status: Status = "failed" if error else "duplicate" if same_as else _worst([each.status for each in cases])
    return ConfigurationFigures(
        name=one.name,
        subject=one.subject.name,
        bundle=None if opened is None else opened.bundle,
        backend=one.backend,
        precision=one.precision,
        precision_used=None if opened is None else opened.precision,
        threads=one.threads,
        threads_used=None if opened is None else opened.threads,
        isa=one.isa,
        status=status,
        error=error,
        same_as=same_as,
        start={
            name: stages for name in ("cold", "warm") if (stages := _stages(recorder, (one.name, "", "start", name)))
        },
        cases=() if error or same_as else cases,
    )


def _worst(states: list[Status]) -> Status:
    if not states or all(state == "not measured" for state in states):
        return "not measured"
    return "ok" if all(state == "ok" for state in states) else "failed" if "failed" in states else "partial"


def _case(recorder: Recorder, context: Context, one: Configuration, case: Case) -> CaseFigures:
    key = (one.name, case.name)
    processes = _processes(recorder, (*key, "process"))
    stages = _stages(recorder, (*key, "stage"))
    error = _clean(recorder.errors.get(key), context)
    wanted = 1 if one.peer else 2 if one.is_reference else len(PROCESSES)
    is_whole = len(processes) == wanted and (stages or one.peer)
    status: Status = "failed" if error else "ok" if is_whole else "partial"
    if not error and not processes and not stages:
        status = "not measured"
    return CaseFigures(
        case=case.name,
        status=status,
        error=error,
        processes=processes,
        stages=stages,
        counts=recorder.counts.get(key, {}),
        answer=_answer(recorder, context, one, case),
    )


def _stages(recorder: Recorder, prefix: tuple[str, ...]) -> dict[str, Stat]:
    depth = len(prefix)
    found = {key[-1]: samples for key, samples in recorder.samples.items() if key[:depth] == prefix}
    return {name: summarise(samples) for name, samples in found.items()}


def _processes(recorder: Recorder, prefix: tuple[str, ...]) -> dict[str, ProcessFigures]:
    found = {}
    for key in list(recorder.samples):
        if key[: len(prefix)] == prefix and key[-1] == "wall_s":
            parts = _stages(recorder, key[:-1])
            found[key[-2]] = ProcessFigures(parts["wall_s"], parts.get("cpu_s"), parts.get("peak_rss_bytes"))
    return found


def _answer(recorder: Recorder, context: Context, one: Configuration, case: Case) -> Answer | None:
    mine = recorder.answers.get((one.name, case.name))
    if mine is None:
        return None
    reference = _reference(recorder, context, one, case)
    truth = None if case.truth is None else _agreement("truth", case.truth, mine.path)
    to_fp32 = None
    if reference is not None:
        name, other = reference
        same = Agreement(name, 1.0, 1.0)
        to_fp32 = same if other.sha256 == mine.sha256 else _agreement(name, other.path, mine.path)
    return Answer(mine.sha256, mine.voxels, to_fp32, truth, _logits(recorder, context, one, case))


def _logits(recorder: Recorder, context: Context, one: Configuration, case: Case) -> LogitsAgreement | None:
    reference = _reference(recorder, context, one, case)
    mine = recorder.logits.get((one.name, case.name))
    theirs = None if reference is None else recorder.logits.get((reference[0], case.name))
    if reference is None or mine is None or theirs is None:
        return None
    found, wanted = np.load(mine).astype(np.float64), np.load(theirs).astype(np.float64)
    if found.shape != wanted.shape or not wanted.std():
        return None
    difference = (found - wanted) / wanted.std()
    rms = float(np.sqrt(np.mean(difference**2)))
    return LogitsAgreement(reference[0], round(float(np.abs(difference).max()), 6), round(rms, 6))


def _labelled(recorder: Recorder, context: Context) -> Iterator[LabelledFigures]:
    """Dice on labelled images, and to the same bundle in float32; then the baselines."""
    for one in context.configurations:
        if one.name not in recorder.labelled:
            continue
        found, masks = recorder.labelled[one.name]
        agreement = None
        for other in context.configurations:
            opened, mine = recorder.opened.get(other.name), recorder.opened[one.name]
            if other.name not in recorder.labelled or opened is None or other.isa is not None:
                continue
            if (opened.bundle, opened.precision) == (mine.bundle, "fp32"):
                agreement = _masks_agreement(other.name, recorder.labelled[other.name][1], masks)
                break
        ms = found["decode_ms"] + found["encode_ms"] * found["slices"] / max(1, found["objects"])
        yield LabelledFigures(one.name, found["objects"], round(found["dice"], 5), agreement, round(ms, 3))
    for name, found in (recorder.baselines or {}).items():
        yield LabelledFigures(name, None, round(found["dice"], 5), None, round(found["ms"], 3))


def _masks_agreement(name: str, wanted: Path, found: Path) -> Agreement:
    """Dice over the objects of all slices, from packed masks."""
    with np.load(wanted) as one, np.load(found) as other:
        values = [float(dice) for key in one.files for dice in packed_dice(one[key], other[key])]
    return Agreement(name, round(float(np.mean(values)), 5), round(min(values), 5))


def _reference(recorder: Recorder, context: Context, one: Configuration, case: Case) -> tuple[str, AnswerFile] | None:
    """The same bundle in float32 on the first backend that was measured with it."""
    opened = recorder.opened.get(one.name)
    if opened is None:
        return None
    for other in context.configurations:
        found = recorder.opened.get(other.name)
        answer = recorder.answers.get((other.name, case.name))
        if found is None or answer is None or not other.is_own or other.isa is not None:
            continue
        if (found.bundle, found.precision) == (opened.bundle, "fp32"):
            return other.name, answer
    return None


def _agreement(name: str, wanted: Path, found: Path) -> Agreement | None:
    one, other = read_label_map(wanted), read_label_map(found)
    if one.shape != other.shape:  # to lose all figures for this would be worse than to say nothing
        return None
    values = list(dice_by_label(one, other).values())
    if not values:
        return Agreement(name, 1.0, 1.0)
    return Agreement(name, round(float(np.mean(values)), 5), round(min(values), 5))


def _clean(text: str | None, context: Context) -> str | None:
    if text is None:
        return None
    for secret, shown in (*context.private, (tempfile.gettempdir(), "TMP"), (str(Path.home()), "~")):
        if len(secret) > 1:
            text = text.replace(secret, shown)
    return text


def check_writable(path: Path) -> None:
    """Say before minutes of measuring that their result could not be written."""
    folder = path.resolve().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        msg = f"{path}: cannot be written; give --output FILE in a folder that exists and can be written"
        raise OutputError(msg)


def write_text(path: Path, text: str) -> None:
    """Write a file; it appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        msg = f"{path}: cannot be written ({error.strerror}); give --output FILE elsewhere"
        raise OutputError(msg) from error
