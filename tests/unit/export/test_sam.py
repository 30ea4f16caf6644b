"""SAM's parts: what is rearranged for speed computes what the textbook form computes."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from tiny_family import GRID, SIDE, WIDTH, random_model  # noqa: E402

from export.families._sam import (  # noqa: E402
    Attention,
    LayerNorm2d,
    PromptEncoder,
    TwoWayTransformer,
    paint,
    pixels_of,
    upscaled,
)
from export.families._sam_graphs import BoxDecoder  # noqa: E402


def textbook(attention: Attention, query, key, value):
    """Multi-head attention with every projection where the papers draw it."""

    def split(x):
        return x.reshape(*x.shape[:2], attention.heads, -1).permute(0, 2, 1, 3)

    q, k, v = split(attention.q_proj(query)), split(attention.k_proj(key)), split(attention.v_proj(value))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    joined = (weights @ v).permute(0, 2, 1, 3).reshape(query.shape[0], query.shape[1], -1)
    return attention.out_proj(joined)


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(1)
    return Attention(WIDTH, heads=4, downsample=2).requires_grad_(False)


def test_tokens_looking_at_an_image_attend_as_in_the_textbook(attention: Attention) -> None:
    tokens, image, grid = torch.randn(3, 5, WIDTH), torch.randn(1, 12, WIDTH), torch.randn(12, WIDTH)
    wanted = textbook(attention, tokens, (image + grid).expand(3, -1, -1), image.expand(3, -1, -1))
    torch.testing.assert_close(attention.look(tokens, image, image + grid), wanted, atol=1e-5, rtol=1e-5)


def test_an_image_looking_at_tokens_attends_as_in_the_textbook(attention: Attention) -> None:
    keys, values = torch.randn(3, 5, WIDTH), torch.randn(3, 5, WIDTH)
    image, grid = torch.randn(3, 12, WIDTH), torch.randn(12, WIDTH)
    wanted = textbook(attention, image + grid, keys, values)
    torch.testing.assert_close(attention.show(image + grid, keys, values), wanted, atol=1e-5, rtol=1e-5)


def test_the_last_look_of_some_tokens_is_what_it_is_of_all() -> None:
    torch.manual_seed(2)
    mixing = TwoWayTransformer(WIDTH, depth=2, heads=4, hidden=32, eps=1e-5).requires_grad_(False)
    prompt, image, grid = torch.randn(3, 6, WIDTH), torch.randn(1, 12, WIDTH), torch.randn(12, WIDTH)
    (tokens, pixels), (two, same) = mixing(prompt, image, grid), mixing(prompt, image, grid, wanted=2)
    torch.testing.assert_close(two, tokens[:, :2])
    torch.testing.assert_close(same, pixels)


def test_channels_become_the_last_axis() -> None:
    image = torch.randn(2, 48, 3, 5)
    torch.testing.assert_close(pixels_of(image), image.permute(0, 2, 3, 1).flatten(1, 2), rtol=0, atol=0)


def test_tokens_among_themselves_attend_as_in_the_textbook(attention: Attention) -> None:
    query, key, value = torch.randn(3, 2, 5, WIDTH)
    torch.testing.assert_close(attention(query, key, value), textbook(attention, query, key, value))


def test_painting_a_mask_equals_the_transposed_convolutions_of_the_checkpoint() -> None:
    decoder = random_model().mask_decoder
    pixels, weights = torch.randn(2, GRID[0] * GRID[1], WIDTH), torch.randn(2, WIDTH // 8)
    maps = decoder.output_upscaling(pixels.transpose(1, 2).reshape(2, WIDTH, *GRID))
    wanted = (weights[:, :, None, None] * maps).sum(1, keepdim=True)
    found = paint(upscaled(decoder.output_upscaling, pixels), weights, torch.Size(GRID))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_layer_norm_over_the_second_and_over_the_last_axis_agree() -> None:
    norm = LayerNorm2d(WIDTH)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, WIDTH, 3, 5)
    torch.testing.assert_close(norm.along_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm(x))


@pytest.fixture
def prompts() -> PromptEncoder:
    return random_model().prompt_encoder


def test_a_box_becomes_the_codes_of_its_corners_half_a_pixel_further(prompts: PromptEncoder) -> None:
    tokens = prompts.boxes(torch.tensor([[3.0, 7.0, 20.0, 40.0]]))
    matrix = prompts.pe_layer.positional_encoding_gaussian_matrix
    for token, x, y, kind in ((tokens[0, 0], 3.5, 7.5, 2), (tokens[0, 1], 20.5, 40.5, 3)):
        angles = 2 * math.pi * (torch.tensor([2 * x / SIDE - 1, 2 * y / SIDE - 1]) @ matrix)
        code = torch.cat([angles.sin(), angles.cos()])
        torch.testing.assert_close(token, code + prompts.point_embeddings[kind].weight[0], atol=1e-5, rtol=1e-5)


def test_points_carry_their_label_and_padding_has_no_place(prompts: PromptEncoder) -> None:
    points = torch.tensor([[[5.0, 6.0], [5.0, 6.0], [5.0, 6.0]]])
    on, beside, none = prompts.points(points, torch.tensor([[1.0, 0.0, -1.0]]))[0]
    labels = prompts.point_embeddings[1].weight[0] - prompts.point_embeddings[0].weight[0]
    torch.testing.assert_close(on - beside, labels, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(none, prompts.not_a_point_embed.weight[0])


def test_the_grid_runs_along_rows_first(prompts: PromptEncoder) -> None:
    grid = prompts.grid().reshape(*GRID, WIDTH)
    step = SIDE / GRID[0]
    pixel = torch.tensor([[[2 * step + step / 2 - 0.5, 5 * step + step / 2 - 0.5]]])  # column 2, row 5
    place = prompts.points(pixel, torch.ones(1, 1))[0, 0] - prompts.point_embeddings[1].weight[0]
    torch.testing.assert_close(grid[5, 2], place, atol=1e-5, rtol=1e-5)


def test_a_mask_prompt_becomes_a_map_of_the_embedding_size(prompts: PromptEncoder) -> None:
    assert prompts.masks(torch.zeros(2, 1, SIDE, SIDE)).shape == (2, WIDTH, *GRID)


def test_several_boxes_at_once_give_what_each_gives_alone() -> None:
    decoder = BoxDecoder(random_model())
    embedding = torch.randn(1, WIDTH, *GRID)
    boxes = torch.tensor([[3.0, 7.0, 20.0, 40.0], [0.0, 0.0, 63.0, 63.0], [30.0, 31.0, 30.0, 31.0]])
    logits, scores = decoder(embedding, boxes)
    assert logits.shape == (3, 1, SIDE, SIDE)
    assert scores.shape == (3, 1)
    for index, box in enumerate(boxes):
        one, score = decoder(embedding, box[None])
        torch.testing.assert_close(logits[index], one[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scores[index], score[0], atol=1e-5, rtol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 0.01
