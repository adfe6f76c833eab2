"""What the pipeline asks of every engine."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Protocol

from axialcli.config import EngineName
from axialcli.geometry import Block, Box


class Engine(Protocol):
    """Turns a view of a slide and a model into the finished blocks of the output.

    What memory allows is measured when the engine is made. The same numbers must come out of a run
    that is continued, so an engine is made with `repeat`, the `plan_notes` of the run before it, or
    None. A block carries the logits of those windows of a certificate that lie in it.
    """

    @property
    def name(self) -> EngineName: ...

    def boxes(self) -> list[Box]:
        """The blocks in the order in which they are finished."""

    def blocks(self, done: Collection[Box] = ()) -> Iterator[Block]:
        """The finished blocks in that order, without those that are `done` already."""

    def cancel(self) -> None:
        """Asks a running `blocks`, in whatever thread, to stop soon."""

    def halve(self, done: Collection[Box]) -> str | None:
        """After an AllocationError of `blocks`: plans the rest for less memory, for another `blocks`.

        done: the blocks that are finished; they stay as they are. Returns what was halved, as words for a
        message; None where nothing is left to halve. `boxes` and `plan_notes` are others then.
        """

    def plan_notes(self) -> dict[str, Any]:
        """What was planned from measured memory, in JSON's types; part of the journal's fingerprint."""

    def finish(self) -> None:
        """The output is complete: removes what the engine kept to continue."""

    def close(self) -> None:
        """Ends what the engine has open; what it keeps to continue stays. Does nothing a second time."""

    def describe(self) -> dict[str, Any]:
        """For the report, in JSON's types: the plan, and after the run what was done of it.

        `halved` says how often batch, steps or strips were halved because memory ran out.
        Among it `blank_share`, of the pixels that were read, and `skipped_share`, of the work; both 0
        without a background, and of what this run did, not those before it.
        """
