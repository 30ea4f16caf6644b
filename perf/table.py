"""The report as plain text, aligned for a terminal.

Knows the layout of the report alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perf.figures import ratio
from perf.records import Answer, CaseFigures, ConfigurationFigures, Machine, ProcessFigures, Report, Stat

__all__ = ["format_report"]

_MIB = 1 << 20
_GIB = 1 << 30
_NONE = "-"
_PROCESS_TITLES = (
    *("whole process, s", "cold", "warm", "stored", "second", "over floor", "of ref.", "CPU s", "of ref."),
    *("peak MiB", "Dice fp32", "Dice truth"),
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
    blocks = [list(_head(report)), list(_floor(report)), list(_start(report))]
    for facts in report.cases:
        found = [(one, case) for one in report.configurations for case in one.cases if case.case == facts.name]
        title = f"{facts.name}: {facts.title} ({'x'.join(str(side) for side in facts.shape)} {facts.dtype})"
        blocks.append([title, *_indent(_case_tables(found, report.floor.get("floor")))])
    blocks.append(list(_remarks(report)))
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _head(report: Report) -> Iterator[str]:
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
    rows = [[names.get(name, name), _seconds(one.wall_s), _memory(one)] for name, one in report.floor.items()]
    yield from _indent(_aligned([["process", "wall", "peak MiB"], *rows]))


def _start(report: Report) -> Iterator[str]:
    stages = (("import", "import_ms"), ("open", "open_ms"), ("compile", "compile_ms"), ("start", "start_ms"))
    rows = [
        [_label(one), name, *(_milliseconds(found.get(key)) for _, key in stages)]
        for one in report.configurations
        for name, found in one.start.items()
    ]
    if rows:
        yield "Start of a session, ms (median, min-max); start = open + compile"
        yield from _indent(_aligned([["configuration", "graph cache", *(title for title, _ in stages)], *rows]))


def _case_tables(
    found: Sequence[tuple[ConfigurationFigures, CaseFigures]], floor: ProcessFigures | None
) -> Iterator[str]:
    rows = [[*_PROCESS_TITLES]]
    for one, case in found:
        kinds = [case.processes.get(kind) for kind in ("cold", "warm", "stored", "second")]
        warm, plain = kinds[1], _plain(found, one)
        over = _NONE if warm is None or floor is None else f"{warm.wall_s.median - floor.wall_s.median:.2f}"
        cpu = _NONE if warm is None or warm.cpu_s is None else f"{warm.cpu_s.median:.2f}"
        walls = [_NONE if kind is None else _seconds(kind.wall_s) for kind in kinds]
        ratios = ratio(warm, plain, "wall_s"), ratio(warm, plain, "cpu_s")
        shown = [_NONE if value is None else f"{value:.2f}" for value in ratios]
        rows.append([_label(one), *walls, over, shown[0], cpu, shown[1], _memory(warm), *_dice(case.answer)])
    yield from _aligned(rows)
    staged = [(one, case) for one, case in found if case.stages]
    if staged:
        rows = [["inside a session, ms", *(title for title, _ in _STAGES), "slices", "boxes"]]
        for one, case in staged:
            counts = [f"{case.counts[name]:.0f}" for name in ("slices_encoded", "prompts_decoded")]
            rows.append([_label(one), *(_milliseconds(case.stages.get(key)) for _, key in _STAGES), *counts])
        yield from _aligned(rows)


def _plain(
    found: Sequence[tuple[ConfigurationFigures, CaseFigures]], one: ConfigurationFigures
) -> ProcessFigures | None:
    """Return the reference pipeline's warm process with the same bundle."""
    for other, case in found:
        if (other.backend, other.precision, other.subject) == ("reference", "default", one.subject):
            return case.processes.get("warm")
    return None


def _remarks(report: Report) -> Iterator[str]:
    machine = report.machine
    if machine.load_average is not None and machine.load_average > 0.5 * machine.usable_cores:
        yield (
            f"The machine was busy when this began (load {machine.load_average:g} on {machine.usable_cores} cores): "
            "do not compare these figures with others."
        )
    if report.stopped is not None:
        yield f"Stopped by {'Ctrl-C' if report.stopped == 'interrupted' else 'the time limit'}; - was not measured."
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
    parts = (None, None) if answer is None else (answer.to_fp32, answer.to_truth)
    return [_NONE if part is None else f"{part.dice_mean:.4f}" for part in parts]


def _memory(one: ProcessFigures | None) -> str:
    return _NONE if one is None or one.peak_rss_bytes is None else f"{one.peak_rss_bytes.median / _MIB:.0f}"


def _seconds(stat: Stat) -> str:
    spread = "" if stat.n == 1 else f" ({stat.min:.2f}-{stat.max:.2f})"
    return f"{stat.median:.2f}{spread}"


def _milliseconds(stat: Stat | None) -> str:
    if stat is None:
        return _NONE
    spread = "" if stat.n == 1 else f" ({_short(stat.min)}-{_short(stat.max)})"
    return f"{_short(stat.median)}{spread}"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _indent(lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)
