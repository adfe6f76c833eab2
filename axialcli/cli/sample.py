"""`axial sample`: writes a synthetic slide."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from axialcli.cli.progress import progress_bar
from axialcli.errors import OutputError, UsageError
from axialcli.geometry import Size


def sample(
    out: Annotated[Path, typer.Argument(help="The slide to write, a TIFF.")],
    size: Annotated[str, typer.Option("--size", help="Pixels: 8192, or HEIGHTxWIDTH.")] = "8192",
    seed: Annotated[int, typer.Option("--seed", help="Another number, another slide.")] = 0,
    mpp: Annotated[float, typer.Option("--mpp", help="Microns per pixel that the file states.")] = 0.25,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Also write the true mask of the nuclei.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Write a deterministic slide that looks like stained tissue, of any size, pyramidal."""
    from axialcli.image.sample import write_sample

    for path in (out, truth):
        if path is not None and path.exists() and not force:
            raise OutputError(f"{path}: exists already; --force overwrites it")
    with progress_bar("painting") as bar:
        write_sample(
            out,
            parse_size(size),
            seed=seed,
            mpp=mpp,
            truth=truth,
            progress=lambda share: bar.update(share),
        )


def parse_size(text: str, option: str = "--size") -> Size:
    """`8192` or `4096x8192` (height x width) of an option. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,7})(?:[xX](\d{1,7}))?", text.strip())
    if not match:
        raise UsageError(f"{option} is '{text}': write one number, or HEIGHTxWIDTH")
    size = Size(int(match[1]), int(match[2] or match[1]))
    if min(size) < 1:
        raise UsageError(f"{option} is '{text}': a picture has at least one pixel")
    return size
