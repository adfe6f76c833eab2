"""From an ordinary nn.Module to the graph of its operators.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from axialcli.engine.stream.chains import chained
from axialcli.engine.stream.graph import Graph, Plane
from axialcli.engine.stream.names import VIEWS, Names, works_in_place
from axialcli.engine.stream.rules import FUNCTIONS, MODULES
from axialcli.engine.stream.shuffle_order import ordered_for_shuffles
from axialcli.engine.stream.values import Builder, NotStreamable, Value
from axialcli.geometry import Size


class _Picture(fx.Proxy):
    """What stands in for a picture while the code is followed; fx itself takes `y += x` for `y = y + x`."""

    def _in_place(self, function: Callable[..., Any], other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.iadd, other)

    def __isub__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.isub, other)

    def __imul__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.imul, other)

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self._in_place(operator.itruediv, other)


class _Tracer(fx.Tracer):
    """Follows the network's own code down to the modules that a rule knows."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Picture(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module) in MODULES or super().is_leaf_module(module, name)


def trace(network: nn.Module, channels: int, size: Size) -> Graph:
    """The graph of a network on a picture of that many channels and that size.

    Sizes that the code asks for are known as numbers, so that crops and paddings that depend on them
    are followed; a branch on them is not. Raises NotStreamable where the code cannot be followed, or
    an operator has no rule.
    """
    _refuse_hooks(network)
    try:
        traced = _Tracer().trace(network)
    except Exception as error:
        # The network's own code may fail in any way on what stands in for a picture.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise NotStreamable(f"the network's code cannot be followed ({reason:.80})") from error
    graph = Graph()
    source = Plane((1, channels, size.height, size.width), 2, 3)
    build = Builder(graph)
    names = Names()
    for node in traced.nodes:
        args, kwargs = (fx.map_arg(part, names.value) for part in (node.args, node.kwargs))
        build.name = node.name
        if node.op == "placeholder":
            if graph.nodes and not args:
                raise NotStreamable("the network takes more than a picture")
            # What has a default is not given.
            names.set(node, args[0] if graph.nodes else Value(graph.add_source(node.name, source), source))
        elif node.op == "output":
            return _finish(graph, args[0])
        elif node.op == "get_attr":
            names.set(node, _attribute(network, str(node.target)))
        else:
            made = _call(build, node, network, args, kwargs)
            given = next(
                (part for part in node.all_input_nodes if isinstance(names.value(part), Value)), None
            )
            if given is not None:
                if works_in_place(node, network):
                    names.overwrite(given, made, node)
                elif _kind(node) in VIEWS:
                    names.share(given, made)
            names.set(node, made)
    raise NotStreamable("the network has no output")


def _refuse_hooks(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise NotStreamable(f"module '{name}' has a hook, whose code cannot be followed")


def _finish(graph: Graph, made: Any) -> Graph:
    if not isinstance(made, Value):
        raise NotStreamable("the network gives back more than one picture")
    graph.outputs = (made.index,)
    return chained(ordered_for_shuffles(graph.without_unused()))


def _attribute(network: nn.Module, path: str) -> Tensor:
    found: Any = network
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, Tensor):
        raise NotStreamable(f"the network uses '{path}', which is no tensor")
    return found


def _call(build: Builder, node: fx.Node, network: nn.Module, args: Any, kwargs: Any) -> Any:
    """What a call of the network's code makes: a Value through its rule, or a plain number."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        kind = type(module).__name__
        rule = MODULES.get(type(module))
        args = (module, *args)
    else:
        kind = _kind(node)
        if node.op == "call_function":
            # torch.add(input=x, other=y) is torch.add(x, y).
            args = (*([kwargs["input"]] if "input" in kwargs else []), *args)
            args = (*args, *([kwargs["other"]] if "other" in kwargs else []))
            kwargs = {key: value for key, value in kwargs.items() if key not in ("input", "other")}
        if node.target is operator.getitem and isinstance(args[0], tuple):
            return args[0][args[1]]
        of_picture = any(isinstance(part, Value) for part in _flat([*args, *kwargs.values()]))
        if not of_picture or kind in ("getattr", "size", "dim"):
            return _plain(node, kind, args, kwargs)
        rule = FUNCTIONS.get(kind.rstrip("_"))
    if rule is None:
        raise NotStreamable(f"operator '{kind}' (node {node.name}) has no rule for streaming")
    try:
        return rule(build, *args, **kwargs)
    except NotStreamable as refused:
        raise NotStreamable(f"operator '{kind}' (node {node.name}) {refused}") from refused
    except (TypeError, IndexError, AttributeError, ValueError) as error:
        raise NotStreamable(
            f"operator '{kind}' (node {node.name}) is called in a way that has no rule ({error!s:.60})"
        ) from error


def _kind(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    return str(getattr(node.target, "__name__", node.target))


def _plain(node: fx.Node, kind: str, args: Any, kwargs: Any) -> Any:
    """Numbers that the code computes from sizes."""
    if args and isinstance(args[0], Value):
        value = args[0]
        if kind == "getattr" and args[1] == "shape":
            return value.shape
        if kind == "size":
            return (
                value.shape
                if len(args) == 1 and not kwargs
                else value.shape[args[1] if len(args) > 1 else kwargs["dim"]]
            )
        if kind == "dim":
            return len(value.shape)
        raise NotStreamable(
            f"the network asks for '{args[1] if len(args) > 1 else kind}' of a picture (node {node.name})"
        )
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if isinstance(node.target, str):
        raise NotStreamable(f"the network's code cannot be followed (node {node.name})")
    return node.target(*args, **kwargs)


def _flat(parts: Any) -> list[Any]:
    """All parts of nested tuples and lists."""
    found: list[Any] = []
    for part in parts:
        found += _flat(part) if isinstance(part, (tuple, list)) else [part]
    return found


__all__ = ["NotStreamable", "trace"]
