"""Engines turn a view of a slide and a model into finished blocks of the output."""

from __future__ import annotations

from axialcli.engine.ahead import ahead, apart
from axialcli.engine.background import Background
from axialcli.engine.blocks import Blocks, choose_blocks
from axialcli.engine.certify import Certifier
from axialcli.engine.choose import ChosenEngine, allowed_bytes, choose_engine, make_engine, planned_bytes
from axialcli.engine.choose_tiling import choose_tiling
from axialcli.engine.find_background import FoundBackground, find_background
from axialcli.engine.fingerprint import fingerprint
from axialcli.engine.mask_grid import MaskGrid, mask_grid
from axialcli.engine.memory import machine_bytes, peak_resident_bytes
from axialcli.engine.protocol import Engine
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.tile_plan import TilePlan
from axialcli.engine.tiles import TileEngine
from axialcli.engine.tiling import Tiling, tiling_of
from axialcli.engine.view import choose_view, choose_volume
from axialcli.engine.volumes import VolumeEngine

__all__ = [
    "Background",
    "Blocks",
    "Certifier",
    "ChosenEngine",
    "Engine",
    "FoundBackground",
    "MaskGrid",
    "Stopwatch",
    "TileEngine",
    "TilePlan",
    "Tiling",
    "VolumeEngine",
    "ahead",
    "allowed_bytes",
    "apart",
    "choose_blocks",
    "choose_engine",
    "choose_tiling",
    "choose_view",
    "choose_volume",
    "find_background",
    "fingerprint",
    "machine_bytes",
    "make_engine",
    "mask_grid",
    "peak_resident_bytes",
    "planned_bytes",
    "tiling_of",
]
