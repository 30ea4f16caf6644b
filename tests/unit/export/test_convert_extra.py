"""A second file of weights: what a family makes of it, and what is said where it is missing, wrong or not wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from tiny_family import SIDE, build, family, random_model, saved  # noqa: E402

import export.convert  # noqa: E402
from export import compare  # noqa: E402
from export.convert import ConvertOptions, convert  # noqa: E402
from export.families import Extra, Graph  # noqa: E402
from export.families._sam import Sam  # noqa: E402
from export.families._sam_graphs import box_graphs  # noqa: E402
from export.load import load_extra, read_checkpoint  # noqa: E402
from runtime.errors import CheckpointError  # noqa: E402
from runtime.manifest import GraphFiles, Licence, Manifest, load_manifest  # noqa: E402


class Second(torch.nn.Module):
    """A module whose width only its file tells."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, width)

    def forward(self, crop: torch.Tensor) -> torch.Tensor:
        return self.fc(crop.mean((2, 3)))


def second_of(shapes: Mapping[str, tuple[int, ...]]) -> Second:
    return Second(shapes.get("fc.weight", (2, 3))[0])


def graphs_of(model: Sam, second: Second | None = None) -> dict[str, Graph]:
    graphs = dict(box_graphs(model, (SIDE, SIDE)))
    if second is not None:
        crop = torch.rand(2, 3, 8, 8)
        graphs["looker"] = Graph(second, {"crop": crop}, ("output",), per_prompt=frozenset({"crop", "output"}))
    return graphs


EXTRA = Extra(
    title="a looking glass",
    weights="https://example.org/glass",
    licence=Licence(spdx="MIT", url="https://example.org/glass/LICENSE"),
    build=second_of,
    facts=replace(family().facts, modalities=("seen",)),
    without="the bundle looks nowhere",
)
SEEING = replace(family(), graphs=graphs_of, extra=EXTRA)
NEEDING = replace(SEEING, extra=replace(EXTRA, without=""))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return saved(random_model().state_dict(), tmp_path / "tiny.pth")


@pytest.fixture
def glass(tmp_path: Path) -> Path:
    weights = {"fc.weight": torch.rand(4, 3), "fc.bias": torch.rand(4), "frame": torch.rand(9)}
    return saved({"state_dict": weights}, tmp_path / "glass.pth")


def converted(checkpoint: Path, folder: Path, *, one=SEEING, **options) -> Manifest:
    """Manifest of a bundle; stand-ins take the place of the slow steps."""

    def write(role: str, graph: Graph, folder: Path, _: ConvertOptions) -> GraphFiles:
        (folder / f"{role}.onnx").write_bytes(b"graph")
        return GraphFiles(onnx=f"{role}.onnx")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.convert, "load_families", lambda: (one,))
        patch.setattr(export.convert, "_write_graph", write)
        patch.setattr(compare, "compare_graphs", lambda *_: 0.0)
        return load_manifest(convert(checkpoint, folder, options=ConvertOptions(**options)))


def test_a_second_file_becomes_a_third_graph_with_its_own_facts_and_terms(
    checkpoint: Path, glass: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    manifest = converted(checkpoint, tmp_path / "bundle", extra=glass, report=told.append)
    assert "glass.pth: a looking glass" in told
    assert "wrote the looker" in told
    assert manifest.graphs["float"].extra["looker"].onnx == "looker.onnx"
    assert manifest.modalities == ("seen",)
    assert manifest.source.extra_sha256 == hashlib.sha256(glass.read_bytes()).hexdigest()
    assert manifest.licence.spdx == "Apache-2.0"
    assert manifest.licence.notice == "a looking glass: MIT, https://example.org/glass/LICENSE"


def test_the_version_of_a_bundle_tells_its_second_file(checkpoint: Path, glass: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = saved({"fc.weight": torch.rand(4, 3), "fc.bias": torch.rand(4)}, tmp_path / "other.pth")
    found = [converted(checkpoint, tmp_path / str(n), extra=file) for n, file in enumerate((None, glass, other))]
    assert len({manifest.version for manifest in found}) == 3


def test_what_a_bundle_lacks_without_its_second_file_is_said(checkpoint: Path, tmp_path: Path) -> None:
    told: list[str] = []
    manifest = converted(checkpoint, tmp_path / "bundle", report=told.append)
    assert "no --extra (a looking glass): the bundle looks nowhere" in told
    assert (manifest.modalities, manifest.source.extra_sha256) == ((), None)
    assert manifest.graphs["float"].extra == {}


def test_a_second_file_that_is_needed_is_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    text = r"tiny needs a second file: a looking glass, from https://example.org/glass; give it with --extra FILE"
    with pytest.raises(CheckpointError, match=text):
        converted(checkpoint, tmp_path / "bundle", one=NEEDING)
    assert not (tmp_path / "bundle").exists()


def test_a_second_file_that_nobody_takes_is_refused(checkpoint: Path, glass: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"glass.pth: tiny is converted from its checkpoint alone; leave --extra"):
        converted(checkpoint, tmp_path / "bundle", one=family(), extra=glass)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (
            {"fc.weight": torch.rand(4, 3)},
            r"glass.pth is not a looking glass: missing fc.bias. It is published at http",
        ),
        ({"other": torch.rand(4)}, r"is not a looking glass: missing fc.weight, fc.bias"),
        ({"fc.weight": torch.rand(4, 5), "fc.bias": torch.rand(4)}, r"of another shape fc.weight \(4, 5\) instead of"),
        ({"fc.weight": torch.full((4, 3), torch.nan), "fc.bias": torch.rand(4)}, r"fc.weight .* holds NaN"),
    ],
)
def test_a_second_file_of_another_kind_is_told_from_its_tensors(tmp_path: Path, weights, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        load_extra(EXTRA, read_checkpoint(saved(weights, tmp_path / "glass.pth")))


def test_safetensors_files_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {name: value.contiguous() for name, value in random_model().state_dict().items()}
    save_file(weights, tmp_path / "tiny.safetensors")
    found = read_checkpoint(tmp_path / "tiny.safetensors").state_dicts[0].tensors
    assert set(found) == set(build().state_dict())
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    content = (tmp_path / "tiny.safetensors").read_bytes()
    for name, damaged in (("cut", content[: len(content) // 2]), ("foreign", b"no such file")):
        (tmp_path / f"{name}.safetensors").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"{name}.safetensors is damaged or not a safetensors file"):
            read_checkpoint(tmp_path / f"{name}.safetensors")
