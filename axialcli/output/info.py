"""What the writers must know about a mask or a stack of probabilities beside its pixels."""

from __future__ import annotations

from dataclasses import dataclass

from axialcli.config import FEW_CLASSES, MAX_CLASSES, ClassInfo, Layout, check_choice
from axialcli.geometry import GeoReference, Size


@dataclass(frozen=True, kw_only=True)
class MaskInfo:
    """Everything about an output that does not change from block to block.

    size: of level 0; of a volume, of each of its `depth` planes, which are `spacing_um` apart (None where
    unknown). mpp: (y, x) microns per pixel, or None where unknown. georeference: already
    scaled to this size. covered: which share of the height and the width lies on the slide. cell_px:
    pixels of the slide's level 0 per pixel of the mask (y, x). slide_size: of level 0.
    orientation: TIFF tag 274 of the slide, 1..8. classes: in label order. palette: colours in the file, which
    holds those of 256 classes at most; None chooses them for `generic`, whose readers keep the labels.
    software: name and version, the same for the same result. uuid_seed: decides the OME UUID.
    """

    size: Size
    classes: tuple[ClassInfo, ...]
    mpp: tuple[float, float] | None = None
    georeference: GeoReference | None = None
    covered: tuple[float, float] = (1.0, 1.0)
    cell_px: tuple[float, float] = (1.0, 1.0)
    slide_size: Size | None = None
    orientation: int = 1
    layout: Layout = "auto"
    palette: bool | None = None
    software: str = "axial"
    uuid_seed: str = ""
    depth: int = 1
    spacing_um: float | None = None

    def __post_init__(self) -> None:
        check_choice("layout", self.layout, Layout)
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"{len(self.classes)} classes: a mask holds 1 to {MAX_CLASSES}")

    @property
    def chosen_layout(self) -> Layout:
        """The layout, `auto` resolved: `generic` with a georeference, else `ome`."""
        if self.layout != "auto":
            return self.layout
        return "generic" if self.georeference is not None else "ome"

    @property
    def chosen_palette(self) -> bool:
        """Whether the file carries colours; labels of 16 bits have none."""
        if len(self.classes) > FEW_CLASSES:
            return False
        return self.chosen_layout == "generic" if self.palette is None else self.palette
