"""How good a mask is: compared with a true one, pixel by pixel and object by object."""

from axialcli.evaluate.run import evaluate
from axialcli.evaluate.settings import EvaluateSettings

__all__ = ["EvaluateSettings", "evaluate"]
