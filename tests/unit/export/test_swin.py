"""Swin's parts: what is rearranged for speed computes what the paper draws."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from torch.nn import functional  # noqa: E402

from export.families._sam import PromptEncoder, paint  # noqa: E402
from export.families._swin import SkipDecoder, Swin, _Merge, _WindowAttention  # noqa: E402
from export.families.swin_litemedsam import SwinLiteMedSam, graphs  # noqa: E402

SIDE, WINDOW, WIDTH, HEADS, HEAD = 8, 4, 6, 2, 5


def shuffled(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + noise.abs() if name.endswith("running_var") else 0.3 * noise)
    return module.eval().requires_grad_(False)


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of the checkpoint: minus infinity between the halves of a window, by rows and by columns."""
    half = torch.arange(WINDOW) >= WINDOW // 2
    row = half[:, None].expand(WINDOW, WINDOW).flatten()
    column = half[None].expand(WINDOW, WINDOW).flatten()
    nothing = torch.zeros(WINDOW**2, WINDOW**2)
    upper_lower, left_right = (nothing.masked_fill(one[:, None] != one[None], -torch.inf) for one in (row, column))
    return upper_lower, left_right


@pytest.mark.parametrize("shifted", [False, True])
def test_attention_stays_in_windows_and_never_crosses_the_edge_of_the_image(shifted: bool) -> None:
    attention = shuffled(_WindowAttention(WIDTH, HEADS, head_width=HEAD, window=WINDOW, shifted=shifted))
    if shifted:
        attention.upper_lower_mask.data, attention.left_right_mask.data = masks()
    x = torch.randn(1, SIDE, SIDE, WIDTH, generator=torch.Generator().manual_seed(1))
    y, column = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    places = torch.stack([y, column], -1).reshape(-1, 2)
    shift = WINDOW // 2 if shifted else 0
    moved = (places - shift) // WINDOW  # windows of the shifted image, those cut by its edge in parts
    together = (moved[:, None] == moved[None]).all(-1)
    apart = places[None] - places[:, None] + WINDOW - 1
    bias = attention.pos_embedding[apart[..., 0].clamp(0, 2 * WINDOW - 2), apart[..., 1].clamp(0, 2 * WINDOW - 2)]
    q, k, v = (
        part.reshape(-1, HEADS, HEAD).transpose(0, 1) for part in attention.to_qkv(x[0]).flatten(0, 1).chunk(3, 1)
    )
    scores = (q @ k.transpose(1, 2)) * HEAD**-0.5 + bias
    weights = scores.masked_fill(~together, -torch.inf).softmax(-1)
    wanted = attention.to_out((weights @ v).transpose(0, 1).flatten(1)).reshape(x.shape)
    torch.testing.assert_close(attention(x), wanted, atol=1e-5, rtol=1e-5)


def test_merging_squares_is_a_linear_layer_on_unfolded_pixels() -> None:
    merge = shuffled(_Merge(3, 5, 2))
    x = torch.randn(1, 3, 4, 6)
    unfolded = functional.unfold(x, 2, stride=2).transpose(1, 2)  # (1, 6, 12)
    torch.testing.assert_close(merge(x), merge.linear(unfolded).reshape(1, 2, 3, 5))


def tiny_model() -> SwinLiteMedSam:
    encoder = Swin((4, 4, 8, 8, 8), depths=(2, 2, 2, 2), heads=(1, 1, 2, 2), head_width=4, outputs=16, window=4)
    prompts = PromptEncoder(16, embedding_size=(16, 16), input_size=(64, 64), mask_channels=4)
    decoder = SkipDecoder(16, (4, 8, 8, 8), side=16, heads=2, hidden=32)
    return shuffled(SwinLiteMedSam(encoder, prompts, decoder))


def test_upscaling_with_parts_from_the_encoder_equals_the_layers_of_the_checkpoint() -> None:
    model = tiny_model()
    decoder = model.mask_decoder
    maps = model.image_encoder(torch.rand(1, 3, 64, 64))
    pixels, weights = torch.randn(2, 256, 16), torch.randn(2, 2)
    x = pixels.transpose(1, 2).reshape(2, 16, 16, 16)
    joined = decoder.neck(torch.cat(maps[1:], 1)).expand(2, -1, -1, -1)
    x = decoder.output_upscaling1(torch.cat([x, joined], 1))
    x = decoder.output_upscaling2(torch.cat([x, maps[0].expand(2, -1, -1, -1)], 1))
    wanted = (weights[:, :, None, None] * x).sum(1, keepdim=True)

    skips = decoder.skips(maps)
    found = decoder._upscale(
        decoder.output_upscaling2, decoder._upscale(decoder.output_upscaling1, pixels, skips[0]), skips[1]
    )
    torch.testing.assert_close(paint(found, weights, torch.Size((16, 16))), wanted, atol=1e-4, rtol=1e-4)


def test_the_numbers_of_prompts_and_of_points_are_free_in_the_exported_decoder(tmp_path) -> None:
    import onnxruntime

    from export.graph import write_onnx

    graph = graphs(tiny_model(), 64)["decoder"]
    write_onnx(graph, tmp_path / "decoder.onnx")
    run = onnxruntime.InferenceSession(tmp_path / "decoder.onnx")
    embedding = dict(list(graph.inputs.items())[:3])
    for prompts, points in ((1, 1), (3, 7)):
        inputs = {
            **embedding,
            "boxes": torch.tensor([[5.0, 9.0, 40.0, 50.0]]).expand(prompts, -1),
            "points": torch.rand(prompts, points, 2) * 64,
            "point_labels": torch.ones(prompts, points),
            "masks": torch.rand(prompts, 1, 64, 64).round(),
            "has_mask": torch.ones(prompts),
        }
        wanted = graph.module(*inputs.values())
        found = run.run(None, {name: value.numpy() for name, value in inputs.items()})
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(one), other, atol=1e-4, rtol=1e-4)
