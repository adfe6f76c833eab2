"""The house rules that a program can check: who imports whom, who prints, what is public."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import axialcli

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "axialcli"

PUBLIC = {"Model", "ModelHints", "Slide", "load_model", "open_slide", "predict", "__version__"}

GROUND = {"errors", "config", "geometry", "notes", "hints"}
BELOW_PIPELINE = {"image", "output", "nn", "engine", "backends"}
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "geometry": {"errors"},
    "notes": set(),
    "hints": {"errors", "config"},
    "image": GROUND,
    "output": GROUND,
    "nn": GROUND,
    # Engines are handed a Model, whose type is the backends'.
    "engine": {"nn", "image", "backends"} | GROUND,
    "backends": {"nn", "image"} | GROUND,
    "volume": {"image", "engine", "output", "backends"} | GROUND,
    "pipeline": {"volume", "image", "engine", "output", "backends"} | GROUND,
    "bench": {"pipeline"} | BELOW_PIPELINE | GROUND,
    "evaluate": {"pipeline"} | BELOW_PIPELINE | GROUND,
    "cluster": {"pipeline"} | BELOW_PIPELINE | GROUND,
    "cli": {"bench", "evaluate", "cluster", "pipeline"} | BELOW_PIPELINE | GROUND,
    # The two doors: `import axialcli` and `python -m axialcli`.
    "__init__": {"backends", "hints", "image", "pipeline"},
    "__main__": {"cli"},
}
"""Rooms of DESIGN.md's floors, and which others each may import besides itself."""

HEAVY = {"torch", "onnx", "onnxruntime", "onnxscript", "safetensors"}
HEAVY_AT_IMPORT = {"nn", "backends", "engine", "bench"}
HEAVY_WHEN_CALLED = HEAVY_AT_IMPORT | {"cli", "pipeline", "evaluate", "cluster"}
TERMINAL = {"typer", "rich", "click"}
ENDS_THE_PROCESS = {"sys.exit", "os._exit", "exit", "quit", "SystemExit"}


class Import(NamedTuple):
    """One import: the dotted name, its line, whether it runs when the module is imported."""

    name: str
    line: int
    at_import: bool


def module_name(path: Path) -> str:
    """`axialcli.image.slide` for axialcli/image/slide.py, `axialcli.image.__init__` for its __init__."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(dotted: str) -> str:
    """The room that a module of ours lies in; `__init__` is the package itself."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(source: str, module: str = "axialcli.some.module") -> list[Import]:
    """All imports of a source, those inside functions and under TYPE_CHECKING included."""
    found: list[Import] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "axialcli" else [base]
            found.extend(Import(name, node.lineno, at_import) for name in names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            given = node.args[0] if node.args else None
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                found.append(Import(given.value, node.lineno, at_import))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, False)
            for child in node.orelse:
                visit(child, at_import)
            return
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, at_import and not later)

    visit(ast.parse(source), True)
    return found


def broken_rules(source: str, module: str) -> list[str]:
    """Every house rule that a module breaks, one line each; empty where it keeps them."""
    room = room_of(module)
    if room not in MAY_IMPORT:
        return [f"{module}: '{room}' is no room of DESIGN.md's table"]
    tree = ast.parse(source)
    return [
        f"{module}:{line}: {what}"
        for line, what in (
            *_upward_imports(imports_of(source, module), room),
            *_heavy_imports(imports_of(source, module), room),
            *_terminal_talk(tree, imports_of(source, module), room),
            *([] if ast.get_docstring(tree) else [(1, "has no docstring")]),
        )
    ]


def _upward_imports(imports: list[Import], room: str) -> Iterator[tuple[int, str]]:
    for name, line, _ in imports:
        if name != "axialcli" and not name.startswith("axialcli."):
            continue
        target = room_of(name)
        if name == "axialcli.__version__" or target == room:
            continue
        if target not in MAY_IMPORT[room]:
            yield line, f"{room} may not import {name}"


def _heavy_imports(imports: list[Import], room: str) -> Iterator[tuple[int, str]]:
    for name, line, at_import in imports:
        if name.split(".")[0] in HEAVY:
            allowed = HEAVY_AT_IMPORT if at_import else HEAVY_WHEN_CALLED
            if room not in allowed:
                yield line, f"{room} may not import {name}" + (" at module level" if at_import else "")


def _terminal_talk(tree: ast.Module, imports: list[Import], room: str) -> Iterator[tuple[int, str]]:
    if room in ("cli", "__main__"):
        return
    for name, line, _ in imports:
        if name.split(".")[0] in TERMINAL:
            yield line, f"only cli/ talks to the terminal, not {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "print":
                yield node.lineno, "print( outside cli/"
            if called in ENDS_THE_PROCESS:
                yield node.lineno, f"{called}( outside cli/"
        if isinstance(node, ast.Raise) and node.exc and ast.unparse(node.exc) == "SystemExit":
            yield node.lineno, "SystemExit outside cli/"


TYPES_ONLY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {}"
MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_keeps_the_house_rules(module: str) -> None:
    assert broken_rules(MODULES[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "body", "says"),
    [
        ("axialcli.image.slide", "from axialcli.output import mask", "image may not import axialcli.output"),
        ("axialcli.nn.blocks", "import axialcli.engine.tiles", "nn may not import axialcli.engine.tiles"),
        ("axialcli.nn.blocks", "from ..image import slide", "nn may not import axialcli.image"),
        ("axialcli.nn.blocks", "from axialcli import image", "nn may not import axialcli.image"),
        ("axialcli.nn.blocks", "from .. import output", "nn may not import axialcli.output"),
        ("axialcli.image.slide", "from axialcli import predict", "may not import axialcli.predict"),
        ("axialcli.geometry", "from axialcli.config import Blend", "geometry may not import"),
        ("axialcli.backends.model", "def f():\n    from axialcli.engine import tiles", "backends may not"),
        ("axialcli.backends.zoo", "def f():\n    import axialcli.pipeline", "backends may not"),
        ("axialcli.pipeline", "import_module('axialcli.cli.app')", "pipeline may not import"),
        ("axialcli.engine.tiles", TYPES_ONLY.format("axialcli.output"), "engine may not import"),
        ("axialcli.bench.run", "from axialcli.evaluate import dice", "bench may not import"),
        ("axialcli.attic.junk", "", "'attic' is no room"),
        ("axialcli.image.slide", "import torch", "image may not import torch at module level"),
        ("axialcli.image.slide", "def f():\n    import torch.nn", "image may not import torch.nn"),
        ("axialcli.cli.app", "from torch import nn", "cli may not import torch at module level"),
        ("axialcli.pipeline", "class A:\n    import onnxruntime", "onnxruntime at module level"),
        ("axialcli.output.mask", "from rich.progress import track", "only cli/ talks"),
        ("axialcli.pipeline", "import typer", "only cli/ talks"),
        ("axialcli.engine.tiles", "print(1)", "print( outside cli/"),
        ("axialcli.engine.tiles", "import sys\ndef f():\n    sys.exit(3)", "sys.exit( outside cli/"),
        ("axialcli.engine.tiles", "raise SystemExit(3)", "SystemExit( outside cli/"),
        ("axialcli.engine.tiles", "raise SystemExit", "SystemExit outside cli/"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(module: str, body: str, says: str) -> None:
    (found,) = broken_rules(f'"""Docstring."""\n{body}\n', module)
    assert says in found


def test_a_module_without_docstring_is_found() -> None:
    assert broken_rules("import os\n", "axialcli.image.slide") == ["axialcli.image.slide:1: has no docstring"]


@pytest.mark.parametrize(
    ("module", "body"),
    [
        ("axialcli.cli.app", "import typer, sys\ndef f():\n    import torch\n    print(1)\n    sys.exit(0)"),
        ("axialcli.cli.app", "from axialcli import __version__\nfrom axialcli.evaluate import dice"),
        (
            "axialcli.engine.tiles",
            "import torch\nfrom axialcli.image import Slide\nfrom axialcli.engine import grid",
        ),
        ("axialcli.pipeline", TYPES_ONLY.format("torch")),
        ("axialcli.image.slide", "from axialcli.errors import ImageError\nfrom . import tiff"),
        ("axialcli.image.slide", "import torchlight"),
        ("axialcli.image.__init__", "from .slide import Slide"),
    ],
)
def test_what_is_allowed_passes(module: str, body: str) -> None:
    assert broken_rules(f'"""Docstring."""\n{body}\n', module) == []


def test_the_table_points_down() -> None:
    """Were there a ring in the table, the rooms on it would never come free."""
    left = dict(MAY_IMPORT)
    while left:
        free = [room for room, below in left.items() if not below & left.keys()]
        assert free
        for room in free:
            del left[room]


@pytest.mark.parametrize(
    "module", ["axialcli", "axialcli.cli.app", "axialcli.image", "axialcli.image.sample"]
)
def test_importing_is_quick(module: str) -> None:
    program = f"import sys, {module}\nprint(*sorted({HEAVY!r} & sys.modules.keys()))"
    loaded = subprocess.check_output([sys.executable, "-c", program], text=True, cwd=ROOT).split()
    assert loaded == []


def test_the_public_names_are_those_documented() -> None:
    assert set(axialcli.__all__) == PUBLIC
    assert len(axialcli.__all__) == len(PUBLIC)
    for name in axialcli.__all__:
        assert getattr(axialcli, name) is not None
