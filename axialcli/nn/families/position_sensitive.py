"""Position-sensitive axial attention: the layer of Axial-ResNet, Axial-DeepLab and the MedT family.

Shapes: B batch, C channels, H height, W width, A heads; D channels of a query or key, E = 2 D of a value;
T = 2 K - 1 distances of a table for lines of K tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axialcli.nn.families.found import Beyond
from axialcli.nn.families.relative import Relative, attend_relative
from axialcli.nn.families.relative_traceable import attend_relative_traceable

GATES = {"f_qr": 0.1, "f_kr": 0.1, "f_sve": 0.1, "f_sv": 1.0}
"""The gates' names, and where training begins."""


@dataclass(frozen=True)
class _Folded:
    """The layer's numbers with its norms and gates multiplied in.

    weight_OC, bias_O: of the projection; of each head D queries, D keys and E values. scale_3A: of the
    content, query and key terms of a score. place_AE: of the table's part of the answer.
    """

    weight_OC: Tensor
    bias_O: Tensor
    scale_3A: Tensor
    place_AE: Tensor


class PositionSensitiveAttention(nn.Module):
    """Multi-head attention along one axis that learns a vector per distance for queries, keys and values.

    forward: tokens_BHWC -> [B, H, W, planes]. Channels come last, so that the lines of both axes are views
    and the projection is one product; between convolutions this is their channels_last layout as it is.

    in_channels, planes: C in, C out; planes divide by 2 * heads. axis: "width" or "height". length: K, the
    line that the table was learned for; None where `positions` is false. gated: a learned scalar before each
    of the norms that take positions in or out (f_qr, f_kr, f_sve, f_sv: MedT). positions: false leaves the
    tables out, and with them their norms (MedT's "wopos"). span: odd, how many keys a query sees, itself in
    the middle; the table has to reach as far. beyond: how lines of another length than K are taken; None
    takes none. Up to K tokens every way gives the same numbers.

    `queries`, `keys_values` and `attend` are the parts of `forward`, for an engine that has the lines in
    pieces. The norms use their running statistics always; `fold` multiplies them in.
    Raises ValueError for sizes that do not fit, and for lines that it does not take.

    Source: Wang et al. 2020 (arXiv 2003.07853), equation 4, with the batch norms and the order of channels of
    github.com/csrhddlam/axial-deeplab; the gates are equation 3 of Valanarasu et al. 2021 (arXiv 2102.10662).
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        *,
        axis: Literal["width", "height"],
        length: int | None,
        heads: int = 8,
        gated: bool = False,
        positions: bool = True,
        span: int | None = None,
        beyond: Beyond | None = None,
    ) -> None:
        super().__init__()
        if planes % (2 * heads):
            raise ValueError(f"{planes} channels do not divide into {heads} heads of two halves")
        if positions != (length is not None) or (gated and not positions):
            raise ValueError("a length, and gates, are of a layer with positions")
        if span is not None and (length is None or span % 2 == 0 or not 0 <= span // 2 < length):
            raise ValueError(f"a span of {span} is not odd and within a table for lines of {length}")
        self.in_channels, self.planes, self.heads, self.axis = in_channels, planes, heads, axis
        self.length, self.gated, self.positions, self.beyond = length, gated, positions, beyond
        self.radius = span // 2 if span else None
        if span is None and beyond == "local" and length is not None:
            self.radius = length - 1
        self.qkv_transform = nn.Conv1d(in_channels, 2 * planes, 1, bias=False)
        self.bn_qkv = nn.BatchNorm1d(2 * planes)
        self.bn_similarity = nn.BatchNorm2d(3 * heads if positions else heads)
        self.bn_output = nn.BatchNorm1d(2 * planes if positions else planes)
        if length is not None:
            vectors = 2 * planes // heads
            self.relative = nn.Parameter(torch.randn(vectors, 2 * length - 1) * vectors**-0.5)
        if gated:
            for name, value in GATES.items():
                self.register_parameter(name, nn.Parameter(torch.tensor(value)))
        self._is_folded = False

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        folded = self._folded()
        qkv = self._by_head(F.linear(tokens_BHWC, folded.weight_OC, folded.bias_O))
        half = self.planes // self.heads // 2
        return self._attend(qkv[..., :half], qkv[..., half:], 0, folded)

    def takes(self, length: int) -> bool:
        """Whether lines of that many tokens have positions."""
        return self.length in (None, length) or self.radius is not None or self.beyond is not None

    def queries(self, tokens_BHWC: Tensor) -> Tensor:
        """The queries [B, H, W, A, D] of tokens."""
        half = self.planes // self.heads // 2
        return self._projected(tokens_BHWC, slice(0, half))

    def keys_values(self, tokens_BHWC: Tensor) -> Tensor:
        """The keys and values [B, H, W, A, D + E] of tokens; keys come first."""
        half = self.planes // self.heads // 2
        return self._projected(tokens_BHWC, slice(half, None))

    def attend(self, q_BHWAD: Tensor, kv_BHWAF: Tensor, *, ahead: int = 0) -> Tensor:
        """What queries see of keys and values, which may be of more lines' tokens than the queries.

        ahead: query i stands where key i + ahead stands. Where the layer has no radius, the keys are those
        of the whole line. Returns [B, H, W, planes].
        """
        return self._attend(q_BHWAD, kv_BHWAF, ahead, self._folded())

    def fold(self) -> None:
        """Multiplies norms and gates into the projection and the scales; for evaluation alone."""
        if self._is_folded:
            return
        with torch.no_grad():
            folded = self._folded()
        for name in ("qkv_transform", "bn_qkv", "bn_similarity", "bn_output"):
            delattr(self, name)
        if self.gated:
            for name in GATES:
                delattr(self, name)
        for name, part in vars(folded).items():
            self.register_buffer(name, part)
        self._is_folded = True

    def _by_head(self, numbers: Tensor) -> Tensor:
        return numbers.view(*numbers.shape[:-1], self.heads, -1)

    def _projected(self, tokens_BHWC: Tensor, part: slice) -> Tensor:
        folded = self._folded()
        weight_AVC = folded.weight_OC.view(self.heads, -1, self.in_channels)[:, part]
        bias_AV = folded.bias_O.view(self.heads, -1)[:, part]
        return self._by_head(F.linear(tokens_BHWC, weight_AVC.flatten(0, 1), bias_AV.flatten()))

    def _attend(self, q_BHWAD: Tensor, kv_BHWAF: Tensor, ahead: int, folded: _Folded) -> Tensor:
        half = q_BHWAD.shape[-1]
        if torch.compiler.is_exporting():
            return self._attend_traceable(q_BHWAD, kv_BHWAF, folded)
        out_BHWAE = q_BHWAD.new_empty(*q_BHWAD.shape[:-1], 2 * half)
        relative = self._relative(kv_BHWAF.shape[1 if self.axis == "height" else 2])
        for out, q, kv in zip(range(len(out_BHWAE)), q_BHWAD, kv_BHWAF, strict=True):
            # By index: autograd does not let the views of one iteration be written to.
            lines = [out_BHWAE[out], q, kv[..., :half], kv[..., half:]]
            if self.axis == "height":
                lines = [part.transpose(0, 1) for part in lines]
            attend_relative(
                *lines, scale_3A=folded.scale_3A, place_AE=folded.place_AE, relative=relative, ahead=ahead
            )
        return out_BHWAE.flatten(-2)

    def _attend_traceable(self, q_BHWAD: Tensor, kv_BHWAF: Tensor, folded: _Folded) -> Tensor:
        """`_attend` without loops whose length depends on the batch or the grid."""
        half, along = q_BHWAD.shape[-1], 1 if self.axis == "height" else 2
        lines = (q_BHWAD, kv_BHWAF[..., :half], kv_BHWAF[..., half:])
        attended = attend_relative_traceable(
            *(part.movedim(along, -2) for part in lines),
            scale_3A=folded.scale_3A,
            place_AE=folded.place_AE,
            relative=self._relative(kv_BHWAF.shape[along]),
        )
        return attended.movedim(-2, along).flatten(-2)

    def _relative(self, keys: int) -> Relative | None:
        """The tables for lines of so many keys."""
        if self.length is None:
            return None
        table_VT: Tensor = self.relative
        if self.radius is None and keys != self.length:
            table_VT = self._stretched(keys)
        half = self.planes // self.heads // 2
        query_DT, key_DT, value_ET = torch.split(table_VT, [half, half, 2 * half])
        return Relative(query_DT=query_DT, key_DT=key_DT, value_TE=value_ET.t(), radius=self.radius)

    def _stretched(self, keys: int) -> Tensor:
        """The table for lines of so many keys, which are not K."""
        assert self.length is not None
        if not self.takes(keys):
            raise ValueError(
                f"attention along the {self.axis} has learned positions for {self.length} tokens "
                f"and gets {keys}"
            )
        more = max(0, keys - self.length)
        if self.beyond == "clip" or not more:
            return F.pad(self.relative[None], (more, more), mode="replicate")[0]
        # The ends stay the ends, and distance 0 in the middle stays itself.
        return F.interpolate(self.relative[None], size=2 * keys - 1, mode="linear", align_corners=True)[0]

    def _folded(self) -> _Folded:
        if self._is_folded:
            return _Folded(self.weight_OC, self.bias_O, self.scale_3A, self.place_AE)  # type: ignore[arg-type] # buffers
        scale_O, shift_O = _affine(self.bn_qkv)
        weight_OC = self.qkv_transform.weight[..., 0].double() * scale_O[:, None]
        weight_AVC, bias_AV = weight_OC.view(self.heads, -1, self.in_channels), self._by_head(shift_O)
        # What a norm adds to all scores of a head alike, the softmax takes out again.
        scale_3A = _affine(self.bn_similarity)[0].view(-1, self.heads)
        scale_C, shift_C = (part.view(self.planes, -1) for part in _affine(self.bn_output))
        content_AE, place_AE = (scale_C[:, at].view(self.heads, -1) for at in (0, -1))
        if self.gated:
            f_qr, f_kr, f_sve, f_sv = (getattr(self, name).double() for name in GATES)
            scale_3A = scale_3A * torch.stack((torch.ones_like(f_qr), f_qr, f_kr))[:, None]
            content_AE, place_AE = content_AE * f_sv, place_AE * f_sve
        if not self.positions:
            scale_3A, place_AE = scale_3A.expand(3, -1), torch.zeros_like(place_AE)
        # The weights of a query sum to 1, so that the answer's shift may be the values'.
        shift_AE = shift_C.sum(1).view(self.heads, -1)
        of_head = self.planes // self.heads
        weight_AVC = torch.cat(
            (weight_AVC[:, :of_head], weight_AVC[:, of_head:] * content_AE[..., None]), dim=1
        )
        bias_AV = torch.cat((bias_AV[:, :of_head], bias_AV[:, of_head:] * content_AE + shift_AE), dim=1)
        parts = (weight_AVC.flatten(0, 1), bias_AV.flatten(), scale_3A, place_AE)
        return _Folded(*(part.to(self.qkv_transform.weight.dtype).contiguous() for part in parts))


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The scale and the shift, in float64, that a batch norm is at inference."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale
