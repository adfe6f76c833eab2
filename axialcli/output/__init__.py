"""Outputs: masks, probabilities, overlays and reports; resumable, and published in one step.

How a run writes (mask only; probabilities have a work folder of their own beside their FILE):

    with Journal.open(partial_folder(out), fingerprint) as journal:   # locks OUT.partial/
        with MaskSink(journal.folder, MaskInfo(size=..., classes=..., ...)) as mask:
            sinks = [mask]                                            # ProbsSink(probs_journal.folder, ...)
            done = {box for box in journal.done if all(sink.has(box) for sink in sinks)}
            for block in engine.blocks(skip=done):
                for sink in sinks:
                    sink.write(block)
                for sink in sinks:
                    sink.sync()
                journal.record(block.box, np.bincount(block.labels_HW.ravel(), minlength=K))
            temp = mask.finish()                                      # OUT.partial/mask.tif
            labels_HW = mask.labels_at_most(2048)
        publish_all([..., (report_temp, report), (temp, out)])        # OUT last
        journal.remove()

`journal.restarted` says why earlier work was dropped, or None. `journal.counts()` are the pixels
per class of all recorded blocks. Temporary overlay and report go to
`journal.folder.file(OVERLAY_FILE)` and `journal.folder.file(REPORT_FILE)`.
"""

from axialcli.output.files import output_error, writing
from axialcli.output.folder import WorkFolder, partial_folder
from axialcli.output.info import MaskInfo
from axialcli.output.journal import OVERLAY_FILE, REPORT_FILE, Journal
from axialcli.output.mask import MaskSink
from axialcli.output.overlay import OVERLAY_MAX_PX, overlay, write_overlay
from axialcli.output.probs import ProbsSink
from axialcli.output.publishing import publish, publish_all
from axialcli.output.report import class_areas, write_report
from axialcli.output.sink import Sink
from axialcli.output.spool import TileSpool
from axialcli.output.targets import Outputs, check_outputs, note_publishing

__all__ = [
    "OVERLAY_FILE",
    "OVERLAY_MAX_PX",
    "REPORT_FILE",
    "Journal",
    "MaskInfo",
    "MaskSink",
    "Outputs",
    "ProbsSink",
    "Sink",
    "TileSpool",
    "WorkFolder",
    "check_outputs",
    "class_areas",
    "note_publishing",
    "output_error",
    "overlay",
    "partial_folder",
    "publish",
    "publish_all",
    "write_overlay",
    "write_report",
    "writing",
]
