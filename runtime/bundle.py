"""Find a bundle and hand out its files, each verified against the manifest.

Knows folders, names, digests and where bundles live. Must not know what is inside a graph, which engine runs
it, or how an image is prepared.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runtime._digest import sha256_of
from runtime.directories import models_path
from runtime.errors import BundleError, BundleIntegrityError
from runtime.manifest import MANIFEST_NAME, load_manifest

if TYPE_CHECKING:
    from runtime.manifest import GraphFiles, GraphSet, Manifest

__all__ = [
    "DEFAULT_BUNDLE",
    "INT8_PRECISIONS",
    "SET_NAME",
    "Bundle",
    "BundleListing",
    "available_bundles",
    "is_bundle_name",
    "open_bundle",
    "search_folders",
]

DEFAULT_BUNDLE = "default"
"""Name of the bundle that ships inside the package."""
INT8_PRECISIONS = ("int8", "int8-bf16")
"""Precisions that a bundle's INT8 graphs serve: what is not in 8 bits computes in float32, or in bfloat16."""
SET_NAME = "set.json"
"""Name of the file that makes a folder a set of bundles (see `runtime.bundle_set`)."""

_SHORT_DIGITS = 12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPAIR = "download the bundle or install lite-infer again"


@dataclass(frozen=True)
class BundleListing:
    """One bundle, or set of bundles, that is found by name.

    Attributes
    ----------
    name : str
        What to give to `runtime.Session`: the name of its folder.
    folder : Path
        Where it is.
    """

    name: str
    folder: Path


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its validated manifest and its folder.

    Safe to use from several threads. A file is hashed the first time it is asked for.

    Attributes
    ----------
    folder : Path
        Absolute folder of the bundle.
    manifest : Manifest
        Every fact about it.
    """

    folder: Path
    manifest: Manifest
    _verified: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def graph_set(self, precision: str) -> GraphSet:
        """Return the graphs that serve an inference precision.

        Parameters
        ----------
        precision : str
            ``int8`` and ``int8-bf16`` select the INT8 graphs; ``fp32``, ``bf16`` and ``fp16`` the float graphs, which
            a backend runs in that precision.

        Returns
        -------
        graph_set : GraphSet
            Encoder, decoder and whatever else there is.

        Raises
        ------
        BundleError
            If `precision` asks for INT8 graphs and the bundle has none.
        """
        graphs = self.manifest.graphs
        label = "int8" if precision in INT8_PRECISIONS else "float"
        for key, graph_set in graphs.items():
            if key == label:
                return graph_set
        msg = (
            f"bundle {self.manifest.name!r} has no {label} graphs, only {', '.join(sorted(graphs))}; "
            "choose another precision, or convert the bundle again with that one"
        )
        raise BundleError(msg)

    def graph(self, role: str, precision: str = "fp32") -> GraphFiles:
        """Return the file names of one graph.

        Parameters
        ----------
        role : str
            ``encoder``, ``decoder``, ``one_box`` or the name of an extra graph.
        precision : str
            As in `graph_set`.

        Returns
        -------
        files : GraphFiles
            Paths relative to the bundle; not verified yet.

        Raises
        ------
        BundleError
            If there is no such graph.
        """
        roles = self.graph_set(precision).by_role
        if role not in roles:
            msg = f"bundle {self.manifest.name!r} has no graph {role!r}; it has {', '.join(sorted(roles))}"
            raise BundleError(msg)
        return roles[role]

    def graph_file(self, role: str, precision: str, formats: tuple[str, ...]) -> str:
        """Return the file of a graph in the first of several formats that the bundle carries it in.

        Parameters
        ----------
        role, precision : str
            As in `graph`.
        formats : tuple of str
            ``onnx`` and ``openvino`` in order of preference.

        Returns
        -------
        relative : str
            Path relative to the bundle; not verified yet.

        Raises
        ------
        BundleError
            If the bundle carries the graph in none of the formats.
        """
        files = self.graph(role, precision)
        carried = {"onnx": files.onnx, "openvino": files.openvino}
        for name in formats:
            relative = carried.get(name)
            if relative is not None:
                return relative
        has = ", ".join(name for name, path in carried.items() if path is not None)
        msg = (
            f"bundle {self.manifest.name!r} carries its {role} as {has}; wanted {' or '.join(formats)}; "
            "choose another backend or convert the bundle again"
        )
        raise BundleError(msg)

    def graph_path(self, role: str, precision: str, formats: tuple[str, ...]) -> Path:
        """Return the verified absolute path of a graph; an OpenVINO IR's weights are verified with it.

        Parameters
        ----------
        role, precision, formats
            As in `graph_file`.

        Returns
        -------
        path : Path
            The graph's main file.

        Raises
        ------
        BundleError
            As `graph_file` and `path`.
        """
        main, *others = self._parts(self.graph_file(role, precision, formats))
        for other in others:
            self.path(other)
        return self.path(main)

    def graph_sha256(self, role: str, precision: str = "fp32", formats: tuple[str, ...] = ("onnx",)) -> str:
        """Return one digest for everything that a graph consists of.

        Parameters
        ----------
        role, precision, formats
            As in `graph_file`.

        Returns
        -------
        digest : str
            64 hexadecimal digits, from the manifest: that of the file, or of the digests of an OpenVINO IR's two
            files joined.

        Raises
        ------
        BundleError
            As `graph_file`.
        """
        digests = [self._record(part)[0] for part in self._parts(self.graph_file(role, precision, formats))]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def path(self, relative: str) -> Path:
        """Return the absolute path of a listed file, verified against its sha256 on the first call.

        Parameters
        ----------
        relative : str
            Path as it stands in the manifest's ``files``.

        Returns
        -------
        path : Path
            An existing file inside the bundle, links resolved.

        Raises
        ------
        BundleError
            If the manifest does not list it.
        BundleIntegrityError
            If it is missing, leads out of the folder, or differs from the manifest.
        """
        wanted, size = self._record(relative)
        try:
            path = (self.folder / relative).resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
            msg = f"{self.folder / relative}: the file is missing; {_REPAIR}"
            raise BundleIntegrityError(msg) from error
        if not path.is_relative_to(self.folder.resolve()):
            msg = f"{self.folder / relative}: leads out of the bundle, to {path}; wanted a file inside; {_REPAIR}"
            raise BundleIntegrityError(msg)
        if relative not in self._verified:
            _verify(path, wanted, size)
            self._verified.add(relative)
        return path

    def _record(self, relative: str) -> tuple[str, int]:
        record = self.manifest.files.get(relative)
        if record is None:
            msg = (
                f"{self.folder / MANIFEST_NAME}: {relative!r} is not listed in files, so it cannot be verified; "
                "convert the bundle again"
            )
            raise BundleError(msg)
        return record.sha256, record.bytes

    def _parts(self, relative: str) -> tuple[str, ...]:
        if not relative.endswith(".xml"):
            return (relative,)
        return (relative, relative.removesuffix(".xml") + ".bin")


def _verify(path: Path, wanted: str, size: int) -> None:
    """Compare a file with its record; BundleIntegrityError says how they differ."""
    try:
        found_size = path.stat().st_size
        if found_size != size:
            msg = f"{path}: has {found_size} bytes; wanted {size}; the file is damaged, {_REPAIR}"
            raise BundleIntegrityError(msg)
        found = sha256_of(path)
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); check its permissions or {_REPAIR}"
        raise BundleIntegrityError(msg) from error
    if found != wanted:
        msg = (
            f"{path}: sha256 {found[:_SHORT_DIGITS]}..., wanted {wanted[:_SHORT_DIGITS]}...; "
            f"the file is damaged or was changed, {_REPAIR}"
        )
        raise BundleIntegrityError(msg)


def _packaged_folder() -> Path:
    return Path(__file__).parent / "models"


def search_folders() -> tuple[Path, ...]:
    """Return the folders in which bundles are looked up by name, in this order.

    Returns
    -------
    folders : tuple of Path
        Those of `runtime.directories.models_path`, and the package's own. They need not exist.

    Raises
    ------
    LiteInferError
        As `runtime.directories.models_path`.
    """
    return tuple(dict.fromkeys((*models_path(), _packaged_folder())))


def is_bundle_name(text: str) -> bool:
    """Tell whether a text can name a bundle: one plain component of a path, and no other."""
    return _NAME.fullmatch(text) is not None


def available_bundles() -> list[BundleListing]:
    """List the bundles, and sets of bundles, that can be opened by name.

    Returns
    -------
    bundles : list of BundleListing
        Sorted by name; where a name occurs in several folders, the one that is opened. Manifests are not read.
    """
    found: dict[str, Path] = {}
    for folder in search_folders():
        try:
            entries = sorted(folder.iterdir())
        except OSError:  # most of the folders do not exist on most machines
            continue
        for entry in entries:
            if _NAME.fullmatch(entry.name) and any((entry / name).is_file() for name in (MANIFEST_NAME, SET_NAME)):
                found.setdefault(entry.name, entry)
    return [BundleListing(name, found[name]) for name in sorted(found)]


def _find(name: str) -> Path:
    """Folder of a bundle given by name, or as a bare word that is a folder here."""
    folders = search_folders()
    candidates = [folder / name for folder in folders] if _NAME.fullmatch(name) else []
    for candidate in (*candidates, Path(name)):
        if (candidate / MANIFEST_NAME).is_file():
            return candidate
        _refuse_set(candidate)
    names = ", ".join(listing.name for listing in available_bundles()) or "none"
    msg = (
        f"no bundle {name!r}; found by name: {names}; looked in {', '.join(map(str, folders))}; "
        f"give one of these names, or a folder with {MANIFEST_NAME}"
    )
    raise BundleError(msg)


def _refuse_set(folder: Path) -> None:
    """Refuse a set of bundles where one bundle is wanted; BundleError names those in it."""
    if (folder / SET_NAME).is_file():
        inside = ", ".join(str(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST_NAME}")))
        msg = f"{folder}: is a set of bundles; wanted one bundle: give one of {inside}"
        raise BundleError(msg)


def open_bundle(name_or_path: str | os.PathLike[str] | None = None) -> Bundle:
    """Open a bundle: read and validate its manifest.

    Parameters
    ----------
    name_or_path : str or os.PathLike, optional
        None: the bundle that ships with the package. A word without a path separator: a name, looked up in
        `search_folders`, then a folder of that name here. Anything else: the bundle's folder.

    Returns
    -------
    bundle : Bundle
        Its files are verified as they are used.

    Raises
    ------
    BundleError
        If there is no such bundle; the message lists the names found and the folders looked in.
    BundleVersionError
        If it was written for a newer version.
    ManifestError
        If the manifest is malformed.
    """
    if name_or_path is None:
        folder = _packaged_folder() / DEFAULT_BUNDLE
        if not (folder / MANIFEST_NAME).is_file():
            msg = f"{folder}: the bundle that ships with lite-infer is missing; install lite-infer again"
            raise BundleError(msg)
    elif isinstance(name_or_path, str) and not _is_path(name_or_path):
        folder = _find(name_or_path)
    else:
        folder = Path(name_or_path).expanduser()
        if not (folder / MANIFEST_NAME).is_file():
            _refuse_set(folder)
            what = "has no" if folder.is_dir() else "is no folder with"
            msg = f"{folder}: {what} {MANIFEST_NAME}; wanted a bundle's folder, or a bundle's name"
            raise BundleError(msg)
    folder = folder.absolute()
    return Bundle(folder, load_manifest(folder))


def _is_path(text: str) -> bool:
    return "/" in text or os.sep in text or text in {"", ".", ".."} or text.startswith("~")
