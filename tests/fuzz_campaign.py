"""Fuzz the loaders and the manifest in a process of its own, which a crash, a hang or a greedy allocation may kill.

``python fuzz_campaign.py FOLDER SEED FIRST COUNT`` works through inputs FIRST to FIRST + COUNT - 1 and prints one line
of JSON for each finding: whatever `fuzz_oracle` objects to. An input is a damaged image, folder or manifest; one that
takes a new way through our code is damaged further later on. The seed and FIRST decide all that happens. The input at
work lies in FOLDER/now and its number in FOLDER/number, so that whoever started this process knows what killed it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from bundle_factory import manifest_data
from conftest import shared_folder
from fuzz_coverage import Arc, arcs_of
from fuzz_oracle import MANIFEST, MAX_CPU_SECONDS, Case, How, limit_memory, open_case
from fuzz_seeds import NAMES, dicom_slice, seed
from mutations import mutated

import runtime

_LARGEST = 200_000
_SLICES = 4
_ZOOS = ("dicom_zoo", "nifti_zoo")
_DECODERS = ("pydicom.pixels", "imagecodecs", "openjpeg", "jpeg_ls", "nibabel", "nrrd", "PIL.Image", "cv2")
_PACKAGE = Path(runtime.__file__).parent


def image_cases() -> list[Case]:
    """Small images of every format, made here, and small real ones where the shared data are at hand."""
    found = [Case({name: seed(name)}, name) for name in NAMES]
    slices = {f"{k}.dcm": dicom_slice(ImagePositionPatient=[0, 0, k], InstanceNumber=k) for k in range(_SLICES)}
    found.append(Case(slices, "."))
    shared = shared_folder()
    zoos = [shared / "data" / name for name in _ZOOS] if shared else []
    for folder in sorted({path.parent for zoo in zoos for path in zoo.rglob("*") if path.is_file()}):
        found += _cases_in(folder)
    return found


def _cases_in(folder: Path) -> Iterator[Case]:
    small = [path for path in sorted(folder.iterdir()) if path.is_file() and 0 < path.stat().st_size <= _LARGEST]
    if folder.parent.name == "series" and small:
        yield Case({path.name: path.read_bytes() for path in small[:_SLICES]}, ".")
        return
    for path in small:
        family = [other for other in small if other.stem == path.stem] if path.suffix != ".gz" else [path]
        yield Case({other.name: other.read_bytes() for other in family}, path.name)


def manifest_case() -> Case:
    """The manifest that tests use."""
    return Case({MANIFEST: json.dumps(manifest_data()).encode()}, MANIFEST)


def damaged(rng: random.Random, case: Case) -> Case:
    """The case with damage to one of its files."""
    name = rng.choice(sorted(case.files))
    return Case(case.files | {name: mutated(rng, case.files[name])}, case.opened)


class Corpus:
    """Cases to damage: those given, and those made of them that took a new way."""

    def __init__(self, images: list[Case], manifests: list[Case]) -> None:
        self._given = {False: images, True: manifests}
        self._found: dict[bool, list[Case]] = {False: [], True: []}
        self._arcs: set[Arc] = set()

    def __len__(self) -> int:
        return sum(map(len, (*self._given.values(), *self._found.values())))

    def pick(self, rng: random.Random) -> Case:
        """A case; a manifest now and then."""
        manifest = rng.random() < 0.05
        found = self._found[manifest]
        return rng.choice(found if found and rng.random() < 0.5 else self._given[manifest])

    def learn(self, case: Case, arcs: set[Arc]) -> None:
        """Keep a case if it took an arc that none has taken before."""
        if not arcs <= self._arcs:
            self._arcs |= arcs
            if sum(map(len, case.files.values())) <= _LARGEST:
                self._found[case.opened == MANIFEST].append(case)


def attempt(rng: random.Random, corpus: Corpus, folder: Path) -> None:
    """Damage a case and open it; whatever is wrong with what happens is raised."""
    case = damaged(rng, corpus.pick(rng))
    volume = 0 if rng.random() < 0.8 else rng.choice((None, 1))
    how = How(volume=volume, force=rng.random() < 0.5, described=rng.random() < 0.15)
    with arcs_of(_PACKAGE) as arcs:
        open_case(case, folder, how)
    corpus.learn(case, arcs)


def import_decoders() -> None:
    """Import what readers import when they need it, so that no input has to answer for the time and memory."""
    for module in _DECODERS:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)


def main() -> None:
    """Work through the inputs."""
    folder, base, first, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    import_decoders()
    corpus = Corpus(image_cases(), [manifest_case()])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_memory()
    for number in range(first, first + count):
        (folder / "number").write_text(str(number))
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)  # ends the process, whatever code it is in
        try:
            attempt(random.Random(f"{base}/{number}"), corpus, folder / "now")
        except BaseException as error:  # noqa: BLE001 - whatever escapes is what we look for
            kept = folder / f"finding_{number}"
            shutil.copytree(folder / "now", kept, dirs_exist_ok=True)
            (folder / f"finding_{number}.txt").write_text(traceback.format_exc())
            sys.stdout.write(json.dumps({"number": number, "what": f"{type(error).__name__}: {error}"}) + "\n")
            sys.stdout.flush()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


if __name__ == "__main__":
    main()
