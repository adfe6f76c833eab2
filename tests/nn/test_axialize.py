"""Axial attention in the place of a vision transformer's: against loops, and against the original."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.errors import ModelError
from axialcli.nn import axialize

ORDERS = ("width_height", "height_width", "parallel")


class Attention(nn.Module):
    """Attention of all tokens, with timm's names."""

    def __init__(self, channels: int, heads: int, normed: bool) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.q_norm = nn.LayerNorm(channels // heads) if normed else nn.Identity()
        self.k_norm = nn.LayerNorm(channels // heads) if normed else nn.Identity()
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(0.0)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        batch, tokens, channels = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        seen = (q @ k.transpose(-1, -2) * self.scale).softmax(-1) @ v
        return self.proj_drop(self.proj(seen.transpose(1, 2).reshape(batch, tokens, channels)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, channels: int, heads: int, normed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn: Any = Attention(channels, heads, normed)
        self.mlp = nn.Sequential(nn.Linear(channels, 16), nn.GELU(), nn.Linear(16, channels))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = x + self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid_size: Any = grid
        self.proj = nn.Conv2d(3, channels, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class Vit(nn.Module):
    """A vision transformer with timm's names: patches of 2 x 2, a class token, registers."""

    def __init__(
        self, grid: tuple[int, int], *, heads: int = 2, normed: bool = False, prefix: int = 1, depth: int = 2
    ) -> None:
        super().__init__()
        channels = 8
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels)) if prefix else None
        self.reg_token = nn.Parameter(torch.randn(1, prefix - 1, channels)) if prefix > 1 else None
        self.patch_embed = PatchEmbed(channels, grid)
        self.pos_embed = nn.Parameter(torch.randn(1, prefix + grid[0] * grid[1], channels))
        self.blocks = nn.ModuleList(Block(channels, heads, normed) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        before = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        x = torch.cat([*before, x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def vit(grid: tuple[int, int], **how: Any) -> Any:
    """With lively weights everywhere, in float64."""
    made = Vit(grid, **how).double().eval()
    for tensor in made.state_dict().values():
        tensor.normal_(0, 0.5)
    return made


def image_of(grid: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, 2 * grid[0], 2 * grid[1], dtype=torch.float64)


Place = tuple[int, int] | int
"""Row and column of a token of the grid; the number of a token before it."""


def places_of(grid: tuple[int, int], prefix: int) -> list[Place]:
    return [*range(prefix), *((y, x) for y in range(grid[0]) for x in range(grid[1]))]


def averaged(
    scores: Callable[[Place, Place], float], here: Place, seen: list[Place], values: dict[Place, Tensor]
) -> Tensor:
    weight = {there: math.exp(scores(here, there)) for there in seen}
    return sum((weight[t] / sum(weight.values()) * values[t] for t in seen), torch.zeros(()).double())


def in_loops(attention: Any, x: Tensor, grid: tuple[int, int], prefix: int, order: str, span: int) -> Tensor:
    """What the docstring tells, head by head and token by token."""
    places, heads = places_of(grid, prefix), attention.num_heads
    channels = x.shape[-1] // heads
    out = torch.zeros_like(x)
    for b in range(len(x)):
        made = attention.qkv.weight @ x[b].t() + attention.qkv.bias[:, None]
        for head in range(heads):
            q, k, v = (
                made[(part * heads + head) * channels : (part * heads + head + 1) * channels].t()
                for part in range(3)
            )
            q, k = attention.q_norm(q), attention.k_norm(k)
            at = {place: i for i, place in enumerate(places)}

            def scores(here: Place, there: Place, q: Tensor = q, k: Tensor = k, at: Any = at) -> float:
                return float(q[at[here]] @ k[at[there]]) / math.sqrt(channels)

            def seen(here: Any, axes: tuple[int, ...], places: list[Place] = places) -> list[Place]:
                def on_a_line(there: Any) -> bool:
                    return any(
                        here[1 - axis] == there[1 - axis] and abs(here[axis] - there[axis]) <= span // 2
                        for axis in axes
                    )

                return [there for there in places if isinstance(there, int) or on_a_line(there)]

            given = {place: v[i] for place, i in at.items()}
            passes = {"width_height": [(1,), (0,)], "height_width": [(0,), (1,)], "parallel": [(0, 1)]}[order]
            if order != "parallel" and 1 in grid:
                passes = [(axis,) for axis in (0, 1) if grid[axis] > 1] or passes[:1]
            values = given
            for axes in passes:
                values = {
                    here: given[here]
                    if isinstance(here, int)
                    else averaged(scores, here, seen(here, axes), values)
                    for here in places
                }
            for here, i in at.items():
                one = averaged(scores, here, places, given) if isinstance(here, int) else values[here]
                out[b, i, head * channels : (head + 1) * channels] = one
    return out @ attention.proj.weight.t() + attention.proj.bias  # type: ignore[no-any-return]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("span", [None, 1, 3, 7])
@pytest.mark.parametrize(
    ("grid", "prefix"), [((3, 4), 1), ((4, 3), 0), ((2, 5), 3), ((1, 4), 1), ((1, 1), 2)]
)
def test_it_is_the_attention_that_the_docstring_tells(
    order: Any, span: int | None, grid: tuple[int, int], prefix: int
) -> None:
    original = vit(grid, prefix=prefix, normed=prefix == 3, depth=1).requires_grad_(False)
    changed: Any = axialize(original, order=order, span=span)
    attention = changed.blocks[0].attn
    tokens = torch.randn(2, prefix + grid[0] * grid[1], 8, dtype=torch.float64)

    want = in_loops(original.blocks[0].attn, tokens, grid, prefix, order, 99 if span is None else span)

    assert (attention(tokens) - want).abs().max() < 1e-9
    assert (attention.float()(tokens.float()) - want).abs().max() < 1e-5


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("grid", [(1, 9), (9, 1), (1, 1), (1, 150)])
@pytest.mark.parametrize("how", [{}, {"prefix": 0}, {"prefix": 3, "normed": True}], ids=str)
def test_with_one_row_of_tokens_it_is_the_original(order: Any, grid: tuple[int, int], how: Any) -> None:
    original, image = vit(grid, **how), image_of(grid)

    with torch.inference_mode():
        for span in (None, 2 * max(grid) - 1):
            changed: Any = axialize(original, order=order, span=span)
            assert (changed(image) - original(image)).abs().max() < 1e-12
            before, after = (net.blocks[0].attn.float() for net in (copy.deepcopy(original), changed))
            tokens = torch.randn(2, original.pos_embed.shape[1], 8)
            expected = before(tokens)
            assert (after(tokens) - expected).abs().max() < 1e-6 * max(1, float(expected.abs().max()))


@pytest.mark.parametrize("order", ORDERS)
def test_with_more_rows_it_is_another_network(order: Any) -> None:
    """Were the passes left out altogether, the test of one row would not tell."""
    original, image = vit((3, 4)), image_of((3, 4))

    assert (axialize(original, order=order)(image) - original(image)).abs().max() > 1e-3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("span", [None, 5, 131])
def test_pieces_of_long_lines_are_the_line(order: Any, span: int | None, monkeypatch: Any) -> None:
    original = vit((3, 140), depth=1)
    changed, image = axialize(original, order=order, span=span), image_of((3, 140))
    cut = changed(image)

    # By its name in sys.modules: the package has a function of the file's name.
    monkeypatch.setattr(sys.modules["axialcli.nn.axialize"], "QUERIES", 1000)

    assert (changed(image) - cut).abs().max() < 1e-12


@pytest.mark.parametrize("order", ORDERS)
def test_the_original_stays_as_it_is_and_weights_go_both_ways(order: Any) -> None:
    original, image = vit((3, 4)), image_of((3, 4))
    before, answer = copy.deepcopy(original.state_dict()), original(image)

    changed = axialize(original, order=order)
    with torch.no_grad():
        for weight in changed.parameters():
            weight.zero_()

    assert isinstance(original.blocks[0].attn, Attention)
    assert torch.equal(original(image), answer)
    changed.load_state_dict(before)
    assert changed.state_dict().keys() == before.keys()
    original.load_state_dict(changed.state_dict())


@pytest.mark.parametrize("order", ORDERS)
def test_every_weight_learns(order: Any) -> None:
    changed = axialize(vit((3, 4), prefix=2, normed=True), order=order, span=3).train()
    changed(image_of((3, 4))).square().sum().backward()

    for name, weight in changed.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name
        assert weight.grad.isfinite().all(), name


def test_dropout_of_the_weights_is_kept_for_training() -> None:
    original = vit((3, 4), depth=1)
    original.blocks[0].attn.attn_drop.p = 0.5
    changed, image = axialize(original), image_of((3, 4))

    assert torch.equal(changed(image), changed(image))
    changed.train()
    assert not torch.equal(changed(image), changed(image))


def test_another_scale_is_kept_also_the_second_time() -> None:
    original, image = vit((1, 6)), image_of((1, 6))
    for block in original.blocks:
        block.attn.scale = 0.3

    for order in ORDERS:
        twice = axialize(axialize(original), order=order)
        assert (twice(image) - original(image)).abs().max() < 1e-12
        assert (axialize(original, order=order)(image) - original(image)).abs().max() < 1e-12


def test_a_grid_that_is_not_told_is_square_or_asked_for() -> None:
    square, oblong = vit((3, 3)), vit((2, 4))
    square.patch_embed.grid_size = oblong.patch_embed.grid_size = None

    assert axialize(square).blocks[0].attn.grid == (3, 3)  # type: ignore[index, union-attr]
    with pytest.raises(ModelError, match=r"does not tell its grid: say axialize\(\.\.\., grid="):
        axialize(oblong)
    assert axialize(oblong, grid=(2, 4))(image_of((2, 4))).shape == (2, 9, 5)


def test_a_picture_of_another_size_is_refused() -> None:
    changed = axialize(vit((3, 4)))

    with pytest.raises(ValueError, match="10 tokens are no grid of 3 x 4 and 1 before it"):
        changed.blocks[0].attn(torch.zeros(1, 10, 8))  # type: ignore[index, union-attr, operator]
    with pytest.raises(ValueError, match="takes no mask"):
        changed.blocks[0](torch.zeros(1, 13, 8).double(), is_causal=True)  # type: ignore[index, operator]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "depth_first"}, "order 'depth_first' is neither"),
        ({"span": 4}, "it has to be odd"),
        ({"span": -1}, "it has to be odd"),
        ({"grid": (0, 4)}, "has no tokens"),
    ],
)
def test_settings_that_make_no_attention_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        axialize(vit((3, 4)), **settings)


def of_another_kind(change: str) -> Any:
    made = vit((3, 4))
    attention = made.blocks[1].attn
    if change == "table":
        attention.relative_position_bias_table = nn.Parameter(torch.zeros(3))
    elif change == "rel_pos":
        attention.rel_pos = nn.Linear(2, 2)
    elif change == "proj":
        attention.proj = nn.Conv2d(8, 8, 1)
    elif change == "heads":
        attention.num_heads = 5
    elif change == "none":
        made.blocks[1].attn = None
    elif change == "rope":
        made.blocks[1].attn = WithRope(8, 2, False)
    return made


class WithRope(Attention):
    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return F.relu(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("table", "has relative_position_bias_table, which axial attention has no place for"),
        ("rel_pos", "has rel_pos, which"),
        ("rope", "has rope, which"),
        ("proj", "has no linear layer `proj`"),
        ("heads", ".* do not divide into 5 heads"),
        ("none", "is no attention with `num_heads`"),
    ],
)
def test_attention_with_parts_of_its_own_is_refused_by_name(change: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"Vit: blocks\.1\.attn {message}"):
        axialize(of_another_kind(change))


def test_what_is_no_vision_transformer_is_refused() -> None:
    for network in (nn.Linear(2, 2), nn.Sequential()):
        with pytest.raises(ModelError, match="no vision transformer"):
            axialize(network)
