"""Any network behind the interface of a Model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from axialcli.backends import Model
from axialcli.backends.spec import InputSpec, ModelSpec, OutputSpec
from axialcli.config import ClassInfo


class NetworkModel(Model):
    """A segmentation network of three channels and two classes, on the CPU."""

    backend = "torch"

    def __init__(self, network: nn.Module, *, dtype: torch.dtype = torch.float32) -> None:
        spec = ModelSpec(
            name="brought along",
            task="segmentation",
            architecture="none",
            config={},
            input=InputSpec(channels=("red", "green", "blue"), mean=(0.5,) * 3, std=(0.25,) * 3),
            output=OutputSpec(),
            classes=(
                ClassInfo(name="background", colour=(0, 0, 0)),
                ClassInfo(name="cell", colour=(255, 0, 0)),
            ),
        )
        super().__init__(spec=spec, device=torch.device("cpu"), dtype=dtype, sha256="0" * 64)
        self.network = network.to(dtype)

    def run(self, images_BCHW: Tensor) -> Tensor:
        assert self.network is not None
        return self.network(images_BCHW)  # type: ignore[no-any-return]
