"""Settings and descriptions that all floors share: frozen, keyword-only, checked once when made."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from axialcli.errors import UsageError

Backend = Literal["auto", "torch", "onnx", "tensorrt"]
Blend = Literal["gaussian", "linear", "mean", "crop"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ExportDtype = Literal["float32", "float16"]
Layout = Literal["auto", "ome", "ome-strict", "generic"]
ProbsDtype = Literal["uint8", "float16"]
EngineName = Literal["stream", "tiles"]
EngineChoice = Literal["auto", "stream", "tiles"]
StoreDtype = Literal["float32", "float16"]
Augmentation = Literal["off", "turns", "full"]

MASK_TILE = 512
"""Side of the mask's tiles, in pixels. Blocks start on this grid."""

MIN_TILE, MAX_TILE = 16, 16384
"""Sides of a tile that is run, in pixels."""

MAX_BLOCK = 4096
"""The longest side of a block of a volume, in voxels."""

MAX_WINDOWS = 1000
"""More windows than this say no more about a slide."""


WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "30000"}
"""Environment of a process that computes, set before torch is loaded: threads that wait must not spin for
long, for reading, the network and compression share the cores. 30000 turns are some 300 microseconds, longer
than most of the gaps between a network's steps."""


MAX_CLASSES = 65_536
"""Of one model: what a mask of 16 bits tells apart."""

FEW_CLASSES = 256
"""Masks of so many classes have 8 bits, and may have a colour table; of more classes a report lists those
that occur."""


@dataclass(frozen=True, kw_only=True)
class ClassInfo:
    """One class of a model: its name and its colour, red, green, blue in 0..255."""

    name: str
    colour: tuple[int, int, int]


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names of classes, in label order; one that several share is followed by the label.

    ImageNet has two kinds of crane.
    """
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({label})" for label, name in enumerate(names)]


def first_names(names: Sequence[str], most: int = 16) -> str:
    """The names for a message of one line: the first ones, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def parse_bytes(text: str) -> int:
    """A number of bytes from text such as `800M` or `1.5G` (powers of 1024).

    Raises UsageError where the text is no such number.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)i?[bB]?\s*", text)
    if not match:
        raise UsageError(f"'{text}' is not a size: write it like 800M or 1.5G")
    power = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}[match[2].lower()]
    return int(float(match[1]) * 1024**power)


@dataclass(frozen=True, kw_only=True)
class BackgroundColour:
    """A background as it is given: red, green, blue and how far a pixel may be from them, all in 0..255."""

    colour: tuple[int, int, int]
    tolerance: int


def parse_background(text: str) -> Literal["auto", "off"] | BackgroundColour:
    """`auto`, `off`, or a colour and a tolerance such as `#f4f4f4:6`. Raises UsageError."""
    if text == "auto":
        return "auto"
    if text == "off":
        return "off"
    match = re.fullmatch(r"#([0-9a-fA-F]{6}):(\d{1,3})", text)
    if not match or int(match[2]) > 255:
        raise UsageError(
            f"--background is '{text}': choose auto, off, or a colour and a tolerance of 0 to 255, "
            "such as #f4f4f4:6"
        )
    red, green, blue = bytes.fromhex(match[1])
    return BackgroundColour(colour=(red, green, blue), tolerance=int(match[2]))


def scratch_folder(scratch: Path, run_name: str) -> Path:
    """The subfolder of `--scratch` for the run that is called so: its mask's whole path."""
    return scratch / f"axial-{hashlib.sha256(run_name.encode()).hexdigest()[:16]}"


def check_choice(name: str, value: str, kind: object) -> None:
    """Raises UsageError unless `value` is one of the literals of `kind`."""
    allowed = get_args(kind)
    if value not in allowed:
        raise UsageError(f"{name} is '{value}': choose one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """How a slide is predicted. Files are named elsewhere; this decides what is in them.

    tile, overlap: in pixels of the resolution that is predicted at; overlap on each side of a tile, "auto"
    for the model's receptive field, None for 64, or less where the tile is small or the model's own, or
    0 for a model that classifies whole tiles: there a tile reaches so far beyond the pixel of the mask
    that it answers. blend: how tiles share the pixels. batch: tiles at once, None for what suits the
    device. block: of a model of volumes, depth, height and width in voxels; None for 32 x 256 x 256.
    max_ram_bytes: None for half of the machine's memory, and of a GPU's nearly all that is
    free. level or mpp: the resolution to predict at; neither: the model's own.
    mpp_override: microns per pixel of level 0, instead of what the file says. channels, z: 0-based.
    palette: colours in the mask, None where the layout's readers honour them.
    engine: auto streams where the network can be streamed. background: off, auto, or a colour and a
    tolerance as `parse_background` reads them: blank pixels are set to one colour and skipped.
    scratch: the folder for the features of a stream that needs the whole height; store_dtype: how
    they are kept there. certify: how many windows are compared with a run of their own, 0 to 1000.
    tta: test-time augmentation, in tiles: "turns" for the mean of each tile's eight turned and mirrored
    forms (four for a model of one size that is no square), "full" for that of these forms at four scales.
    Raises UsageError for values that contradict each other.
    """

    tile: int = 512
    overlap: int | Literal["auto"] | None = None
    blend: Blend = "gaussian"
    batch: int | None = None
    block: tuple[int, int, int] | None = None
    max_ram_bytes: int | None = None
    level: int | None = None
    mpp: float | None = None
    mpp_override: float | None = None
    channels: tuple[int, ...] | None = None
    z: int | None = None
    layout: Layout = "auto"
    palette: bool | None = None
    probs_dtype: ProbsDtype = "uint8"
    engine: EngineChoice = "auto"
    background: str = "off"
    scratch: str | Path | None = None
    store_dtype: StoreDtype = "float32"
    certify: int = 0
    tta: Augmentation = "off"

    def __post_init__(self) -> None:
        check_choice("--blend", self.blend, Blend)
        check_choice("--layout", self.layout, Layout)
        check_choice("--probs-dtype", self.probs_dtype, ProbsDtype)
        check_choice("--engine", self.engine, EngineChoice)
        check_choice("--store-dtype", self.store_dtype, StoreDtype)
        check_choice("--tta", self.tta, Augmentation)
        parse_background(self.background)
        if not 0 <= self.certify <= MAX_WINDOWS:
            raise UsageError(f"--certify is {self.certify}: choose 0 to {MAX_WINDOWS} windows")
        self._check_tta()
        if self.level is not None and self.mpp is not None:
            raise UsageError("--level and --mpp both choose the resolution: give one of them")
        if not MIN_TILE <= self.tile <= MAX_TILE:
            raise UsageError(f"--tile is {self.tile}: choose {MIN_TILE} to {MAX_TILE} pixels")
        self._check_overlap()
        if self.block is not None and not all(1 <= side <= MAX_BLOCK for side in self.block):
            raise UsageError(
                f"--block is {'x'.join(map(str, self.block))}: its sides go from 1 to {MAX_BLOCK}"
            )
        if self.max_ram_bytes is not None and self.max_ram_bytes <= 0:
            raise UsageError("--max-ram is 0: give the memory to stay below, such as 1.5G")
        if self.batch is not None and not 1 <= self.batch <= 4096:
            raise UsageError(f"--batch is {self.batch}: choose 1 to 4096")
        for name, value in (("--mpp", self.mpp), ("--mpp-override", self.mpp_override)):
            if value is not None and not 1e-4 <= value <= 1e9:
                raise UsageError(f"{name} is {value}: choose a number of microns per pixel above 0")

    def _check_tta(self) -> None:
        given = {
            "--engine stream": self.engine == "stream",
            "--overlap auto": self.overlap == "auto",
            "--certify": bool(self.certify),
        }
        if self.tta != "off" and any(given.values()):
            names = ", ".join(name for name, there in given.items() if there)
            raise UsageError(
                f"--tta runs in tiles, and its forms have no common receptive field: leave out {names}"
            )

    def _check_overlap(self) -> None:
        if self.overlap is None or self.overlap == "auto":
            return
        if isinstance(self.overlap, str):
            raise UsageError(f"--overlap is '{self.overlap}': give a number of pixels, or auto")
        if self.overlap < 0 or (self.block is None and 2 * self.overlap >= self.tile):
            raise UsageError(f"--overlap is {self.overlap}: it has to be below half of --tile ({self.tile})")
