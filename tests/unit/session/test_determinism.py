"""The same question has the same answer, bit for bit, with the bundle that ships and on both engines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from engines import run_python, skip_without
from tiny_bundle import SCENE_SHAPE, scene_pixels

from runtime import Session, Volume

KINDS = ("openvino fp32", "openvino int8", "onnxruntime fp32")
THREADS = 2
BOX = (8, 18, 3, 32, 50, 5)
FLAT = [[8, 18, 32, 50]]


def scene() -> Volume:
    """The ball in noise, where many logits are near the threshold."""
    noise = np.random.default_rng(11).normal(0, 60, SCENE_SHAPE)
    return Volume((scene_pixels(np.int16) + noise).astype(np.int16), spacing=(0.75, 1.25, 4.0))


def answers(session: Session) -> str:
    """Digest of a label map, of its scores and areas, and of the logits of one slice."""
    volume = scene()
    result = session.segment(volume, box=BOX, window=(100, 300))
    image = np.clip(volume.array[:, :, 4].T, 0, 255).astype(np.uint8)
    logits = session.decode(session.encode(image), boxes=FLAT).low_res_logits
    assert result.label_map.any()
    told = [(one.slice_index, one.score, one.area) for one in result.objects[0].slices]
    return hashlib.sha256(result.label_map.tobytes() + logits.tobytes() + repr(told).encode()).hexdigest()


def opened(kind: str, *, cache: bool) -> Session:
    engine, precision = kind.split()
    return Session(backend=engine, precision=precision, threads=THREADS, cache=cache)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    skip_without(request.param.split()[0])
    return str(request.param)


@pytest.fixture(scope="module")
def expected(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The answer of a session of its own, with an empty cache folder and nothing kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITE_INFER_CACHE", str(tmp_path_factory.mktemp("empty")))
        with opened(kind, cache=False) as session:
            yield answers(session)


def test_a_session_repeats_itself(kind: str, expected: str) -> None:
    with opened(kind, cache=False) as session:
        assert [answers(session), answers(session)] == [expected, expected]


def test_the_cache_changes_nothing_neither_filling_nor_filled(kind: str, expected: str, cache_folder: Path) -> None:
    for kept in (False, True):
        assert any(cache_folder.rglob("*.embedding")) == kept
        with opened(kind, cache=True) as session:  # the second one also reads the graphs that the first compiled
            assert answers(session) == expected


def test_threads_that_share_a_session_change_nothing(kind: str, expected: str) -> None:
    together = Barrier(4)

    def work() -> str:
        together.wait()
        return answers(session)

    with opened(kind, cache=False) as session, ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(work) for _ in range(4)]]
    assert found == [expected] * 4


def test_another_process_finds_the_same(kind: str, expected: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import test_determinism as test\n"
        "with test.opened(sys.argv[1], cache=False) as session: print(test.answers(session))"
    )
    assert run_python(code, kind, Path(__file__).parent).strip() == expected
