"""Engines turn a view of a slide and a model into finished blocks of the output."""

from __future__ import annotations

from axialcli.engine.tiles import TileEngine, TilePlan

__all__ = ["TileEngine", "TilePlan"]
