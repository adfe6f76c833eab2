"""Which grid a slide is predicted on."""

from __future__ import annotations

import logging
import math

from axialcli.backends import Model
from axialcli.config import PredictSettings
from axialcli.image import Slide, SlideView

SAME_MPP = 0.02
"""Resolutions that differ by less than this share need no resampling."""

logger = logging.getLogger("axial")


def choose_view(slide: Slide, model: Model, settings: PredictSettings) -> SlideView:
    """The grid of the mask: what the settings say, otherwise the model's own resolution.

    A level within the model's range of resolutions is taken as it is; otherwise the slide is
    resampled to the model's microns per pixel.
    """
    wanted = model.spec.input
    if settings.level is not None:
        return slide.view(level=settings.level)
    if settings.mpp is not None:
        return slide.view(mpp=settings.mpp)
    if wanted.mpp is None:
        return slide.view(level=0)
    if slide.mpp is None:
        logger.warning(
            "%s does not say its resolution: level 0 is taken as it is, %s is made for %g microns per "
            "pixel; give --mpp-override",
            slide.path,
            model.spec.name,
            wanted.mpp,
        )
        return slide.view(level=0)
    finest, coarsest = wanted.mpp_range or (wanted.mpp, wanted.mpp)
    fitting = [
        (abs(math.log(mpp / wanted.mpp)), number)
        for number, level in enumerate(slide.levels)
        for mpp in [max(slide.mpp[0] * level.downsample[0], slide.mpp[1] * level.downsample[1])]
        if finest * (1 - SAME_MPP) <= mpp <= coarsest * (1 + SAME_MPP)
    ]
    return slide.view(level=min(fitting)[1]) if fitting else slide.view(mpp=wanted.mpp)
