"""Which grid a slide is predicted on."""

from __future__ import annotations

import logging
import math

from axialcli.backends import Model
from axialcli.backends.spec import InputSpec
from axialcli.config import PredictSettings
from axialcli.errors import UsageError
from axialcli.image import Slide, SlideView, Stack

logger = logging.getLogger("axial")


def choose_view(slide: Slide, model: Model, settings: PredictSettings) -> SlideView:
    """The grid of the mask: what the settings say, otherwise the model's own resolution.

    A level within the model's range of resolutions is taken as it is; otherwise the slide is
    resampled to the model's microns per pixel. Warns where the settings choose a resolution that the model
    is not made for, or the slide has none that is fine enough. Raises UsageError where neither says one.
    """
    wanted = model.spec.input
    if settings.level is not None or settings.mpp is not None:
        view = slide.view(level=settings.level, mpp=settings.mpp)
        if view.mpp is not None and not wanted.takes_mpp(max(view.mpp)):
            logger.warning(
                "%s is predicted at %.3g microns per pixel, and %s is made for %s: expect a worse mask",
                slide.path,
                max(view.mpp),
                model.spec.name,
                _range(wanted),
            )
        return view
    if wanted.ask_mpp:
        raise UsageError(
            f"model '{model.spec.name}' was trained at no one resolution: say one with --mpp or --level"
        )
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
    fitting = [
        (abs(math.log(mpp / wanted.mpp)), number)
        for number, level in enumerate(slide.levels)
        for mpp in [max(slide.mpp[0] * level.downsample[0], slide.mpp[1] * level.downsample[1])]
        if wanted.takes_mpp(mpp)
    ]
    if fitting:
        return slide.view(level=min(fitting)[1])
    if max(slide.mpp) > wanted.mpp:
        logger.warning(
            "%s has %.3g microns per pixel and is enlarged to %g; %s is made for %s: expect a worse mask",
            slide.path,
            max(slide.mpp),
            wanted.mpp,
            model.spec.name,
            _range(wanted),
        )
    return slide.view(mpp=wanted.mpp)


def choose_volume(slide: Slide, model: Model, settings: PredictSettings) -> Stack:
    """The planes that a model of volumes sees: level 0, or the one that the settings name.

    Volumes are not resampled: warns where the model is made for another resolution. Raises as Stack.
    """
    stack, wanted = slide.stack(settings.level or 0), model.spec.input
    if stack.mpp is not None and not wanted.takes_mpp(max(stack.mpp)):
        logger.warning(
            "%s has %.3g microns per pixel at level %d, and %s is made for %s; volumes are not resampled: "
            "expect a worse mask",
            slide.path,
            max(stack.mpp),
            stack.level,
            model.spec.name,
            _range(wanted),
        )
    return stack


def _range(wanted: InputSpec) -> str:
    if wanted.mpp_range is None:
        return f"{wanted.mpp:g}"
    return "{:g} to {:g}".format(*wanted.mpp_range)
