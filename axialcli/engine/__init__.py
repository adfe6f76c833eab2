"""Engines turn a view of a slide and a model into finished blocks of the output."""

from __future__ import annotations

from axialcli.engine.ahead import ahead
from axialcli.engine.memory import machine_bytes, peak_resident_bytes
from axialcli.engine.stopwatch import Stopwatch
from axialcli.engine.tiles import TileEngine, TilePlan

__all__ = ["Stopwatch", "TileEngine", "TilePlan", "ahead", "machine_bytes", "peak_resident_bytes"]
