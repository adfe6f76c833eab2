"""All that a run writes, from the first block in its work folders to the files under their names.

Shapes: H height, W width, C channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from axialcli.config import ProbsDtype
from axialcli.geometry import Block, Box, WindowFigures
from axialcli.output.certificate import CertificateNotes
from axialcli.output.closing import Closing
from axialcli.output.counting import count_labels
from axialcli.output.folder import WorkFolder, partial_folder
from axialcli.output.heatmap import HeatmapPicture
from axialcli.output.info import MaskInfo
from axialcli.output.journal import OVERLAY_FILE, REPORT_FILE, Journal
from axialcli.output.mask import MaskSink
from axialcli.output.overlay import OVERLAY_MAX_PX, overlay, write_overlay
from axialcli.output.probs import ProbsSink
from axialcli.output.publishing import publish_all
from axialcli.output.report import write_report
from axialcli.output.sink import Sink
from axialcli.output.targets import Outputs, is_picture, label_of, note_publishing
from axialcli.output.tile_table import TileTable

logger = logging.getLogger("axial")


class RunFiles(Closing):
    """Journals, sinks and certificate of one run; continues what an earlier one left.

    outputs: the files to write. fingerprint: all that decides their bytes. info: of the mask.
    windows: of the certificate; their figures are kept with the blocks. A run that fails before its first
    block leaves no trace. Raises OutputError, here and everywhere.
    """

    def __init__(
        self,
        outputs: Outputs,
        fingerprint: Mapping[str, Any],
        info: MaskInfo,
        *,
        probs_dtype: ProbsDtype,
        windows: Sequence[Box] = (),
    ) -> None:
        self._outputs, self._info, self._windows = outputs, info, windows
        self._built: list[tuple[Path, Path]] = []
        with ExitStack() as stack:
            self.journal = _open_journal(stack, outputs.mask, fingerprint)
            self._journals = [self.journal]
            self._mask = stack.enter_context(MaskSink(self.journal.folder, info))
            self._sinks: list[tuple[Sink, Path]] = [(self._mask, outputs.mask)]
            for target, what, make in _sinks_of_probs(outputs, info, probs_dtype):
                journal = _open_journal(stack, target, {**fingerprint, **what}, self.journal)
                self._journals.append(journal)
                sink = make(journal.folder)
                stack.enter_context(sink)
                self._sinks.append((sink, target))
            self.certificate = stack.enter_context(CertificateNotes(self.journal.folder)) if windows else None
            self._stack = stack.pop_all()

    def done(self, boxes: Collection[Box]) -> set[Box]:
        """Those of `boxes` that earlier runs have finished, windows compared and all."""
        return {
            box
            for box in self.journal.done.intersection(boxes)
            if all(sink.has(box) for sink, _ in self._sinks) and self._compared(box)
        }

    def write(self, block: Block, figures: Sequence[WindowFigures] = ()) -> None:
        """Takes a block and the figures of its windows; both are on the disk before the block counts."""
        for sink, _ in self._sinks:
            sink.write(block)
        for sink, _ in self._sinks:
            sink.sync()
        if self.certificate is not None:
            self.certificate.record(figures)
        self.journal.record(block.box, count_labels(block.labels_HW, len(self._info.classes)))

    def replan(self, plan: Mapping[str, Any]) -> None:
        """The blocks to come follow another plan; it stands under "plan" in the fingerprint from now on."""
        # The main journal last: it says which plan a continued run repeats.
        for journal in reversed(self._journals):
            journal.replan(plan)

    def counts(self, boxes: Iterable[Box]) -> NDArray[np.int64]:
        """Pixels per class over `boxes`, [K]."""
        return self.journal.counts(boxes)

    def counts_beyond(self) -> NDArray[np.float64]:
        """How much of each class's pixels lies beyond the slide, [K]: of the last row and column."""
        return self._mask.counts_beyond(self._info.covered)

    @property
    def encode_s(self) -> float:
        """Seconds spent on compressing the mask, summed over the threads."""
        return self._mask.encode_s

    def finish(self) -> None:
        """Builds all files but the pictures in the work folders."""
        for sink, target in self._sinks:
            if not isinstance(sink, HeatmapPicture):
                self._built.append((sink.finish(), target))

    def draw(self, thumbnail_HWC: NDArray[np.uint8]) -> None:
        """Draws overlay and heatmaps over a thumbnail of the slide."""
        for sink, target in self._sinks:
            if isinstance(sink, HeatmapPicture):
                self._built.append((sink.draw(thumbnail_HWC), target))
        if self._outputs.overlay is None:
            return
        labels_HW = self._mask.labels_at_most(OVERLAY_MAX_PX)
        picture_HWC = overlay(thumbnail_HWC, labels_HW, self._info.classes, covered=self._info.covered)
        drawn = write_overlay(self.journal.folder.file(OVERLAY_FILE), picture_HWC)
        self._built.append((drawn, self._outputs.overlay))

    def publish(self, report: Mapping[str, Any]) -> None:
        """Moves all files to their names, the mask last, and removes the work folders."""
        path = write_report(self.journal.folder.file(REPORT_FILE), report)
        self._built.append((path, self._outputs.report))
        note_publishing(self.journal.folder, self._outputs)
        mask, *others = self._built
        publish_all([*others, mask])
        for sink, _ in self._sinks:
            sink.close()
        if self.certificate is not None:
            self.certificate.close()
        for journal in self._journals:
            journal.remove()

    def close(self) -> None:
        """Closes all files; unfinished work stays, to be continued."""
        self._stack.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _compared(self, box: Box) -> bool:
        inside = (window for window in self._windows if box.contains(window))
        return self.certificate is None or self.certificate.has(inside)


def _sinks_of_probs(
    outputs: Outputs, info: MaskInfo, dtype: ProbsDtype
) -> Iterator[tuple[Path, dict[str, Any], Callable[[WorkFolder], ProbsSink | TileTable]]]:
    """Of each file made of probabilities its path, what else decides its bytes, and how its sink is made."""
    if outputs.probs:
        yield outputs.probs, {"probs": dtype}, partial(ProbsSink, info=info, dtype=dtype)
    if outputs.table:
        yield outputs.table, {"table": True}, partial(TileTable, info=info)
    for name, path in outputs.heatmaps:
        label = label_of(name, info.classes)
        if is_picture(path):
            yield path, {"heatmap": label}, partial(HeatmapPicture, info=info, label=label)
        else:
            make = partial(ProbsSink, info=info, dtype=dtype, label=label)
            yield path, {"heatmap": label, "probs": dtype}, make


def _open_journal(
    stack: ExitStack, out: Path, fingerprint: Mapping[str, Any], main: Journal | None = None
) -> Journal:
    """A journal that ends with the stack, and without a trace where nothing was finished yet.

    main: the journal that records the blocks, where it is another one.
    """
    journal = stack.enter_context(Journal.open(partial_folder(out), fingerprint))

    def forget(kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not (main or journal).done:
            journal.remove()

    stack.push(forget)
    if journal.restarted:
        logger.warning("%s: starting over, %s", partial_folder(out), journal.restarted)
    return journal
