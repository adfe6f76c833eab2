"""Fixtures for all tests of the outputs."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sync promises shows in a power cut only; here it would cost most of the time."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
