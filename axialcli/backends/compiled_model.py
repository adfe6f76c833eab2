"""The compiled backend: a network of our own through torch.compile, for batches of whole tiles.

Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from axialcli.backends.memory import speaks_of_memory
from axialcli.backends.model import Model
from axialcli.backends.torch_model import TorchModel
from axialcli.errors import ModelError


class CompiledModel(Model):
    """A network that is compiled for one shape, once that shape comes; all others run as they are.

    Compiling takes half a minute for each shape, so that only the batches that most of a slide consists of
    are worth it. Which those are is said and not counted: a run that is continued has to give the same bytes.
    """

    backend = "compiled"
    fills_batches = True

    def __init__(self, model: TorchModel) -> None:
        super().__init__(spec=model.spec, device=model.device, dtype=model.dtype, sha256=model.sha256)
        self._model = model
        # No CUDA graphs: torch's are bound to the thread that made them, and engines compute in others.
        self._compiled: Any = torch.compile(model.network, dynamic=False)
        self._shape_BCHW: tuple[int, ...] | None = None

    def expect(self, batch: int, height: int, width: int) -> None:
        self._shape_BCHW = (batch, len(self.spec.input.channels), height, width)

    def run(self, images_BCHW: Tensor) -> Tensor:
        """Raises ModelError where the network cannot be compiled here."""
        if images_BCHW.shape != self._shape_BCHW:
            return self._model.run(images_BCHW)
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self._compiled(images_BCHW)  # type: ignore[no-any-return]
        except TorchDynamoException as error:
            if speaks_of_memory(str(error)):
                raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ModelError(
                f"model '{self.spec.name}' cannot be compiled here ({reason.strip():.120}): "
                "leave --backend at auto"
            ) from error

    def runtime(self) -> dict[str, str | int]:
        return self._model.runtime()
