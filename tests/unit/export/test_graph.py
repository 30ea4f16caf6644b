"""Torch module -> ONNX: names, free axes, folding, half weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from export.families import Graph  # noqa: E402
from export.graph import OPSET, write_onnx, write_openvino  # noqa: E402


class Example(torch.nn.Module):
    """Convolution, batch normalisation, and a product of two weights added to what depends on the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(16)
        self.norm.running_mean.normal_()
        self.left, self.right = torch.randn(64, 80), torch.randn(80, 16)

    def forward(self, image, boxes):
        places = (self.left @ self.right).sum(0)
        pooled = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        return pooled * places + boxes.sum(1, keepdim=True), boxes * 2


INPUTS = {"image": torch.rand(1, 3, 8, 8), "boxes": torch.rand(2, 4)}
PER_PROMPT = frozenset({"boxes", "sums", "doubled"})


@pytest.fixture(scope="module")
def example() -> Graph:
    torch.manual_seed(4)
    return Graph(Example().eval().requires_grad_(False), INPUTS, ("sums", "doubled"), PER_PROMPT)


@pytest.fixture(scope="module")
def files(example: Graph, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graph")
    paths = {"fp32": folder / "full.onnx", "fp16": folder / "half.onnx"}
    for precision, path in paths.items():
        write_onnx(example, path, half_weights=precision == "fp16")
    write_openvino(paths["fp32"], folder / "full.xml")
    return paths | {"openvino": folder / "full.xml"}


def sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def run_openvino(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {output.any_name: array for output, array in model(inputs).items()}


def run_onnxruntime(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))


def test_inputs_and_outputs_have_the_names_asked_for_and_prompts_are_a_free_axis(files: dict[str, Path]) -> None:
    model = onnx.load(files["fp32"])
    onnx.checker.check_model(model, full_check=True)
    assert {value.name: sizes(value) for value in model.graph.input} == {"image": [1, 3, 8, 8], "boxes": ["prompts", 4]}
    assert {value.name: sizes(value)[1:] for value in model.graph.output} == {"sums": [16], "doubled": [4]}
    assert model.opset_import[0].version == OPSET


def test_what_does_not_depend_on_the_input_is_folded(files: dict[str, Path]) -> None:
    graph = onnx.load(files["fp32"]).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    constants = {one.name for one in graph.initializer}
    assert [node.op_type for node in graph.node if node.input and set(node.input) <= constants] == []
    assert sum(node.op_type == "MatMul" for node in graph.node) == 0


def test_the_file_says_nothing_of_the_machine_it_was_made_on(files: dict[str, Path]) -> None:
    text = files["fp32"].read_bytes()
    assert str(Path(__file__).parent.parent).encode() not in text
    assert b"site-packages" not in text


def test_half_weights_are_stored_and_computed_with_in_float32(files: dict[str, Path]) -> None:
    model = onnx.load(files["fp16"])
    onnx.checker.check_model(model, full_check=True)
    types = {one.name: one.data_type for one in model.graph.initializer}
    large = [one for one in onnx.load(files["fp32"]).graph.initializer if numpy_helper.to_array(one).size >= 1024]
    halved = [name for name, kind in types.items() if kind == TensorProto.FLOAT16]
    assert len(halved) == len(large)
    assert all(
        value.type.tensor_type.elem_type == TensorProto.FLOAT for value in (*model.graph.input, *model.graph.output)
    )


@pytest.mark.parametrize("prompts", [1, 2, 5])
@pytest.mark.parametrize(
    ("name", "run", "limit"),
    [
        ("fp32", run_onnxruntime, 1e-5),
        ("fp32", run_openvino, 1e-5),
        ("openvino", run_openvino, 1e-5),
        ("fp16", run_onnxruntime, 1e-2),
        ("fp16", run_openvino, 1e-2),
    ],
)
def test_both_engines_compute_what_torch_computes(
    files: dict[str, Path], example: Graph, name: str, run, limit: float, prompts: int
) -> None:
    inputs = {"image": INPUTS["image"].numpy(), "boxes": np.random.default_rng(5).random((prompts, 4), np.float32)}
    found = run(files[name], inputs)
    wanted = example.module(*map(torch.from_numpy, inputs.values()))
    for output, tensor in zip(example.outputs, wanted, strict=True):
        np.testing.assert_allclose(found[output], tensor.numpy(), atol=limit * float(tensor.std()), rtol=limit)
