"""Programs of others: their texts, what they are run with, and what is said of those that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from perf_fakes import TRUTH

from perf.cases import Case
from perf.measure import Measurer
from perf.peers import Peer, parse_peer, parse_peers
from perf.plan import Configuration, Task, configurations
from perf.processes import launch
from perf.recorder import Recorder
from runtime.errors import PromptError

_WRITES = "import sys, numpy; numpy.savez(sys.argv[2], segs=numpy.load(sys.argv[1])['imgs'])"


def peer_of(*words: str) -> Configuration:
    (one,) = configurations([], (), (), peers=[Peer("theirs", words)])
    return one


def run(measurer: Measurer, one: Configuration, case: Case) -> str | None:
    """Prime and measure in real processes; the error, if any."""
    measurer.prime(one, [case])
    measurer.run(Task("processes", configuration=one, case=case))
    return next(iter(measurer.recorder.errors.values()), None)


@pytest.fixture
def real(tmp_path: Path) -> Measurer:
    return Measurer(tmp_path, Recorder(), launch)


@pytest.fixture
def written(tiny_case: Case) -> Case:
    np.savez(tiny_case.path, imgs=TRUTH)
    return tiny_case


def test_a_command_is_split_as_a_shell_would_and_read_by_none() -> None:
    peer = parse_peer(f"theirs='{sys.executable}' 'a b' $HOME --in={{input}} {{output}}")
    assert peer == Peer("theirs", (sys.executable, "a b", "$HOME", "--in={input}", "{output}"))
    assert peer.command(Path("x y.npz"), Path("o.npz"))[2:] == ["$HOME", "--in=x y.npz", "o.npz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("theirs", "wanted NAME=COMMAND"),
        (f"={sys.executable} {{input}} {{output}}", "wanted NAME=COMMAND"),
        (f"theirs={sys.executable} {{input}}", "wanted NAME=COMMAND"),
        (f"fp32={sys.executable} {{input}} {{output}}", "other than reference, fp32, floor"),
        ("theirs=./none-such {input} {output}", "there is no program './none-such'"),
        ("theirs='a {input} {output}", "every quotation closed"),
    ],
)
def test_a_text_that_is_no_peer_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        parse_peer(text)
    assert "\n" not in str(caught.value)


def test_two_peers_of_one_name_are_refused() -> None:
    with pytest.raises(PromptError, match="theirs: given more than once"):
        parse_peers([f"theirs='{sys.executable}' {{input}} {{output}}"] * 2)


def test_a_program_is_timed_as_a_whole_process_and_its_label_map_is_kept(real: Measurer, written: Case) -> None:
    assert run(real, peer_of(sys.executable, "-c", _WRITES, "{input}", "{output}"), written) is None
    names = [key[1:4] for key in real.recorder.samples if key[-1] == "wall_s"]
    assert names == [("tiny", "process", "warm")]
    assert real.recorder.answers["theirs", "tiny"].voxels == {"1": int(TRUTH.sum())}


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit('no weights')", "no weights"),
        ("pass", "it wrote no label map (FileNotFoundError); wanted an NPZ with segs at {output}"),
        ("import sys, numpy; numpy.savez(sys.argv[2], masks=[1])", "it wrote no label map (KeyError)"),
        ("import sys; open(sys.argv[2], 'w').write('segs')", "it wrote no label map"),
        ("import sys, numpy; numpy.savez(sys.argv[2], segs=[[1, 2]])", "it wrote segs of shape (1, 2)"),
        ("import sys, numpy; numpy.savez(sys.argv[2], segs=numpy.ones((3, 5, 4)))", "kind 'f'"),
    ],
)
def test_a_program_that_fails_or_writes_no_label_map_fails_clearly_and_is_not_run_again(
    program: str, message: str, real: Measurer, written: Case
) -> None:
    error = run(real, peer_of(sys.executable, "-c", program, "{input}", "{output}"), written)
    assert error is not None
    assert message in error
    assert not real.recorder.samples
    assert list(real.recorder.errors) == [("theirs", "")]
