"""What lite-infer finds on this computer, for a bug report: versions, CPU, engines, decoders, folders.

Knows every part that may be missing or broken, and goes on where one is. Must not write anything, and must not show
who uses the computer: the home folder is ``~``, user and computer are not named, and of the user's files only numbers
and sizes are told.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import runtime
from runtime.backends import BACKENDS, default_threads, installed_backends, resolve_precision
from runtime.backends.graph_cache import LIMIT_BYTES, compiled_graphs
from runtime.backends.units import int8_unit
from runtime.bundle import Bundle, open_bundle, search_folders
from runtime.cache import EmbeddingCache
from runtime.directories import cache_directory
from runtime.errors import BackendError, BundleError, LiteInferError
from runtime.io.decoders import transfer_syntaxes
from runtime.manifest import MANIFEST_NAME

__all__ = ["DOCTOR_VERSION", "diagnosis", "wanted_packages"]

DOCTOR_VERSION = 1

_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*(?:;.*extra == ['\"]([\w-]+)['\"].*)?")
_FOR_DEVELOPERS = ("test", "dev")
_VARIABLES = re.compile(r"LITE_INFER_\w+|ORT_DISABLE_TELEMETRY")
_SHORTEST_NAME = 3  # a shorter name of a user tells nobody anything, and occurs in many words


def diagnosis() -> dict[str, Any]:
    """Look at everything.

    Returns
    -------
    findings : dict
        JSON data, laid out as in ``docs/json-summary.md``; ``problems`` says in words what will not work.
    """
    problems: list[str] = []
    bundle = _opened_bundle(problems)
    findings = {
        "doctor_version": DOCTOR_VERSION,
        "lite_infer": runtime.__version__,
        **_machine(),
        "extension": _extension(problems),
        "default_bundle": _default_bundle(bundle, problems),
        "backends": [_backend(name, bundle, problems) for name in BACKENDS],
        "decoders": _decoders(),
        "cache": _cache(problems),
        "models": _models(problems),
        "problems": [" ".join(problem.split()) for problem in problems],
    }
    names = _private_names()
    return {key: _without(value, names) for key, value in findings.items()}


def _machine() -> dict[str, Any]:
    from perf.machine import describe_machine  # on the side of the command line, the one door up to perf

    machine = describe_machine()
    try:
        packages = {name: _version(name) for name in wanted_packages(importlib.metadata.requires("lite-infer") or [])}
    except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed asks for nothing
        packages = dict(machine.packages)
    return {
        "python": f"{machine.python}, {64 if sys.maxsize > 2**32 else 32} bits",
        "system": f"{machine.system}, {machine.architecture}",
        "cpu": {
            "name": machine.cpu,
            "features": list(machine.isa),
            "physical_cores": machine.physical_cores,
            "logical_cores": machine.logical_cores,
            "usable_cores": machine.usable_cores,
            "quota_cores": machine.quota_cores,
            "threads": default_threads(),
        },
        "memory_bytes": machine.memory_bytes,
        "environment": machine.environment,
        "variables_set": sorted(name for name in os.environ if _VARIABLES.fullmatch(name)),
        "packages": packages,
    }


def wanted_packages(requirements: list[str]) -> list[str]:
    """Distributions that lite-infer and its extras for users ask for.

    Parameters
    ----------
    requirements : list of str
        As the metadata of a distribution hold them, for example ``torch>=2.7; extra == "export"``.

    Returns
    -------
    names : list of str
        Sorted.
    """
    found = [match.groups() for line in requirements if (match := _REQUIREMENT.fullmatch(line.strip()))]
    return sorted({name for name, extra in found if extra not in _FOR_DEVELOPERS and name != "lite-infer"})


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extension(problems: list[str]) -> bool:
    try:
        importlib.import_module("runtime._kernels")
    except ImportError as error:
        problems.append(f"the compiled extension does not load ({error}); install lite-infer again")
        return False
    return True


def _opened_bundle(problems: list[str]) -> Bundle | None:
    """The bundle that ships with lite-infer."""
    try:
        return open_bundle()
    except BundleError as error:
        problems.append(str(error))
        return None


def _default_bundle(bundle: Bundle | None, problems: list[str]) -> dict[str, Any]:
    """Its name and version, and whether all its files are as the manifest says."""
    if bundle is None:
        return {"name": None, "intact": False}
    intact = True
    try:
        for relative in bundle.manifest.files:
            bundle.path(relative)
    except BundleError as error:
        problems.append(str(error))
        intact = False
    return {"name": f"{bundle.manifest.name} {bundle.manifest.version}", "intact": intact}


def _backend(name: str, bundle: Bundle | None, problems: list[str]) -> dict[str, Any]:
    installed = installed_backends()
    found: dict[str, Any] = {
        "name": name,
        "version": _version(name),
        "precisions": [],
        "native_bf16": False,
        "int8_unit": None,
        "auto": None,
    }
    if name not in installed:
        if not installed:
            problems.append(f"backend {name} is not installed; install it with 'pip install {name}'")
        return found
    try:
        found["precisions"], found["native_bf16"] = _precisions(name)
        if bundle is not None:
            found["int8_unit"] = int8_unit(name)
            found["auto"] = resolve_precision("auto", name, bundle)
    except (BackendError, BundleError) as error:
        problems.append(str(error))
    return found


def _precisions(name: str) -> tuple[list[str], bool]:
    """Precisions that an engine has on this CPU, and whether bfloat16 is fast."""
    if name == "onnxruntime":
        from runtime.backends import ort

        ort.check_loads()
        return ["fp32", "int8"], False
    from runtime.backends import ov

    able = ov.capabilities()
    known = {"fp32": True, "bf16": "BF16" in able, "fp16": "FP16" in able, "int8": True, "int8-bf16": "BF16" in able}
    return [precision for precision, has in known.items() if has], ov.has_native_bf16()


def _decoders() -> list[dict[str, Any]]:
    return [
        {"uid": each.uid, "name": each.name, "package": each.package, "readable": each.readable}
        for each in transfer_syntaxes()
    ]


def _cache(problems: list[str]) -> dict[str, Any] | None:
    try:
        directory = cache_directory()
        with EmbeddingCache() as cache:
            embeddings = cache.info()
    except LiteInferError as error:
        problems.append(str(error))
        return None
    graphs = compiled_graphs(directory / "graphs")
    found = _folder(directory)
    if not found["writable"]:
        problems.append(f"{directory}: cannot be written; nothing is kept for the next start")
    return {
        **found,
        "embeddings": embeddings.disk_entries,
        "embeddings_bytes": embeddings.disk_bytes,
        "embeddings_limit_bytes": embeddings.disk_limit,
        "graphs": len(graphs),
        "graphs_bytes": sum(graph.bytes for graph in graphs),
        "graphs_limit_bytes": LIMIT_BYTES,
    }


def _models(problems: list[str]) -> list[dict[str, Any]]:
    """Folders where bundles are looked up, and how many each holds."""
    try:
        folders = search_folders()
    except LiteInferError as error:
        problems.append(str(error))
        return []
    return [{**_folder(folder), "bundles": _count_bundles(folder)} for folder in folders]


def _folder(path: Path) -> dict[str, Any]:
    nearest = next((place for place in (path, *path.parents) if place.exists()), path)
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    return {"directory": str(path), "exists": path.is_dir(), "writable": writable}


def _count_bundles(folder: Path) -> int:
    try:
        return sum((entry / MANIFEST_NAME).is_file() for entry in folder.iterdir())
    except OSError:
        return 0


def _private_names() -> list[tuple[re.Pattern[str], str]]:
    """Patterns of what names a person or a computer, and what stands for it."""
    patterns = []
    homes: set[str] = set()
    with contextlib.suppress(RuntimeError, OSError):  # nobody's home
        homes = {str(Path.home()), str(Path.home().resolve())} - {Path.home().anchor}
    for home in sorted(homes, key=len, reverse=True):
        patterns.append((re.compile(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", re.IGNORECASE), "~"))
    user = ""
    with contextlib.suppress(ImportError, KeyError, OSError):  # a user without an entry in the system's list
        user = getpass.getuser()
    for name, shown in ((user, "USER"), (platform.node(), "HOST")):
        if len(name) >= _SHORTEST_NAME:
            patterns.append((re.compile(rf"(?<=[\\/]){re.escape(name)}(?=[\\/]|$)", re.IGNORECASE), shown))
    return patterns


def _without(value: Any, names: list[tuple[re.Pattern[str], str]]) -> Any:
    """The same with private names replaced in every text."""
    if isinstance(value, dict):
        return {key: _without(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without(entry, names) for entry in value]
    if isinstance(value, str):
        for pattern, shown in names:
            value = pattern.sub(shown, value)
    return value
