"""The commands that README and Makefile show exist, with the options that they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from axialcli.cli.app import app

ROOT = Path(__file__).parents[1]


def text_of(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after `axial` in each line of a text that calls it."""
    for line in text.replace("\\\n", " ").splitlines():
        match = re.match(r"\s*(?:\$ |\$\(BIN\)/)?axial\s+(\w.*)", line)
        if match:
            yield shlex.split(match[1], comments=True)


def unknown_in(words: list[str]) -> list[str]:
    """Commands and options in a call of `axial` that the command line does not have."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    known = {"--help"}.union(*(param.opts + param.secondary_opts for param in command.params))
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]


@pytest.mark.parametrize("file", ["README.md", "Makefile"])
def test_the_commands_that_are_shown_exist(file: str) -> None:
    calls = list(commands_in(text_of(file)))
    assert calls
    for words in calls:
        assert unknown_in(words) == [], f"{file}: axial {' '.join(words)}"


def test_a_command_that_is_shown_but_does_not_exist_is_found() -> None:
    text = (
        "  axial frobnicate x.tif\n$ axial sample a.tif \\\n  --size 64 --hue=red # --note\nan axial slide\n"
    )
    assert [unknown_in(words) for words in commands_in(text)] == [["frobnicate"], ["--hue=red"]]


def test_the_readme_names_make_targets_that_exist() -> None:
    named = set(re.findall(r"(?:^|`|^ +|\$ )make ([a-z]+)", text_of("README.md"), re.MULTILINE))
    assert {"demo", "test"} <= named
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    assert named <= targets
