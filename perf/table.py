"""The report as plain text, aligned for a terminal.

Knows the layout of the report alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perf.extra_tables import budget_lines, labelled_lines, roofline_lines, shortfall_lines
from perf.figures import case_of, is_own, ratio, reference_of, single_of
from perf.isa_note import isa_note
from perf.records import Answer, CaseFigures, ConfigurationFigures, Machine, ProcessFigures, Report
from perf.stats import ratio_of_medians
from perf.text import NONE, aligned, indented, milliseconds, seconds

__all__ = ["case_rows", "format_report", "head_lines", "remarks", "start_rows"]

_MIB = 1 << 20
_GIB = 1 << 30
_PROCESS_TITLES = (
    *("whole process, s", "cold", "warm", "stored", "second", "over floor", "of ref.", "CPU s", "of ref."),
    *("peak MiB", "Dice fp32", "logits", "Dice truth"),
)
_STAGES = (
    ("read", "read_ms"),
    ("window", "window_ms"),
    ("encode/slice", "encode_per_slice_ms"),
    ("decode/box", "decode_per_box_ms"),
    ("rest", "rest_ms"),
    ("propagate", "propagate_ms"),
    ("stored", "stored_propagate_ms"),
    ("second", "second_box_ms"),
    ("write", "write_ms"),
)


def format_report(report: Report) -> str:
    """Make the whole text."""
    blocks = [list(head_lines(report)), list(_floor(report)), list(_start(report))]
    for facts in report.cases:
        found = [(one, case) for one in report.configurations for case in one.cases if case.case == facts.name]
        title = f"{facts.name}: {facts.title} ({'x'.join(str(side) for side in facts.shape)} {facts.dtype})"
        blocks.append([title, *indented(_case_tables(report, found))])
    extras = (labelled_lines, roofline_lines, budget_lines, shortfall_lines)
    blocks += [list(lines(report)) for lines in extras]
    blocks.append(list(remarks(report)))
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def head_lines(report: Report) -> Iterator[str]:
    """Machine, software and bundles."""
    machine = report.machine
    yield f"lite-infer {report.lite_infer} performance, {report.created}, {report.rounds} complete rounds"
    yield f"CPU       {machine.cpu} ({_cores(machine)}); {' '.join(machine.isa) or 'instruction sets unknown'}"
    memory = "memory unknown" if machine.memory_bytes is None else f"{machine.memory_bytes / _GIB:.0f} GiB"
    governor = "" if machine.governor is None else f", governor {machine.governor}"
    yield f"system    {machine.system}, {machine.architecture}, {memory}{governor}"
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if name != "lite-infer")
    yield f"software  {machine.python}; {packages}"
    if machine.environment:
        yield "variables " + " ".join(f"{name}={value}" for name, value in machine.environment.items())
    for bundle in dict.fromkeys(one.bundle for one in report.configurations if one.bundle is not None):
        names = [one.name for one in report.configurations if one.bundle == bundle]
        yield f"bundle    {bundle.name} {bundle.version} ({bundle.sha256[:12]}): {', '.join(names)}"


def _cores(machine: Machine) -> str:
    physical = "?" if machine.physical_cores is None else machine.physical_cores
    quota = "" if machine.quota_cores is None else f", limited to {machine.quota_cores:g}"
    return f"{physical} cores, {machine.logical_cores} threads, {machine.usable_cores} usable{quota}"


def _floor(report: Report) -> Iterator[str]:
    if not report.floor:
        return
    names = {"interpreter": "bare Python", "import": "import runtime", "floor": "numpy + openvino + Core()"}
    yield "Processes that do nothing, s (median, min-max)"
    rows = [[names.get(name, name), seconds(one.wall_s), _memory(one)] for name, one in report.floor.items()]
    yield from indented(aligned([["process", "wall", "peak MiB"], *rows]))


def start_rows(report: Report) -> list[list[str]]:
    """Stages of opening a session, a head first."""
    stages = (("import", "import_ms"), ("open", "open_ms"), ("compile", "compile_ms"), ("start", "start_ms"))
    rows = [["configuration", "graph cache", *(title for title, _ in stages)]]
    for one in report.configurations:
        for name, found in one.start.items():
            rows.append([_label(one), name, *(milliseconds(found.get(key)) for _, key in stages)])
    return rows


def _start(report: Report) -> Iterator[str]:
    rows = start_rows(report)
    if len(rows) > 1:
        yield "Start of a session, ms (median, min-max); start = open + compile"
        yield from indented(aligned(rows))


def _case_tables(report: Report, found: Sequence[tuple[ConfigurationFigures, CaseFigures]]) -> Iterator[str]:
    for rows in case_rows(report, found):
        yield from aligned(rows)


def case_rows(report: Report, found: Sequence[tuple[ConfigurationFigures, CaseFigures]]) -> Iterator[list[list[str]]]:
    """Whole processes of a case, then its stages, a head first in each."""
    rows, floor = [[*_PROCESS_TITLES]], report.floor.get("floor")
    for one, case in found:
        kinds = [case.processes.get(kind) for kind in ("cold", "warm", "stored", "second")]
        warm, plain = kinds[1], _plain(report, one, case.case)
        over = NONE if warm is None or floor is None else f"{warm.wall_s.median - floor.wall_s.median:.2f}"
        cpu = NONE if warm is None or warm.cpu_s is None else f"{warm.cpu_s.median:.2f}"
        walls = [NONE if kind is None else seconds(kind.wall_s) for kind in kinds]
        ratios = ratio(warm, plain, "wall_s"), ratio(warm, plain, "cpu_s")
        shown = [NONE if found is None else f"{found.value:.2f}" for found in ratios]
        rows.append([_label(one), *walls, over, shown[0], cpu, shown[1], _memory(warm), *_dice(case.answer)])
    yield rows
    staged = [(one, case) for one, case in found if case.stages]
    if staged:
        rows = [["inside a session, ms", *(title for title, _ in _STAGES), "of fp32", "slices", "boxes"]]
        for one, case in staged:
            counts = [f"{case.counts[name]:.0f}" for name in ("slices_encoded", "prompts_decoded")]
            stages = (milliseconds(case.stages.get(key)) for _, key in _STAGES)
            rows.append([_label(one), *stages, _of_single(report, one, case), *counts])
        yield rows


def _of_single(report: Report, one: ConfigurationFigures, case: CaseFigures) -> str:
    """`propagate_ms` over that in float32."""
    other = single_of(report, one) if is_own(one) else None
    theirs = None if other is None or other is one else case_of(other, case.case)
    mine = case.stages.get("propagate_ms")
    if mine is None or theirs is None or "propagate_ms" not in theirs.stages:
        return NONE
    found = ratio_of_medians(mine.samples, theirs.stages["propagate_ms"].samples)
    return NONE if found is None else f"{found.value:.2f}"


def _plain(report: Report, one: ConfigurationFigures, case: str) -> ProcessFigures | None:
    """Return the reference pipeline's warm process with the same bundle."""
    other = reference_of(report, one.subject, "default" if one.isa is None else "fp32", one.isa)
    found = None if other is None or other is one else case_of(other, case)
    return None if found is None else found.processes.get("warm")


def remarks(report: Report) -> Iterator[str]:
    """What a reader must know of the run: a busy machine, an early end, duplicates, errors."""
    machine = report.machine
    if machine.load_average is not None and machine.load_average > 0.5 * machine.usable_cores:
        yield (
            f"The machine was busy when this began (load {machine.load_average:g} on {machine.usable_cores} cores): "
            "do not compare these figures with others."
        )
    if report.stopped is not None:
        yield f"Stopped by {'Ctrl-C' if report.stopped == 'interrupted' else 'the time limit'}; - was not measured."
    yield from isa_note(report)
    yield from (f"FAILED: {failure}" for failure in report.failures)
    for one in report.configurations:
        if one.same_as is not None:
            yield f"{one.name}: the same as {one.same_as} here ({one.precision_used}), measured once."
        if one.error is not None:
            yield f"{one.name}: FAILED: {one.error}"
        for case in one.cases:
            if case.error is not None:
                yield f"{one.name}, {case.case}: FAILED: {case.error}"


def _label(one: ConfigurationFigures) -> str:
    resolved = one.precision_used is not None and one.precision_used != one.precision
    return f"{one.name} ({one.precision_used})" if resolved else one.name


def _dice(answer: Answer | None) -> list[str]:
    """Dice to float32, rms difference of its logits over their deviation, Dice to the truth."""
    if answer is None:
        return [NONE] * 3
    fp32, truth = (NONE if part is None else f"{part.dice_mean:.4f}" for part in (answer.to_fp32, answer.to_truth))
    return [fp32, NONE if answer.logits is None else f"{answer.logits.rms:.4f}", truth]


def _memory(one: ProcessFigures | None) -> str:
    return NONE if one is None or one.peak_rss_bytes is None else f"{one.peak_rss_bytes.median / _MIB:.0f}"
