"""Slides: what a TIFF, PNG or JPEG holds, and its pixels by level and box."""

from axialcli.image.describe import describe
from axialcli.image.layout import FoundImage
from axialcli.image.opening import open_slide
from axialcli.image.slide import Level, Slide
from axialcli.image.view import SlideView
from axialcli.image.work import Counts

__all__ = ["Counts", "FoundImage", "Level", "Slide", "SlideView", "describe", "open_slide"]
