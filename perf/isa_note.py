"""What a limit of instructions emulates, and what it does not.

Knows the layout of the report alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from perf.records import Report

__all__ = ["isa_note"]


def isa_note(report: Report) -> Iterator[str]:
    """One sentence for all limits, and one for a limit that this CPU can only follow in part."""
    limits = list(dict.fromkeys(one.isa for one in report.configurations if one.isa is not None))
    if not limits:
        return
    yield (
        f"Limited to {', '.join(limits)} (ONEDNN_MAX_CPU_ISA): OpenVINO's kernels and lite-infer's choice of precision "
        "use only these instructions, as on a CPU that has no others. Not emulated: such a CPU's clock, caches, memory "
        "bandwidth, number and kinds of cores, and what numpy, OpenCV, ONNX Runtime and lite-infer's own kernels do."
    )
    if "AVX2_VNNI" in limits and "avx_vnni" not in report.machine.isa:
        yield "This CPU has no AVX-VNNI of 256 bits: AVX2_VNNI is AVX2 here and says nothing of CPUs that have it."
