"""What the names in a network's code stand for, also after an operator has worked in place."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from axialcli.engine.stream.values import NotStreamable, Value

VIEWS = {"permute", "transpose", "getitem", "narrow", "split", "chunk", "contiguous", "expand"}
"""Calls that may give back the memory of what they are given."""

_IN_PLACE = {"iadd", "isub", "imul", "itruediv"}
_TAKE_A_FLAG = {"relu", "relu6", "silu", "hardswish", "leaky_relu", "elu", "celu", "selu", "mish", "hardtanh"}


def works_in_place(node: fx.Node, network: nn.Module) -> bool:
    """Whether a call writes its answer over what it is given."""
    if node.op == "call_module":
        return bool(getattr(network.get_submodule(str(node.target)), "inplace", False))
    kind = str(getattr(node.target, "__name__", node.target))
    flag = kind in _TAKE_A_FLAG and any(part is True for part in node.args)
    return kind.endswith("_") or kind in _IN_PLACE or flag or bool(node.kwargs.get("inplace", False))


class Names:
    """The values of a traced network's nodes so far.

    In a graph of operators nothing is overwritten: where the network's code works in place, every name
    of that tensor stands for the new value from there on.
    """

    def __init__(self) -> None:
        self._values: dict[fx.Node, Any] = {}
        self._memory: dict[int, int] = {}

    def value(self, node: fx.Node) -> Any:
        return self._values[node]

    def set(self, node: fx.Node, value: Any) -> None:
        self._values[node] = value

    def share(self, node: fx.Node, made: Any) -> None:
        """`made` may lie in the memory of the node's value."""
        for value in made if isinstance(made, tuple) else (made,):
            if isinstance(value, Value):
                self._memory[value.index] = self._of(self._values[node].index)

    def overwrite(self, node: fx.Node, made: Any, by: fx.Node) -> None:
        """The node's tensor holds `made` from now on.

        Raises NotStreamable where another view of the same memory is read afterwards.
        """
        old = self._values[node]
        for other, value in self._values.items():
            parts = value if isinstance(value, tuple) else (value,)
            mine = [part for part in parts if isinstance(part, Value)]
            if isinstance(value, Value) and value.index == old.index:
                self._values[other] = made
            elif any(self._of(part.index) == self._of(old.index) for part in mine) and any(
                by < user for user in other.users
            ):
                raise NotStreamable(f"node {by.name} works in place on a tensor that is seen through a view")

    def _of(self, index: int) -> int:
        return self._memory.get(index, index)
