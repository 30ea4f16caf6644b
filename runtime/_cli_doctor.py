"""What ``lite-infer doctor`` prints to a person.

Knows the layout of what `runtime._doctor` found; looks at nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["doctor_report"]

_MIB = 1 << 20


def doctor_report(found: dict[str, Any]) -> str:
    """Say what was found, in lines that a bug report can quote."""
    return "\n".join((*_machine(found), *_software(found), *_files(found), *_problems(found)))


def _machine(found: dict[str, Any]) -> Iterator[str]:
    cpu = found["cpu"]
    yield f"lite-infer {found['lite_infer']}, {found['python']}, {found['system']}"
    memory = "" if found["memory_bytes"] is None else f", {found['memory_bytes'] / 1024**3:.1f} GiB of memory"
    quota = "" if cpu["quota_cores"] is None else f", quota {cpu['quota_cores']:g}"
    yield f"cpu         {cpu['name']}{memory}"
    yield (
        f"cores       {cpu['physical_cores'] or 'unknown'} physical, {cpu['logical_cores']} logical, "
        f"{cpu['usable_cores']} usable{quota}; {cpu['threads']} threads by default"
    )
    yield f"features    {' '.join(cpu['features']) or 'none known'}"
    for name, value in found["environment"].items():
        yield f"variable    {name}={value}"
    for name in found["variables_set"]:
        yield f"variable    {name} is set"


def _software(found: dict[str, Any]) -> Iterator[str]:
    yield f"extension   {'loads' if found['extension'] else 'does not load'}"
    for one in found["backends"]:
        if one["version"] is None:
            yield f"backend     {one['name']}: not installed"
        elif not one["precisions"]:
            yield f"backend     {one['name']} {one['version']}: does not work"
        else:
            slow = {"bf16": "" if one["native_bf16"] else " (emulated, slow)"}
            able = ", ".join(f"{precision}{slow.get(precision, '')}" for precision in one["precisions"])
            unit = "" if one["int8_unit"] is None else f" ({one['int8_unit']})"
            yield f"backend     {one['name']} {one['version']}: {able}{unit}; auto is {one['auto']}"
    versions = found["packages"].items()
    yield f"packages    {', '.join(f'{name} {version}' for name, version in versions if version is not None)}"
    absent = [name for name, version in versions if version is None]
    if absent:
        yield f"absent      {', '.join(absent)}"
    for one in found["decoders"]:
        state = "" if one["readable"] else "NOT readable, install "
        yield f"dicom       {one['uid']} {one['name']}: {state}{one['package']}"


def _files(found: dict[str, Any]) -> Iterator[str]:
    bundle = found["default_bundle"]
    yield f"bundle      {bundle['name'] or 'none'}{', intact' if bundle['intact'] else ', NOT intact'}"
    cache = found["cache"]
    if cache is not None:
        yield f"cache       {cache['directory']} ({_state(cache)})"
        for what in ("embeddings", "graphs"):
            size, limit = cache[f"{what}_bytes"] / _MIB, cache[f"{what}_limit_bytes"] / _MIB
            yield f"            {cache[what]} {what}, {size:.1f} of at most {limit:.0f} MiB"
    for one in found["models"]:
        yield f"models      {one['directory']} ({_state(one)}): {one['bundles']} bundles"


def _state(folder: dict[str, Any]) -> str:
    return f"{'exists' if folder['exists'] else 'absent'}, {'writable' if folder['writable'] else 'not writable'}"


def _problems(found: dict[str, Any]) -> Iterator[str]:
    for problem in found["problems"]:
        yield f"PROBLEM     {problem}"
    if not found["problems"]:
        yield "no problem found"
