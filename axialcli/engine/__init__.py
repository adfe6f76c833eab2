"""Engines turn a view of a slide and a model into finished blocks of the output."""

from __future__ import annotations

from axialcli.engine.ahead import ahead, apart
from axialcli.engine.background import Background
from axialcli.engine.certify import Certifier
from axialcli.engine.choose import ChosenEngine, allowed_bytes, choose_engine, make_engine
from axialcli.engine.find_background import FoundBackground, find_background
from axialcli.engine.memory import machine_bytes, peak_resident_bytes
from axialcli.engine.protocol import Engine
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.tile_plan import TilePlan
from axialcli.engine.tiles import TileEngine
from axialcli.engine.view import choose_view

__all__ = [
    "Background",
    "Certifier",
    "ChosenEngine",
    "Engine",
    "FoundBackground",
    "Stopwatch",
    "TileEngine",
    "TilePlan",
    "ahead",
    "allowed_bytes",
    "apart",
    "choose_engine",
    "choose_view",
    "find_background",
    "machine_bytes",
    "make_engine",
    "peak_resident_bytes",
]
