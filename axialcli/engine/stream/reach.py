"""Which inputs an output needs, along one axis: the one rule from which everything about a stream follows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Output i needs the inputs from (i * step + first) // per to (i * step + last) // per, both included.

    step: inputs per output (the stride of a convolution). per: outputs per input (the factor of an
    upsampling). block: the needed range is widened to whole blocks of that many inputs (local windows).
    whole: every output needs every input.
    """

    step: int = 1
    per: int = 1
    first: int = 0
    last: int = 0
    block: int = 1
    whole: bool = False

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """The inputs [lo, hi) of the outputs [start, stop); they may lie outside the picture."""
        low = (start * self.step + self.first) // self.per
        high = ((stop - 1) * self.step + self.last) // self.per + 1
        return low // self.block * self.block, -(-high // self.block) * self.block

    def clipped(self, start: int, stop: int, length: int) -> tuple[int, int]:
        """`needs` within a picture of `length` inputs; at least one of them."""
        if self.whole:
            return 0, length
        low, high = self.needs(start, stop)
        low = min(max(low, 0), length - 1)
        return low, max(min(high, length), low + 1)

    def felt(self, start: int, stop: int) -> tuple[int, int]:
        """The outputs [lo, hi) that need any of the inputs [start, stop): the other way round."""
        first = start // self.block * self.block
        last = -(-stop // self.block) * self.block
        return -(-(first * self.per - self.last) // self.step), (
            last * self.per - 1 - self.first
        ) // self.step + 1

    @property
    def local(self) -> bool:
        """Output i needs input i and nothing else."""
        return self == Reach()


SAME = Reach()
"""Output i needs input i alone."""
