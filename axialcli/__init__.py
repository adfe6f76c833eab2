"""axial: vision networks over pictures too large for any memory.

The public names; anything else may change. They are imported when first used, so that
`import axialcli` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axialcli.backends import Model, load_model
    from axialcli.hints import ModelHints
    from axialcli.image import Slide, open_slide
    from axialcli.pipeline import predict

__version__ = "0.1.0"

__all__ = ["Model", "ModelHints", "Slide", "__version__", "load_model", "open_slide", "predict"]

_HOME = {
    "Model": "axialcli.backends",
    "ModelHints": "axialcli.hints",
    "load_model": "axialcli.backends",
    "Slide": "axialcli.image",
    "open_slide": "axialcli.image",
    "predict": "axialcli.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'axialcli' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
