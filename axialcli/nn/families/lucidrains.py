"""lucidrains' AxialAttention and AxialImageTransformer, with the weights' public names.

Source: the public package axial_attention (github.com/lucidrains/axial-attention), which has no paper of
its own (it follows Ho et al. 2019, arXiv 1912.12180). Both are networks from features to features of as many
channels, without classes: no model that could be run on a picture by itself. So no model file names them, and
`recognise` says what a checkpoint holds and refuses it; `from_state_dict` makes the module for use in Python.

How many heads there were cannot be read from the weights, nor whether the axes of an AxialAttention were
attended in parallel or in turn: both are asked for; unsaid, they are what the package does unsaid.

Not checked against the package, for names and shapes do not say it: that each part of an
AxialImageTransformer carries its input around, the biased deviation and eps 1e-5 of its channel norm, and the
slope 0.01 of its LeakyReLU.

Shapes: B batch, D channels, H height, W width; A heads. "grid" is any number of axes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from axialcli.errors import ModelError
from axialcli.nn.attention import attend
from axialcli.nn.families.filling import fill
from axialcli.nn.families.found import Found
from axialcli.nn.families.key_reading import shape_of

HEADS = 8
"""The package's own default."""

Order = Literal["parallel", "in_turn"]

Kind = Literal["AxialAttention", "AxialImageTransformer", "AxialImageTransformer (reversible)"]

FIRST: dict[Kind, tuple[str, str]] = {
    "AxialAttention": ("axial_attentions.0.fn.", ""),
    "AxialImageTransformer": ("layers.blocks.0.0.fn.fn.", "layers.blocks.1.0."),
    "AxialImageTransformer (reversible)": ("layers.blocks.0.f.net.fn.fn.", "layers.blocks.1.f.net."),
}
"""How the names of the first attention and of the first convolutions begin."""


class LineAttention(nn.Module):
    """Multi-head attention of every line along one axis: tokens [B, *grid, D] -> the same shape.

    hidden: channels of all heads together, which need not be D. after: how many axes come after the attended
    one in the grid. The weights stay apart as they are stored, queries' and keys' with values'; what they are
    attended by is what AxialAttention without a span uses, too.
    """

    def __init__(self, channels: int, *, hidden: int, heads: int, after: int, biased: bool) -> None:
        super().__init__()
        self.heads, self.after = heads, after
        self.to_q = nn.Linear(channels, hidden, bias=biased)
        self.to_kv = nn.Linear(channels, 2 * hidden, bias=biased)
        self.to_out = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        q = self.to_q(tokens).unflatten(-1, (self.heads, -1))
        kv = self.to_kv(tokens).unflatten(-1, (2, self.heads, -1))
        return self.to_out(attend(q, kv, None, after=self.after, band_AQK=None).flatten(-2))  # type: ignore[no-any-return]


class AxialAttentions(nn.Module):
    """One attention for each axis: tokens [B, *grid, D] -> the same shape. Nothing is carried around.

    order: "parallel", all see the input and their answers are summed; "in_turn", each sees what the one
    before it made, from the grid's first axis (lines are columns) on.
    """

    def __init__(self, lines: list[LineAttention], order: Order) -> None:
        super().__init__()
        self.order = order
        self.axial_attentions = nn.ModuleList(nn.ModuleDict({"fn": line}) for line in lines)

    def forward(self, tokens: Tensor) -> Tensor:
        lines = [cast(nn.ModuleDict, part)["fn"] for part in self.axial_attentions]
        if self.order == "parallel":
            return torch.stack([line(tokens) for line in lines]).sum(0)
        for line in lines:
            tokens = line(tokens)
        return tokens


class ChannelNorm(nn.Module):
    """(x - mean) / (std + eps) * g + b over the channels of each position of features_BDHW.

    The deviation is the biased one and eps stands outside of the root, unlike in LayerNorm.
    """

    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, features_BDHW: Tensor) -> Tensor:
        variance_B1HW, mean_B1HW = torch.var_mean(features_BDHW, 1, correction=0, keepdim=True)
        return (features_BDHW - mean_B1HW) / (variance_B1HW.sqrt() + self.eps) * self.g + self.b


class NormedLines(nn.Module):
    """LayerNorm and attention along one axis: features_BDHW -> the same shape."""

    def __init__(self, line: LineAttention, channels: int) -> None:
        super().__init__()
        self.fn = nn.ModuleDict({"norm": nn.LayerNorm(channels), "fn": line})

    def forward(self, features_BDHW: Tensor) -> Tensor:
        tokens_BHWD = self.fn["fn"](self.fn["norm"](features_BDHW.permute(0, 2, 3, 1)))
        return tokens_BHWD.permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class AxialImageTransformer(nn.Module):
    """Pairs of attention (columns, rows) and pairs of convolutions in turn: features_BDHW -> the same shape.

    Each pair f, g carries its input around: x += f(x), x += g(x); of the reversible kind there are two
    streams that begin alike, a += f(b), b += g(a), and the answer is their mean. positions: rows and columns
    of pos_emb, with which it takes that size alone (ValueError for another), or None, and then any.
    """

    def __init__(
        self,
        pairs: list[tuple[nn.Module, nn.Module]],
        *,
        channels: int,
        reversible: bool,
        positions: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.reversible = reversible
        tables = [(positions[0], 1), (1, positions[1])] if positions else []
        zeros = (nn.Parameter(torch.zeros(1, channels, *table)) for table in tables)
        self.pos_emb = nn.ParameterDict({f"param_{index}": table for index, table in enumerate(zeros)})
        blocks = (
            {"f": nn.ModuleDict({"net": f}), "g": nn.ModuleDict({"net": g})}
            if reversible
            else {"0": f, "1": g}
            for f, g in pairs
        )
        self.layers = nn.ModuleDict({"blocks": nn.ModuleList(map(nn.ModuleDict, blocks))})

    def forward(self, features_BDHW: Tensor) -> Tensor:
        size = tuple(features_BDHW.shape[2:])
        # As attention and norms want them, or half of the sums below would mix two layouts.
        features_BDHW = features_BDHW.contiguous(memory_format=torch.channels_last)
        for axis, table_1DHW in enumerate(self.pos_emb.values()):
            if table_1DHW.shape[2 + axis] != size[axis]:
                raise ValueError(
                    f"there are positions for {table_1DHW.shape[2 + axis]} along axis {axis} of {size}"
                )
            features_BDHW = features_BDHW + table_1DHW
        first_BDHW = second_BDHW = features_BDHW
        for f, g in self._pairs():
            if self.reversible:
                first_BDHW = first_BDHW + f(second_BDHW)
                second_BDHW = second_BDHW + g(first_BDHW)
            else:
                first_BDHW = first_BDHW + f(first_BDHW)
                first_BDHW = first_BDHW + g(first_BDHW)
        return (first_BDHW + second_BDHW) / 2 if self.reversible else first_BDHW

    def _pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        for block in cast(nn.ModuleList, self.layers["blocks"]):
            f, g = cast(nn.ModuleDict, block).values()
            yield (f.get_submodule("net"), g.get_submodule("net")) if self.reversible else (f, g)


def recognise(weights: Mapping[str, Tensor]) -> Found | None:
    """None where the weights are none of the package's. Raises ModelError where they are, for they have no
    classes; it says what they are."""
    kind = _kind(weights)
    if kind is None:
        return None
    raise ModelError(
        f"holds lucidrains' {_Sizes(weights, kind).describe()}, a network from features to features without "
        "classes: nothing that can be run on a picture by itself; in Python, "
        "axialcli.nn.families.lucidrains.from_state_dict makes the module"
    )


def from_state_dict(
    weights: Mapping[str, Tensor], *, heads: int = HEADS, order: Order | None = None
) -> AxialAttentions | AxialImageTransformer:
    """The module of a state_dict, in evaluation mode, with its weights.

    heads: as it was trained with. order: of an AxialAttention, see AxialAttentions (None: "parallel", the
    package's sum_axial_out=True); an AxialImageTransformer has none. Raises ModelError where the
    weights are not all of one such module, or settings do not fit them.
    """
    kind = _kind(weights)
    if kind is None:
        raise ModelError(f"lacks {' and '.join(first + 'to_q.weight' for first, _ in FIRST.values())}")
    sizes = _Sizes(weights, kind)
    if heads < 1 or sizes.hidden % heads:
        raise ModelError(
            f"{sizes.hidden} channels do not divide into {heads} heads: give the number of heads"
        )
    network: AxialAttentions | AxialImageTransformer
    if kind == "AxialAttention":
        lines = [sizes.line(heads, after) for after in reversed(range(sizes.parts))]
        network = AxialAttentions(lines, order or "parallel")
    elif order is not None:
        raise ModelError("order is a setting of AxialAttention, and an AxialImageTransformer has none")
    else:
        network = sizes.transformer(heads)
    fill(network, weights, what=f"lucidrains' {kind}")
    return network.eval()


class _Sizes:
    """What keys and shapes say of a module. Raises ModelError where they contradict each other."""

    def __init__(self, weights: Mapping[str, Tensor], kind: Kind) -> None:
        attention, convolutions = FIRST[kind]
        self.kind = kind
        self.hidden, self.channels = shape_of(weights, attention + "to_q.weight", 2)
        self.biased = attention + "to_q.bias" in weights
        numbered = re.compile(r"(?:axial_attentions|layers\.blocks)\.(0|[1-9]\d*)\.")
        self.parts = len({match[1] for key in weights if (match := numbered.match(key))})
        self.positions: tuple[int, int] | None = None
        if kind == "AxialAttention":
            return
        if self.parts % 2:
            raise ModelError(f"lucidrains' {kind} of {self.parts} blocks, which are not pairs")
        self.fed = shape_of(weights, convolutions + "1.weight", 4)[0]
        if "pos_emb.param_0" in weights:
            rows, columns = (shape_of(weights, f"pos_emb.param_{axis}", 4)[2 + axis] for axis in range(2))
            self.positions = rows, columns

    def describe(self) -> str:
        parts = f"{self.parts} axes" if self.kind == "AxialAttention" else f"depth {self.parts // 2}"
        heads = f"heads of {self.hidden} channels in all (their number is not stored)"
        grid = f", positions for {self.positions[0]} x {self.positions[1]}" if self.positions else ""
        return f"{self.kind}: {self.channels} channels, {parts}, {heads}{grid}"

    def line(self, heads: int, after: int) -> LineAttention:
        return LineAttention(self.channels, hidden=self.hidden, heads=heads, after=after, biased=self.biased)

    def transformer(self, heads: int) -> AxialImageTransformer:
        pairs: list[tuple[nn.Module, nn.Module]] = []
        for _ in range(self.parts // 2):
            columns, rows = (NormedLines(self.line(heads, after), self.channels) for after in (1, 0))
            pairs += [(columns, rows), (self._convolutions(), self._convolutions())]
        reversible = "reversible" in self.kind
        return AxialImageTransformer(
            pairs, channels=self.channels, reversible=reversible, positions=self.positions
        )

    def _convolutions(self) -> nn.Sequential:
        return nn.Sequential(
            ChannelNorm(self.channels),
            nn.Conv2d(self.channels, self.fed, 3, padding=1),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(self.fed, self.channels, 3, padding=1),
        )


def _kind(weights: Mapping[str, Tensor]) -> Kind | None:
    return next((kind for kind, (first, _) in FIRST.items() if first + "to_q.weight" in weights), None)


ARCHITECTURES: dict[str, tuple[type, type[nn.Module]]] = {}
"""Nothing that a model file could name."""
