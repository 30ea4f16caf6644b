"""Opening, sharing between threads, closing and forking a session."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import STORAGES, stored
from tiny_bundle import (
    BALL,
    BOX,
    ball,
    disc,
    inside,
    open_session,
    scene_volume,
    tiny_bundle,
    unstored,
)

from runtime import Session
from runtime.errors import (
    BackendError,
    BundleError,
    PromptError,
    SessionStateError,
)

# The session itself


def test_a_closed_session_says_so(bundle: Path) -> None:
    session = open_session(bundle, cache=False)
    embedding = session.encode(disc()[0])
    session.close()
    session.close()
    uses: list[Callable[[], object]] = [
        lambda: session.encode(disc()[0]),
        lambda: session.decode(embedding, boxes=[[1, 2, 3, 4]]),
        lambda: session.segment(scene_volume(), box=BOX),
        session.warm_up,
        session.__enter__,
    ]
    for use in uses:
        with pytest.raises(SessionStateError, match=r"this session is closed; create a new Session"):
            use()
    assert session.backend == "onnxruntime"


def test_leaving_the_with_block_closes_even_after_an_error(bundle: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_session(bundle, cache=False) as session:
        raise ZeroDivisionError
    with pytest.raises(SessionStateError, match=r"closed"):
        session.warm_up()


def test_closing_in_the_middle_of_a_run_ends_it_with_a_clear_error(bundle: Path) -> None:
    session = open_session(bundle)

    def progress(event: Any) -> None:
        if event.done == 2:
            session.close()

    with pytest.raises(SessionStateError, match=r"closed"):
        session.segment(scene_volume(), box=BOX, progress=progress)


def test_many_threads_share_a_session(bundle: Path) -> None:
    images = [disc(centre=(20, 12 + 5 * index))[0] for index in range(8)]
    masks = [disc(centre=(20, 12 + 5 * index))[1] for index in range(8)]
    with open_session(bundle, threads=2) as session:

        def work(index: int) -> bool:
            box = [max(0, 2 + 5 * index), 8, min(63, 22 + 5 * index), 32]
            found = session.decode(session.encode(images[index]), boxes=[box]).masks[0]
            volume = session.segment(scene_volume(), box=BOX).label_map
            return bool((found == masks[index]).all() and (volume == inside()).all())

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, [*range(8)] * 3))


def test_graphs_are_loaded_on_first_use_and_once(bundle: Path, opened: list[tuple[str, int]]) -> None:
    with open_session(bundle, cache=False) as session:
        assert opened == []
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda _: session.encode(disc()[0]), range(6)))
        assert opened == [("encoder", 1)]
        session.warm_up("image")
        assert opened == [("encoder", 1), ("decoder", 1)]
        session.segment(scene_volume(), box=BOX)
        session.warm_up("volume")
        session.warm_up()
    assert sorted(opened) == [("decoder", 1), ("decoder", 2), ("encoder", 1), ("encoder", 2)]


def test_one_thread_has_one_set_of_graphs(bundle: Path, opened: list[tuple[str, int]]) -> None:
    with open_session(bundle, cache=False, threads=1) as session:
        session.warm_up()
        session.segment(scene_volume(), box=BOX)
    assert opened == [("decoder", 1), ("encoder", 1)]


def test_graphs_for_anything_else_are_refused(bundle: Path) -> None:
    with open_session(bundle) as session, pytest.raises(PromptError, match=r"'volumes': wanted 'image', 'volume', or"):
        session.warm_up("volumes")  # type: ignore[arg-type]


def _in_child(session: Session, queue: Any) -> None:
    try:
        session.encode(disc()[0])
    except SessionStateError as error:
        message = str(error)
    else:
        message = "no error"
    session.close()  # must neither hang nor crash
    queue.put(message)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("locked", [False, True], ids=["idle", "while another thread holds the lock"])
def test_a_child_process_is_told_to_open_a_session_of_its_own(bundle: Path, locked: bool) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with open_session(bundle) as session:
        if locked:
            for lock in (session._experts._lock, session._experts.first._lock):
                lock.acquire()
        child = context.Process(target=_in_child, args=(session, queue))
        child.start()
        if locked:
            for lock in (session._experts._lock, session._experts.first._lock):
                lock.release()
        child.join(20)
        alive = child.is_alive()
        if alive:
            child.kill()
        assert not alive, "the child hangs"
        assert "was created before a fork; create a new Session in the child process" in queue.get()
        assert session.decode(session.encode(disc()[0]), boxes=[[15, 8, 45, 32]]).masks.any()


@pytest.mark.parametrize("threads", [0, -1, True, 1.5, "2"])
def test_a_bad_number_of_threads_is_refused(bundle: Path, threads: Any) -> None:
    with pytest.raises(PromptError, match=r"threads .*: wanted a whole number"):
        Session(bundle, threads=threads)


def test_threads_are_the_callers(bundle: Path) -> None:
    with open_session(bundle, threads=1) as session:
        assert session.threads == 1
    with open_session(bundle, threads=None) as session:
        assert session.threads >= 1


def test_an_unknown_bundle_backend_and_precision_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle 'nosuch'; found by name"):
        Session("nosuch")
    with pytest.raises(BundleError, match=r"has no manifest.json"):
        Session(tmp_path)
    with pytest.raises(BackendError, match=r"backend 'tensorflow'; wanted one of auto, openvino, onnxruntime"):
        Session(bundle, backend="tensorflow")
    with pytest.raises(BackendError, match=r"precision 'fp8'; wanted one of auto, fp32, bf16, fp16, int8"):
        Session(bundle, precision="fp8")
    with pytest.raises(BundleError, match=r"bundle 'tiny' has no int8 graphs"):
        open_session(bundle, precision="int8")


def test_a_bundle_that_asks_for_more_than_this_version_does_is_refused(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, output={"implicit": True})
    with pytest.raises(BundleError, match=r"needs output.implicit with input.resize longest_side, which"):
        Session(folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"embedding": [{"name": "plane", "shape": [1, 1, 32, 32]}]}, r"'plane': found \(1, 1, 64, 64\)"),
        ({"embedding": [{"name": "nosuch", "shape": [1, 1, 64, 64]}]}, r"'nosuch': found no such output"),
        (
            {"output": {"low_res_size": [32, 32]}},
            r"found \(1, 1, 64, 64\), the manifest says \(N, 1, 32, 32\)",
        ),
        ({"output": {"scores": True}}, r"'scores': found no such output, the manifest says \(N, 1\)"),
        ({"prompts": {"points": {}}}, r"input 'points' is not known"),
    ],
)
def test_a_manifest_that_does_not_fit_its_graphs_is_found_out(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with open_session(tiny_bundle(tmp_path, **changes), cache=False) as session:
        with pytest.raises(Exception, match=text) as caught:
            session.segment(scene_volume(), box=BOX)
        assert type(caught.value).__module__ == "runtime.errors"


def test_the_helpers_of_these_tests_know_the_scene() -> None:
    truth = ball()
    assert truth[tuple(map(int, BALL))]
    np.testing.assert_array_equal(inside(), truth)
    np.testing.assert_array_equal(unstored(stored(truth, STORAGES[29]), STORAGES[29]), truth)
    for axes in ((0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)):
        assert (np.flip(truth, axes) != truth).any()
