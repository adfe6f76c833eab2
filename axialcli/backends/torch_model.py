"""The torch backend: runs the networks of axialcli.nn."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from axialcli.backends.model import Model
from axialcli.backends.spec import ModelSpec
from axialcli.errors import ModelError
from axialcli.nn import build_network


class TorchModel(Model):
    """A network of our own, in evaluation mode, batch norms folded into the convolutions."""

    backend = "torch"

    def __init__(
        self,
        *,
        spec: ModelSpec,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        sha256: str,
        where: str,
    ) -> None:
        super().__init__(spec=spec, device=device, dtype=dtype, sha256=sha256)
        network = build_network(spec.architecture, **spec.config)
        load_weights(network, weights, where)
        fold_batch_norms(network.eval())
        self.network = network.to(device, dtype).requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # stubs lack it

    def run(self, images_BCHW: Tensor) -> Tensor:
        return self.network(images_BCHW)  # type: ignore[no-any-return]


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Fills a network with stored weights of any float dtype. Raises ModelError unless all fit."""
    wanted = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    if missing := sorted(wanted.keys() - weights.keys()):
        raise ModelError(f"{where}: lacks the weights {', '.join(missing[:3])}{' …' * (len(missing) > 3)}")
    if unknown := sorted(weights.keys() - network.state_dict().keys()):
        raise ModelError(f"{where}: has unknown weights {', '.join(unknown[:3])}{' …' * (len(unknown) > 3)}")
    for name, tensor in wanted.items():
        if weights[name].shape != tensor.shape:
            raise ModelError(
                f"{where}: {name} has shape {tuple(weights[name].shape)}, "
                f"the network wants {tuple(tensor.shape)}"
            )
    network.load_state_dict({k: v.float() for k, v in weights.items() if k in wanted}, strict=False)


def fold_batch_norms(network: nn.Module) -> None:
    """Multiplies each batch norm that directly follows a convolution in a Sequential into it, in place."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        names = list(module._modules)
        for first, second in pairwise(names):
            convolution, norm = module._modules[first], module._modules[second]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module._modules[first] = fuse_conv_bn_eval(convolution, norm)
                module._modules[second] = nn.Identity()
