"""The stream engine: a network's operators, traced once, executed row chunk by row chunk."""

from __future__ import annotations

from axialcli.engine.stream.engine import StreamEngine
from axialcli.engine.stream.examine import not_dense, refusal
from axialcli.engine.stream.plan import StreamFacts, stream_facts
from axialcli.engine.stream.trace import NotStreamable, trace

__all__ = ["NotStreamable", "StreamEngine", "StreamFacts", "not_dense", "refusal", "stream_facts", "trace"]
