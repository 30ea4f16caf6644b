"""TinyViT: windows, offsets and the order of the checkpoint's rows."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from export.families._tiny_vit import Attention, Block, TinyVit, TinyVitSize  # noqa: E402


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(2)
    layer = Attention(12, heads=3, window=4).requires_grad_(False)
    torch.nn.init.normal_(layer.attention_biases)
    return layer


def test_offsets_count_rows_and_columns_between_two_pixels_of_a_window(attention: Attention) -> None:
    first, second = 1 * 4 + 3, 3 * 4 + 0  # row 1, column 3 and row 3, column 0
    assert attention.offsets[first, second] == 2 * 4 + 3
    assert attention.offsets[second, first] == 2 * 4 + 3
    assert (attention.offsets.diagonal() == 0).all()


def test_one_matrix_holds_queries_keys_and_values_head_by_head(attention: Attention) -> None:
    x = torch.randn(2, 16, 12)
    normed = attention.norm(x)
    heads = []
    for head in range(3):
        rows = slice(head * 12, head * 12 + 12)
        q, k, v = (normed @ attention.qkv.weight[rows].T + attention.qkv.bias[rows]).split(4, dim=-1)
        scores = q @ k.transpose(-1, -2) / 2 + attention.attention_biases[head][attention.offsets]
        heads.append(torch.softmax(scores, dim=-1) @ v)
    wanted = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x), wanted, atol=1e-5, rtol=1e-5)


def test_windows_see_only_themselves_and_zeros_beyond_the_border() -> None:
    torch.manual_seed(3)
    block = Block(12, heads=3, window=4).eval().requires_grad_(False)
    x = torch.randn(1, 6, 10, 12)
    whole = block._attend(x)
    corner = torch.zeros(1, 4, 4, 12)
    corner[:, :2, :2] = x[:, 4:, 8:]
    wanted = block.attn(corner.reshape(1, 16, 12)).reshape(1, 4, 4, 12)[:, :2, :2]
    torch.testing.assert_close(whole[:, 4:, 8:], wanted)
    torch.testing.assert_close(whole[:, :4, 4:8], block.attn(x[:, :4, 4:8].reshape(1, 16, 12)).reshape(1, 4, 4, 12))


def test_the_embedding_has_a_quarter_of_the_side() -> None:
    size = TinyVitSize(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 2, 2, 4), windows=(7, 7, 7, 5), outputs=24)
    model = TinyVit(size).eval().requires_grad_(False)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 24, 8, 8)
