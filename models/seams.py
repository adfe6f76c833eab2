"""Draws what tiles do to a mask, and what a stream does not: one picture, four panels.

    python models/seams.py [DATA]

The same slide goes through both engines with their defaults. What they answer is compared with the
network run once over the whole slide, in one piece. The slide is synthetic, or, where DATA is given,
joined from the pictures of tnbc. Writes models/nuclei/seams.png and prints the figures.

Shapes: H height, W width, C channels, K classes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from data_nuclei import read_nuclei
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import axialcli
from axialcli.config import PredictSettings
from axialcli.engine import Stopwatch, make_engine
from axialcli.engine.certify import centred, choose_windows
from axialcli.geometry import Box, Size
from axialcli.image.sample import write_sample

SIDE = 1536
"""Of the slide: nine pictures of tnbc, four tiles across."""
SHOWN = Box(320, 240, 1060, 1380)
"""The part of it that is drawn, at half its size."""
PANEL = Size(SHOWN.height // 2, SHOWN.width // 2)
MARGIN, CAPTION = 20, 58
MOST = 1.0
"""The difference of logits that is drawn brightest, and all above it."""
HEAT = [(0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)]
PAPER, INK, QUIET = (255, 255, 255), (25, 25, 30), (105, 105, 115)
NUCLEUS, WRONG, GRID = (120, 150, 205), (215, 0, 40), (0, 150, 130)


@dataclass(frozen=True)
class Answer:
    """labels_HW: uint8. apart_HW: largest difference of a pixel's logits from the whole network's."""

    labels_HW: NDArray[np.uint8]
    apart_HW: NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with dsb2018/ and tnbc/")
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "nuclei" / "seams.png")
    args = parser.parse_args()
    model = axialcli.load_model(args.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        write_slide(path, args.data)
        with axialcli.open_slide(path) as slide:
            image_HWC = slide.read(0, (0, 0, *slide.size))
            whole_KHW = model.predict(image_HWC.transpose(2, 0, 1)[None], logits=True)[0]
            answers = {name: answer(slide, model, name, whole_KHW) for name in ("tiles", "stream")}
    reference_HW = np.asarray(centred(whole_KHW).argmax(axis=0), np.uint8)
    figures = {name: figures_of(found, reference_HW) for name, found in answers.items()}
    picture = draw(image_HWC, reference_HW, answers, figures)
    picture.quantize(192, dither=Image.Dither.NONE).save(args.out, optimize=True)
    print(json.dumps(figures, indent=1))


def write_slide(path: Path, data: Path | None) -> None:
    """A slide of SIDE x SIDE pixels at 0.25 microns per pixel."""
    if data is None:
        write_sample(path, Size(SIDE, SIDE), seed=4, blank=0.1)
        return
    found = [one.image_HWC for one in read_nuclei(data, "train") if one.modality == "tnbc"]
    across = SIDE // 512
    rows = [np.concatenate(found[row * across : (row + 1) * across], axis=1) for row in range(across)]
    resolution = {"resolution": (1e4 / 0.25, 1e4 / 0.25), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, np.concatenate(rows), photometric="rgb", tile=(256, 256), **resolution)


def answer(
    slide: axialcli.Slide, model: axialcli.Model, engine: str, whole_KHW: NDArray[np.float32]
) -> Answer:
    """What an engine makes of level 0, against the logits of the network on all of it."""
    view = slide.view(level=0)
    maker = make_engine(
        "tiles" if engine == "tiles" else "stream",
        view,
        model,
        PredictSettings(),
        cached_rows=0,
        background=None,
        # Windows enough to cover everything: their logits are the engine's own.
        windows=choose_windows(view.size, SIDE * SIDE, ""),
        reserved_bytes=0,
        probs=False,
        overlay=False,
        repeat=None,
        run_name="seams",
        fingerprint={},
        stopwatch=Stopwatch(),
    )
    labels_HW = np.zeros(view.size, np.uint8)
    apart_HW = np.zeros(view.size)
    reference_KHW = centred(whole_KHW)
    whole = Box(0, 0, *view.size)
    for block in maker.blocks():
        labels_HW[block.box.within(whole)] = block.labels_HW
        for window, logits_KHW in block.windows:
            inside = window.within(whole)
            apart_HW[inside] = np.abs(centred(logits_KHW) - reference_KHW[:, *inside]).max(axis=0)
    return Answer(labels_HW, apart_HW)


def figures_of(found: Answer, reference_HW: NDArray[np.uint8]) -> dict[str, float]:
    differing = int(np.count_nonzero(found.labels_HW != reference_HW))
    return {
        "largest_logit_difference": float(found.apart_HW.max()),
        "median_logit_difference": float(np.median(found.apart_HW)),
        "differing_pixels": differing,
        "differing_pixels_share": differing / reference_HW.size,
    }


def draw(
    image_HWC: NDArray[np.uint8],
    reference_HW: NDArray[np.uint8],
    answers: dict[str, Answer],
    figures: dict[str, dict[str, float]],
) -> Image.Image:
    """Four panels with captions, 1200 pixels wide."""
    tiles, stream = figures["tiles"], figures["stream"]
    panels = [
        (
            half(Image.fromarray(image_HWC[SHOWN.within(Box(0, 0, SIDE, SIDE))])),
            "The slide",
            "part of it, half its size",
        ),
        (
            heat_panel(answers["tiles"].apart_HW),
            "Tiles: how far the logits are from the whole network's",
            f"tile 512, overlap 64, gaussian; up to {tiles['largest_logit_difference']:.2g}; tiles outlined",
        ),
        (
            mask_panel(answers["tiles"].labels_HW, reference_HW),
            "Tiles: the mask",
            f"red: {tiles['differing_pixels']:,.0f} pixels of the slide differ from the whole network's "
            f"({100 * tiles['differing_pixels_share']:.2g} %)",
        ),
        (
            mask_panel(answers["stream"].labels_HW, reference_HW),
            "Stream: the mask",
            f"{stream['differing_pixels']:,.0f} pixels differ; logits by up to "
            f"{stream['largest_logit_difference']:.1g}",
        ),
    ]
    height = 2 * (MARGIN + CAPTION + PANEL.height) + MARGIN
    page = Image.new("RGB", (3 * MARGIN + 2 * PANEL.width, height), PAPER)
    pen = ImageDraw.Draw(page)
    title, small = ImageFont.load_default(21), ImageFont.load_default(15)
    for index, (panel, name, note) in enumerate(panels):
        x = MARGIN + index % 2 * (MARGIN + PANEL.width)
        y = MARGIN + index // 2 * (MARGIN + CAPTION + PANEL.height)
        pen.text((x, y), name, INK, title)
        pen.text((x, y + 28), note, QUIET, small)
        page.paste(panel, (x, y + CAPTION))
        pen.rectangle((x, y + CAPTION, x + PANEL.width - 1, y + CAPTION + PANEL.height - 1), outline=QUIET)
    return page


def half(picture: Image.Image) -> Image.Image:
    return picture.reduce(2)


def mask_panel(labels_HW: NDArray[np.uint8], reference_HW: NDArray[np.uint8]) -> Image.Image:
    """Regions in one colour; pixels that differ from the reference in another, at least two wide."""
    inside = SHOWN.within(Box(0, 0, *labels_HW.shape))
    labels, differing = labels_HW[inside], (labels_HW != reference_HW)[inside]
    panel = half(Image.fromarray(np.where(labels[..., None] > 0, NUCLEUS, PAPER).astype(np.uint8)))
    picture_HWC = np.asarray(panel).copy()
    marked = differing.reshape(PANEL.height, 2, PANEL.width, 2).any(axis=(1, 3))
    marked[1:] |= marked[:-1].copy()
    marked[:, 1:] |= marked[:, :-1].copy()
    picture_HWC[marked] = WRONG
    return outlined(Image.fromarray(picture_HWC), (225, 225, 230))


def heat_panel(apart_HW: NDArray[np.float64]) -> Image.Image:
    """Differences, the tiles' outlines over them, the scale in a corner."""
    shown = apart_HW[SHOWN.within(Box(0, 0, *apart_HW.shape))]
    largest = shown.reshape(PANEL.height, 2, PANEL.width, 2).max(axis=(1, 3))
    panel = outlined(Image.fromarray(heat(largest)), (0, 190, 170))
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(13)
    width, x, y = 200, 16, PANEL.height - 40
    pen.rectangle((x - 8, y - 6, x + width + 24, y + 32), fill=(0, 0, 0))
    scale = np.linspace(0, MOST, width)[None].repeat(10, axis=0)
    panel.paste(Image.fromarray(heat(scale)), (x, y))
    for share in (0, 0.5, 1):
        text = f"{share * MOST:g}" + "+" * (share == 1)
        pen.text((x + share * width, y + 12), text, PAPER, font, anchor="ma")
    return panel


def heat(values_HW: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours [H, W, 3] of differences, in 32 steps: a file with fewer colours is smaller."""
    share = np.rint(np.clip(values_HW / MOST, 0, 1) * 32) / 32
    stops = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(share, stops, [c[i] for c in HEAT]) for i in range(3)], -1).astype(np.uint8)


def outlined(panel: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Where tiles of 512 with an overlap of 64 begin and end: thin dashed lines."""
    pen = ImageDraw.Draw(panel)
    for start in range(0, SIDE, 384):
        for edge in (start, start + 512):
            y, x = (edge - SHOWN.y0) // 2, (edge - SHOWN.x0) // 2
            for at in range(0, max(PANEL), 8):
                pen.line((at, y, at + 3, y), colour)
                pen.line((x, at, x, at + 3), colour)
    return panel


if __name__ == "__main__":
    main()
