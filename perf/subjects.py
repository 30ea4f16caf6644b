"""From what the user names to bundles that can be measured.

Knows how bundles are opened and which modality means which expert; measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perf.plan import Subject
from runtime.bundle import Bundle
from runtime.bundle_set import folded, open_model
from runtime.errors import PromptError

__all__ = ["make_subjects"]


def make_subjects(
    bundles: Sequence[str | None], modality: str | None = None, plain: Sequence[str] = ()
) -> list[Subject]:
    """Open each bundle, or set of bundles, to learn its name.

    Parameters
    ----------
    bundles : sequence of str or None
        Names or folders; None is the default bundle.
    modality : str, optional
        What the images show, for the bundles that ask.
    plain : sequence of str
        Bundles whose float graphs the reference pipeline runs in place of the measured ones', in the same order.

    Raises
    ------
    BundleError
        If a bundle is unknown or damaged.
    PromptError
        If a bundle has no such modality, or there are more plain bundles than measured ones.
    """
    if len(plain) > len(bundles):
        msg = f"{len(plain)} bundles for the reference, but {len(bundles)} to measure; wanted one for each at most"
        raise PromptError(msg)
    made: list[Subject] = []
    for number, given in enumerate(bundles):
        bundle, asks = _bundle(given, modality)
        other = _bundle(plain[number], modality)[0] if number < len(plain) else bundle
        name = bundle.manifest.name
        taken = sum(one.name.partition("#")[0] == name for one in made)
        shown = f"{name}#{taken + 1}" if taken else name
        told = modality if asks else None
        expert = None if isinstance(open_model(given), Bundle) else modality
        index = _index(other, modality)
        made.append(Subject(shown, _absolute(given), bundle.folder, other.folder, told, index, expert))
    return made


def _bundle(given: str | None, modality: str | None) -> tuple[Bundle, bool]:
    """Return the bundle, of a set the expert, and whether it asks for a modality."""
    found = open_model(given)
    if isinstance(found, Bundle):
        return found, bool(found.manifest.modalities)
    return found.bundles[found.choose(modality, None)], True


def _index(bundle: Bundle, modality: str | None) -> int:
    names = bundle.manifest.modalities
    if not names or modality is None:
        return 0
    known = [folded(name) for name in names]
    if modality.isdecimal() and int(modality) < len(names):
        return int(modality)
    if folded(modality) not in known:
        msg = f"modality {modality!r}: bundle {bundle.manifest.name!r} knows {', '.join(names)}"
        raise PromptError(msg)
    return known.index(folded(modality))


def _absolute(bundle: str | None) -> str | None:
    """A folder's path holds in every working folder; a name stays a name."""
    return str(Path(bundle).resolve()) if bundle is not None and Path(bundle).is_dir() else bundle
