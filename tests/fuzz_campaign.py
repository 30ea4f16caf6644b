"""Fuzz the loaders and the manifest in a process of its own, which a crash, a hang or a greedy allocation may kill.

``python fuzz_campaign.py FOLDER SEED FIRST COUNT [ZOO ...]`` works through inputs FIRST to FIRST + COUNT - 1, each made
anew from the seed and its number, and prints one line of JSON for each finding: anything but a `LiteInferError` that
escapes, a message of several lines, too much memory. The input at work lies in FOLDER/now and its number in
FOLDER/number, so that whoever started this process knows what killed it. Zoos are folders of real files, read only.
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
from dataclasses import dataclass
from pathlib import Path

from bundle_factory import manifest_data
from fuzz_seeds import NAMES, dicom_slice, seed
from mutations import mutated, mutated_text

from runtime.errors import LiteInferError
from runtime.io import load
from runtime.io.summaries import describe
from runtime.manifest import parse_manifest

MAX_CPU_SECONDS = 10
MAX_ADDRESSES = 2 << 30
"""Address space beyond what the libraries take: larger requests fail, and the failure is a finding."""
MAX_GROWTH = 96 << 20
"""Memory really used for one file beside what its size allows."""

_LARGEST = 200_000
_SLICES = 4
_PACKED = (b"\x1f\x8b", b"PK", b"NR")
_DECODERS = ("pydicom.pixels", "imagecodecs", "openjpeg", "jpeg_ls", "nibabel", "nrrd", "PIL.Image", "cv2")


@dataclass(frozen=True)
class Case:
    """Files that belong together and the name that is opened; a dot opens their folder."""

    files: dict[str, bytes]
    opened: str


def cases(zoos: list[Path]) -> list[Case]:
    """Small images of every format, made here, and the small files of the zoos."""
    found = [Case({name: seed(name)}, name) for name in NAMES]
    slices = {f"{k}.dcm": dicom_slice(ImagePositionPatient=[0, 0, k], InstanceNumber=k) for k in range(_SLICES)}
    found.append(Case(slices, "."))
    for zoo in zoos:
        for folder in sorted({path.parent for path in zoo.rglob("*") if path.is_file()}):
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


def attempt(rng: random.Random, case: Case, folder: Path) -> None:
    """Damage one file of a case and open it; whatever is wrong with what happens is raised."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    damaged = rng.choice(sorted(case.files))
    size = 0
    for name, data in case.files.items():
        content = mutated(rng, data) if name == damaged else data
        size += len(content) * (1040 if content.startswith(_PACKED) else 40)
        (folder / name).write_bytes(content)
    before = _most_memory()
    place = folder / case.opened
    with _errors_checked():
        if rng.random() < 0.15:
            describe(place)
        else:
            load(place, volume=0 if rng.random() < 0.8 else rng.choice((None, 1)), force=rng.random() < 0.5)
    grown = _most_memory() - before
    if grown > MAX_GROWTH + size:
        msg = f"took {grown >> 20} MiB for files of {size} bytes"
        raise AssertionError(msg)


def attempt_manifest(rng: random.Random, folder: Path) -> None:
    """The same with a manifest, which is kept as a file only for whoever looks for what killed the process."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    text = mutated_text(rng, json.dumps(manifest_data()))
    (folder / "manifest.json").write_bytes(text)
    with _errors_checked():
        parse_manifest(text)


@contextlib.contextmanager
def _errors_checked() -> Iterator[None]:
    try:
        yield
    except LiteInferError as error:
        if "\n" in str(error):
            msg = "a message of several lines"
            raise AssertionError(msg) from error
        if "not enough memory" in str(error):
            msg = f"asked for more than {MAX_ADDRESSES >> 30} GiB"
            raise AssertionError(msg) from error


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def _limit_memory() -> None:
    with contextlib.suppress(OSError):  # no /proc: the check of memory really used is left
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MAX_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def main() -> None:
    """Work through the inputs."""
    folder, base, first, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    for module in _DECODERS:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    corpus = cases([Path(word) for word in sys.argv[5:]])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory()
    for number in range(first, first + count):
        rng = random.Random(f"{base}/{number}")
        (folder / "number").write_text(str(number))
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)  # ends the process, whatever code it is in
        try:
            if rng.random() < 0.05:
                attempt_manifest(rng, folder / "now")
            else:
                attempt(rng, rng.choice(corpus), folder / "now")
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
