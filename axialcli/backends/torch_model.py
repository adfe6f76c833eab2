"""The torch backend: runs the networks of axialcli.nn."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from axialcli.backends.memory import memory_is_a_limit
from axialcli.backends.model import Model
from axialcli.backends.spec import ModelSpec
from axialcli.errors import ModelError
from axialcli.nn import build_network
from axialcli.nn.banded import kernel
from axialcli.nn.fused import fuse

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

PROBE = 16
"""Side of the picture that a new network is tried on, in pixels, where it takes any."""

PROBE_DEPTH = 3
"""Planes of the volume that a new network is tried on."""

CONVOLUTIONS, BATCH_NORMS = (nn.Conv2d, nn.Conv3d), (nn.BatchNorm2d, nn.BatchNorm3d)


class TorchModel(Model):
    """A network of our own, in evaluation mode, batch norms folded into the convolutions."""

    backend = "torch"
    network: nn.Module

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
        network = _build(spec, where)
        load_weights(network, weights, where)
        fold(network.eval())
        check_output(network, spec, where)
        if device.type == "cpu":
            fuse(network)
        self.network = network.to(device, dtype).requires_grad_(False)
        self.network.to(memory_format=self.memory_format)  # type: ignore[call-overload] # stubs lack it

    def run(self, images_BCHW: Tensor) -> Tensor:
        return self.network(images_BCHW)  # type: ignore[no-any-return]

    def runtime(self) -> dict[str, str | int]:
        return {**super().runtime(), "attention": kernel()}


def _build(spec: ModelSpec, where: str) -> nn.Module:
    try:
        return build_network(spec.architecture, **spec.config)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def check_output(network: nn.Module, spec: ModelSpec, where: str) -> None:
    """Runs the network once, on a small blank picture, and compares what comes out with the description.

    Raises ModelError unless it takes the channels, answers one logit per class (sigmoid: one in
    all) and pixel, or of a classifier per picture, as the description says, and all of them are finite.
    """
    channels, side = len(spec.input.channels), spec.input.multiple * -(-PROBE // spec.input.multiple)
    sides: tuple[int, ...] = spec.input.size or (side, side)
    if spec.input.takes_volumes:
        sides = (PROBE_DEPTH, *sides)
    logits = 1 if spec.output.activation == "sigmoid" else len(spec.classes)
    try:
        with memory_is_a_limit(), torch.inference_mode():
            answer = network(torch.zeros(1, channels, *sides))
    except (RuntimeError, ValueError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{where}: the network does not take {channels} channels ({reason:.80})") from error
    per_picture = answer.ndim == 2
    unit = "picture" if per_picture else "pixel"
    if answer.shape != ((1, logits) if per_picture else (1, logits, *sides)):
        raise ModelError(
            f"{where}: the network answers {answer.shape[1]} logits a {unit}, "
            f"{len(spec.classes)} classes with {spec.output.activation} need {logits}"
        )
    if per_picture != (spec.task == "classification") or spec.output.stride != 1:
        raise ModelError(
            f"{where}: the network answers for every {unit}, and not as {spec.task} at "
            f"1/{spec.output.stride} of the resolution: correct the description"
        )
    if not answer.isfinite().all():
        raise ModelError(f"{where}: the network answers NaN or infinity to a blank picture")


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Fills a network with stored weights of any float dtype, on the CPU.

    Raises ModelError unless all fit and are finite.
    """
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
        _check_values(name, weights[name], where)
    network.load_state_dict({k: v.float() for k, v in weights.items() if k in wanted}, strict=False)


def _check_values(name: str, tensor: Tensor, where: str) -> None:
    if tensor.dtype not in FLOATS or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ModelError(f"{where}: {name} is stored as {tensor.dtype}; give floats of 16 to 64 bits")
    if not tensor.float().isfinite().all():
        raise ModelError(f"{where}: {name} holds NaN or infinity")


def fold(network: nn.Module) -> None:
    """Folds the batch norms of a network in evaluation mode, in place, as far as its parts know how."""
    fold_batch_norms(network)
    # The parts of a module come before it.
    for module in reversed(list(network.modules())):
        if callable(own := getattr(module, "fold", None)):
            own()


def fold_batch_norms(network: nn.Module) -> None:
    """Multiplies each batch norm that directly follows a convolution in a Sequential into it, in place."""
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        names = list(module._modules)
        for first, second in pairwise(names):
            convolution, norm = module._modules[first], module._modules[second]
            if isinstance(convolution, CONVOLUTIONS) and isinstance(norm, BATCH_NORMS):
                module._modules[first] = fuse_conv_bn_eval(convolution, norm)
                module._modules[second] = nn.Identity()
