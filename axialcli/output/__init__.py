"""Outputs: masks, probabilities, overlays and reports; resumable, and published in one step.

RunFiles is all that the pipeline needs: work folders `OUT.partial/` with a journal each, the sinks
that take the blocks, and the last step, in which every file gets its name at once and OUT last.
"""

from axialcli.output.certificate import CertificateNotes
from axialcli.output.files import output_error, writing
from axialcli.output.folder import WorkFolder, partial_folder
from axialcli.output.info import MaskInfo
from axialcli.output.journal import OVERLAY_FILE, REPORT_FILE, Journal, earlier_plan
from axialcli.output.mask import MaskSink
from axialcli.output.overlay import OVERLAY_MAX_PX, overlay, write_overlay
from axialcli.output.probs import ProbsSink
from axialcli.output.publishing import publish, publish_all, publish_bytes
from axialcli.output.report import class_areas, class_volumes, write_report
from axialcli.output.run_files import RunFiles
from axialcli.output.sink import Sink
from axialcli.output.spool import TileSpool
from axialcli.output.stack import StackFiles
from axialcli.output.targets import Outputs, check_file, check_outputs, check_scratch, note_publishing

__all__ = [
    "OVERLAY_FILE",
    "OVERLAY_MAX_PX",
    "REPORT_FILE",
    "CertificateNotes",
    "Journal",
    "MaskInfo",
    "MaskSink",
    "Outputs",
    "ProbsSink",
    "RunFiles",
    "Sink",
    "StackFiles",
    "TileSpool",
    "WorkFolder",
    "check_file",
    "check_outputs",
    "check_scratch",
    "class_areas",
    "class_volumes",
    "earlier_plan",
    "note_publishing",
    "output_error",
    "overlay",
    "partial_folder",
    "publish",
    "publish_all",
    "publish_bytes",
    "write_overlay",
    "write_report",
    "writing",
]
