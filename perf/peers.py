"""Programs of others, measured as whole processes in the same rounds: ``--peer NAME=COMMAND``.

Knows the text of that option and the challenge's NPZ, which such a program reads and writes; starts nothing.
"""

from __future__ import annotations

import re
import shlex
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perf.cases import Case
from perf.processes import ProcessFailed
from runtime.errors import PromptError

__all__ = ["Peer", "check_labels", "parse_peer", "parse_peers", "private_texts"]

_NAME = re.compile(r"[A-Za-z][\w.-]*")
_TAKEN = ("reference", "fp32", "floor")
_PLACES = ("{input}", "{output}")


@dataclass(frozen=True, slots=True)
class Peer:
    """A program of somebody else.

    Attributes
    ----------
    name : str
        What stands for it in the report.
    words : tuple of str
        Its command line, in which ``{input}`` and ``{output}`` stand for the files.
    """

    name: str
    words: tuple[str, ...]

    def command(self, given: Path, answer: Path) -> list[str]:
        """Return the command line for one image; no shell reads it."""
        return [word.replace("{input}", str(given)).replace("{output}", str(answer)) for word in self.words]


def parse_peer(text: str) -> Peer:
    """Parse one text; PromptError says what is wrong with it."""
    name, _, command = text.partition("=")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        msg = f"peer {text!r}: {error}; wanted NAME=COMMAND with every quotation closed"
        raise PromptError(msg) from error
    if not _NAME.fullmatch(name) or name in _TAKEN or not all(any(at in word for word in words) for at in _PLACES):
        msg = (
            f"peer {text!r}: wanted NAME=COMMAND, where COMMAND holds {{input}} and {{output}} and NAME is a word "
            f"other than {', '.join(_TAKEN)}"
        )
        raise PromptError(msg)
    if shutil.which(words[0]) is None:
        msg = f"peer {name}: there is no program {words[0]!r}; give the path of one that can be run"
        raise PromptError(msg)
    return Peer(name, words)


def parse_peers(texts: Sequence[str]) -> tuple[Peer, ...]:
    """Parse all texts; no name may occur twice."""
    found = tuple(parse_peer(text) for text in texts)
    names = [one.name for one in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"peer {', '.join(twice)}: given more than once; wanted a name of its own for each"
        raise PromptError(msg)
    return found


def check_labels(path: Path, case: Case) -> None:
    """Refuse what is no label map of that case's image, with ProcessFailed."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            shape, kind = archive["segs"].shape, archive["segs"].dtype.kind
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        msg = f"it wrote no label map ({type(error).__name__}); wanted an NPZ with segs at {{output}}"
        raise ProcessFailed(msg) from error
    wanted = case.facts.shape[2::-1]  # [i, j, k] -> slices first
    if kind not in "uib" or [side for side in shape if side != 1] != [side for side in wanted if side != 1]:
        msg = f"it wrote segs of shape {shape} and kind {kind!r}; wanted whole numbers of shape {wanted}"
        raise ProcessFailed(msg)


def private_texts(peers: Sequence[Peer]) -> list[tuple[str, str]]:
    """Paths on the command lines, which an error of theirs may name, and what the report shows; the longest first."""
    found = set()
    for one in peers:
        for word in one.words:
            path = Path(word.rpartition("=")[2])
            found |= {(str(part), one.name) for part in (path, path.parent) if len(part.parts) > 1}
    return sorted(found, key=lambda pair: -len(pair[0]))
