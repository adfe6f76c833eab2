"""Which grid a slide is predicted on."""

from __future__ import annotations

import logging
import math

from axialcli.backends import Model
from axialcli.backends.spec import SAME_MPP, InputSpec
from axialcli.config import PredictSettings
from axialcli.errors import UsageError
from axialcli.image import Slide, SlideView, Stack
from axialcli.image.view import FINEST

logger = logging.getLogger("axial")


def choose_view(slide: Slide, model: Model, settings: PredictSettings) -> SlideView:
    """The grid of the mask: what the settings say, otherwise the model's own resolution.

    A level within the model's range of resolutions is taken as it is; otherwise the slide is
    resampled to the model's microns per pixel. Warns where the settings choose a resolution that the model
    is not made for, or the slide has none that is fine enough. Raises UsageError where neither says one, and
    where the slide is so coarse that another kind of picture must be meant.
    """
    wanted = model.spec.input
    if settings.level is not None or settings.mpp is not None:
        view = slide.view(level=settings.level, mpp=settings.mpp)
        if view.mpp is not None and not all(map(wanted.takes_mpp, view.mpp)):
            logger.warning(
                "%s is predicted at %s microns per pixel, and %s is made for %s: expect a worse mask",
                slide.path,
                _mpp(view.mpp),
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
    fitting = []
    for number, level in enumerate(slide.levels):
        mpp = [own * down for own, down in zip(slide.mpp, level.downsample, strict=True)]
        # Both: what is squeezed looks like nothing that a model has seen.
        if all(map(wanted.takes_mpp, mpp)):
            fitting.append((abs(math.log(max(mpp) / wanted.mpp)), number))
    if fitting:
        return slide.view(level=min(fitting)[1])
    has = f"{slide.path} has {_mpp(slide.mpp)} microns per pixel"
    made_for = f"{model.spec.name} is made for {_range(wanted)}"
    if max(slide.mpp) > FINEST * wanted.mpp:
        raise UsageError(
            f"{has}, and {made_for}: take another model, say the resolution with --mpp-override, or take the "
            "picture as it is with --level 0"
        )
    if max(slide.mpp) > wanted.mpp * (1 + SAME_MPP):
        logger.warning("%s and is enlarged to %g; %s: expect a worse mask", has, wanted.mpp, made_for)
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


def _mpp(mpp: tuple[float, float]) -> str:
    height, width = mpp
    if abs(height - width) <= SAME_MPP * width:
        return f"{max(mpp):.3g}"
    return f"{width:.3g} x {height:.3g}"


def _range(wanted: InputSpec) -> str:
    if wanted.mpp_range is None:
        return f"{wanted.mpp:g}"
    return "{:g} to {:g}".format(*wanted.mpp_range)
