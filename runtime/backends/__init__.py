"""Choose an inference engine and a precision, and open a graph with them.

Knows which engines exist and which graph formats each reads. Must not import an engine before it is chosen, nor fall
back from one that was asked for to another.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime.backends.base import PRECISIONS, Backend, BackendOptions, IoSpec, TensorSpec
from runtime.backends.graph_cache import LIMIT_BYTES, prune_graphs
from runtime.backends.threads import default_threads
from runtime.bundle import INT8_PRECISIONS
from runtime.errors import BackendError, BackendUnavailable, BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from runtime.bundle import Bundle

__all__ = [
    "BACKENDS",
    "PRECISION_CHOICES",
    "Backend",
    "BackendOptions",
    "IoSpec",
    "TensorSpec",
    "choose_backend",
    "default_threads",
    "graph_sha256",
    "installed_backends",
    "name_and_version",
    "open_backend",
    "resolve_precision",
]

_log = logging.getLogger(__name__)

BACKENDS = ("openvino", "onnxruntime")
"""Names of the engines, the one that ``auto`` prefers first."""
PRECISION_CHOICES = ("auto", *PRECISIONS)
"""What `resolve_precision` takes."""

_FORMATS = {"openvino": ("openvino", "onnx"), "onnxruntime": ("onnx",)}
_DIRECTORY_DIGITS = 16
_HALF = {"bf16", "fp16", "int8-bf16"}
"""Precisions in which something computes in numbers of 16 bits, as OpenVINO alone does."""


def installed_backends() -> tuple[str, ...]:
    """Name the engines that are installed, without importing them.

    Returns
    -------
    names : tuple of str
        Some of `BACKENDS`, in that order.
    """
    return tuple(name for name in BACKENDS if importlib.util.find_spec(name) is not None)


def choose_backend(requested: str | None, bundle: Bundle, precision: str = "auto") -> str:
    """Settle which engine runs a bundle.

    Parameters
    ----------
    requested : str or None
        ``openvino``, ``onnxruntime``, or None or ``auto`` for the first of them that is installed and reads the
        bundle's graphs.
    bundle : Bundle
        What is to be run.
    precision : str
        As in `resolve_precision`; ``int8`` and ``int8-bf16`` look at the INT8 graphs, and whatever computes in
        bfloat16 or float16 leaves OpenVINO alone.

    Returns
    -------
    name : str
        ``openvino`` or ``onnxruntime``.

    Raises
    ------
    BackendError
        If `requested` is no engine.
    BackendUnavailable
        If the one asked for, or any that would do, is not installed.
    BundleError
        If the bundle has no graphs for it.
    """
    if requested not in {None, "auto", *BACKENDS}:
        msg = f"backend {requested!r}; wanted one of auto, {', '.join(BACKENDS)}"
        raise BackendError(msg)
    set_name = "int8" if precision in INT8_PRECISIONS else "fp32"
    if requested is not None and requested != "auto":
        _check_reads(requested, bundle, set_name)
        if requested not in installed_backends():
            msg = f"backend {requested} is not installed; install it with 'pip install {requested}'"
            raise BackendUnavailable(msg)
        return requested
    able = [name for name in BACKENDS if _reads(name, bundle, set_name)]
    if precision in _HALF:
        able = [name for name in able if name == "openvino"]
    usable = [name for name in able if name in installed_backends()]
    if not usable:
        advice = " or ".join(f"'pip install {name}'" for name in able or BACKENDS)
        msg = f"no backend for bundle {bundle.manifest.name!r} in {precision} is installed; wanted {advice}"
        raise BackendUnavailable(msg)
    return usable[0]


def _check_reads(name: str, bundle: Bundle, precision: str) -> None:
    for role in bundle.graph_set(precision).by_role:
        bundle.graph_file(role, precision, _FORMATS[name])


def _reads(name: str, bundle: Bundle, precision: str) -> bool:
    bundle.graph_set(precision)  # no such graphs at all is an error, not a matter of the engine
    try:
        _check_reads(name, bundle, precision)
    except BundleError:
        return False
    return True


def resolve_precision(requested: str, backend: str, bundle: Bundle, cache_directory: Path | None = None) -> str:
    """Settle the precision of inference.

    Parameters
    ----------
    requested : str
        ``auto``: ``int8`` where the bundle says that its INT8 graphs, whose masks were held against float32's, were
        faster on this engine with the 8-bit products that this CPU has, and ``int8-bf16`` if it says so of that too and
        OpenVINO runs bfloat16 on a unit made for it (AMX, or AVX512-BF16 of AMD); else ``bf16`` on such a unit; else
        ``fp32``. ``fp32``, ``bf16``, ``fp16``: that one. ``int8``: the bundle's INT8 graphs; ``int8-bf16``: those, with
        bfloat16 for what is not in 8 bits. A decoder that is a function of position computes positions, of which half
        precision loses all but the first digits: ``fp32`` and ``int8`` alone.
    backend : str
        What `choose_backend` returned.
    bundle : Bundle
        What is to be run.
    cache_directory : Path, optional
        As in `BackendOptions`; makes the question cheaper on the second start.

    Returns
    -------
    precision : str
        One of ``fp32``, ``bf16``, ``fp16``, ``int8`` and ``int8-bf16``.

    Raises
    ------
    BackendError
        If the name is unknown, or the engine, the CPU or the bundle does not support it.
    BackendUnavailable
        If the engine does not load.
    BundleError
        If INT8 graphs are asked for and the bundle has none.
    """
    if requested not in PRECISION_CHOICES:
        msg = f"precision {requested!r}; wanted one of {', '.join(PRECISION_CHOICES)}"
        raise BackendError(msg)
    if requested in INT8_PRECISIONS:
        bundle.graph_set(requested)
    if requested == "int8":
        return requested
    if bundle.manifest.output.implicit:
        if requested in _HALF:
            msg = f"bundle {bundle.manifest.name!r} computes positions, which {requested} cannot tell apart; use fp32"
            raise BackendError(msg)
        return "fp32"
    if backend != "openvino":
        if requested in _HALF:
            msg = f"{backend} runs fp32 and int8 on CPUs, not {requested}; choose backend 'openvino'"
            raise BackendError(msg)
        return "int8" if requested == "auto" and _int8_pays(backend, bundle) else "fp32"
    return _openvino_precision(requested, bundle, cache_directory)


def _int8_pays(backend: str, bundle: Bundle) -> bool:
    """Whether INT8 was measured to be faster on this engine, on CPUs with the 8-bit products that this one has."""
    measured = next((units for name, units in bundle.manifest.int8_faster.items() if name == backend), ())
    if not measured or not _reads(backend, bundle, "int8"):
        return False
    from runtime.backends.units import int8_unit

    return int8_unit(backend) in measured


def _openvino_precision(requested: str, bundle: Bundle, cache_directory: Path | None) -> str:
    if requested == "fp32":
        return requested
    from runtime.backends import ov

    if requested == "fp16":
        if "FP16" not in ov.capabilities():
            msg = "this CPU has no fp16 arithmetic that OpenVINO uses; choose precision 'fp32' or 'auto'"
            raise BackendError(msg)
        return requested
    takes_int8 = requested == "auto" and _int8_pays("openvino", bundle)
    if takes_int8 and bundle.manifest.int8_rest != "bf16":
        return "int8"
    probe_directory = None if cache_directory is None else cache_directory / "bf16_probe"
    native = ov.has_native_bf16(probe_directory)
    if requested == "auto":
        half, full = ("int8-bf16", "int8") if takes_int8 else ("bf16", "fp32")
        return half if native else full
    if not native:
        _log.warning("bf16 has no fast unit on this CPU and may be many times slower than fp32; 'auto' avoids that")
    return requested


def graph_sha256(name: str, bundle: Bundle, role: str, precision: str) -> str:
    """Return the digest of the graph that an engine would run.

    Parameters
    ----------
    name, bundle, role, precision
        As in `open_backend`; the precision is one that `resolve_precision` returned.

    Returns
    -------
    digest : str
        64 hexadecimal digits; what is computed with one graph is keyed by it.

    Raises
    ------
    BundleError
        If the bundle has no such graph for this engine.
    """
    return bundle.graph_sha256(role, precision, _FORMATS[name])


def name_and_version(name: str) -> str:
    """Name an engine with its version, another of which may round differently; the engine is imported.

    Parameters
    ----------
    name : str
        What `choose_backend` returned.

    Returns
    -------
    text : str
        As in ``openvino 2026.4.1-21345-abc``.

    Raises
    ------
    BackendUnavailable
        If the engine does not load.
    """
    if name == "openvino":
        from runtime.backends import ov

        return f"{name} {ov.version()}"
    from runtime.backends import ort

    return f"{name} {ort.version()}"


def open_backend(name: str, bundle: Bundle, role: str, options: BackendOptions) -> Backend:
    """Open one graph of a bundle with one engine.

    Parameters
    ----------
    name : str
        What `choose_backend` returned.
    bundle : Bundle
        Its file is verified first.
    role : str
        ``encoder``, ``decoder``, ``one_box`` or the name of an extra graph.
    options : BackendOptions
        The precision is one that `resolve_precision` returned. Below the cache directory each graph gets a directory
        named after its digest, and those opened longest ago are removed beyond `graph_cache.LIMIT_BYTES`.

    Returns
    -------
    backend : Backend
        Ready to run.

    Raises
    ------
    BackendError
        If there is no such engine, or it does not support the precision on this CPU.
    BackendUnavailable
        If the engine is not installed or does not load.
    InferenceError
        If the graph does not compile.
    BundleError
        If the bundle has no such graph for this engine, or a file of it is damaged.
    """
    if name not in BACKENDS:
        msg = f"backend {name!r}; wanted one of {', '.join(BACKENDS)}"
        raise BackendError(msg)
    path = bundle.graph_path(role, options.precision, _FORMATS[name])
    if name == "onnxruntime":
        from runtime.backends.ort import OrtBackend

        return OrtBackend(path, options)
    from runtime.backends.ov import OpenVinoBackend

    root = options.cache_directory
    if root is None:
        return OpenVinoBackend(path, options)
    digest = graph_sha256(name, bundle, role, options.precision)
    backend = OpenVinoBackend(path, replace(options, cache_directory=root / digest[:_DIRECTORY_DIGITS]))
    if backend.cache_directory is not None:
        prune_graphs(root, opened=backend.cache_directory, limit_bytes=LIMIT_BYTES)
    return backend
