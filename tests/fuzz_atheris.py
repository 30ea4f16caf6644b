"""Fuzz the loaders and the manifest with atheris, which is optional: ``pip install atheris``, where it has a wheel.

``python tests/fuzz_atheris.py FOLDER [OPTIONS OF libFuzzer]``, for example with ``-max_total_time=600``, keeps its
inputs in FOLDER/corpus and what `fuzz_oracle` objects to in FOLDER/findings. An input is a file with two bytes before
it, which say its name and how it is opened; ``python tests/fuzz_atheris.py FOLDER FOLDER/findings/crash-...`` opens one
again. libFuzzer's ``-timeout`` goes by the clock: on a busy machine ask for more than its 30 s here. ``.ci/run`` gives
it a minute where pip has a wheel; `fuzz_campaign` does much the same without atheris, and opens folders too.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shlex
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fuzz_seeds import NAMES
from mutations import mutated

try:
    import atheris
except ImportError:
    atheris = None

with contextlib.nullcontext() if atheris is None else atheris.instrument_imports(include=["runtime"]):
    from fuzz_campaign import image_cases, import_decoders, manifest_case
    from fuzz_oracle import MANIFEST, Case, How, limit_memory, open_case

__all__ = ["TestOneInput", "main", "mutate", "seeds"]

ENDINGS = [*NAMES, MANIFEST]
_OPTIONS = ["-timeout=30", "-rss_limit_mb=4096"]


def TestOneInput(data: bytes) -> None:
    """Open the file that the input stands for; raise whatever is wrong with that."""
    if len(data) < 2:
        return
    name = ENDINGS[data[0] % len(ENDINGS)]
    how = How(volume=None if data[1] & 1 else 0, force=bool(data[1] & 2), described=bool(data[1] & 4))
    with tempfile.TemporaryDirectory() as folder:
        open_case(Case({name: data[2:]}, name), Path(folder) / "now", how)


def seeds() -> list[bytes]:
    """The seeds of the campaign that are one file, as inputs."""
    found = []
    for case in [*image_cases(), manifest_case()]:
        if len(case.files) == 1 and case.opened in case.files:
            same = [k for k, name in enumerate(ENDINGS) if Path(name).suffix == Path(case.opened).suffix]
            place = ENDINGS.index(case.opened) if case.opened in ENDINGS else next(iter(same), ENDINGS.index("x.dcm"))
            found.append(bytes([place, 0]) + case.files[case.opened])
    return found


def mutate(data: bytes, max_size: int, seed: int, *, otherwise: Callable[[bytes, int], bytes]) -> bytes:
    """Damage the file as the campaign does and now and then open it in another way, or do the other thing."""
    rng = random.Random(seed)
    if len(data) < 3 or rng.random() < 0.5:
        return otherwise(data, max_size)
    how = rng.randrange(8) if rng.random() < 0.2 else data[1]
    return (bytes([data[0], how]) + mutated(rng, data[2:]))[:max_size]


def _default_mutation(data: bytes, max_size: int) -> bytes:
    """What libFuzzer does of itself; atheris puts the function in its place when Fuzz begins, and no sooner."""
    return bytes(atheris.Mutate(data, max_size))


def main(arguments: list[str]) -> None:
    """Fuzz until told to stop."""
    if atheris is None:
        sys.exit("atheris is not installed; pip install atheris, or use tests/fuzz_campaign.py, which needs nothing")
    if not arguments or arguments[0].startswith("-"):
        sys.exit("wanted: fuzz_atheris.py FOLDER [OPTIONS OF libFuzzer]")
    corpus, findings = Path(arguments[0]) / "corpus", Path(arguments[0]) / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    logging.disable()
    with atheris.instrument_imports(include=["runtime"]):  # what is imported when it is needed
        for number, data in enumerate(seeds()):
            (corpus / f"seed_{number}").write_bytes(data)
            with contextlib.suppress(Exception):  # the fuzzer finds it once more, and keeps it
                TestOneInput(data)
        import_decoders()
    limit_memory()
    inputs = [] if any(not word.startswith("-") for word in arguments[1:]) else [str(corpus)]
    again = shlex.join([sys.executable, sys.argv[0], arguments[0]])  # what -fork, -jobs, -merge and others start
    options = [again, *_OPTIONS, f"-artifact_prefix={findings}/", *arguments[1:], *inputs]
    atheris.Setup(options, TestOneInput, custom_mutator=partial(mutate, otherwise=_default_mutation))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
