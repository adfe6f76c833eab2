"""Slides: what a TIFF, PNG or JPEG holds, and its pixels by level and box."""

from axialcli.image.describe import describe, describe_counts, describe_input, describe_view
from axialcli.image.labels import LabelPicture, open_labels
from axialcli.image.layout import FoundImage
from axialcli.image.opening import open_slide
from axialcli.image.slide import Level, Slide
from axialcli.image.stack import Stack
from axialcli.image.view import SlideView
from axialcli.image.work import Counts

__all__ = [
    "Counts",
    "FoundImage",
    "LabelPicture",
    "Level",
    "Slide",
    "SlideView",
    "Stack",
    "describe",
    "describe_counts",
    "describe_input",
    "describe_view",
    "open_labels",
    "open_slide",
]
