"""All that a replica learns in one tensor, so that a sync moves one tensor and an optimiser's step is a few calls."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Flat", "flatten"]

_ALIGNMENT = 16  # float32s in 64 bytes: kernels may round differently on tensors that start elsewhere


@dataclass(frozen=True)
class Flat:
    """Weights, gradient and optimiser's state of one replica.

    Attributes:
        state_SN: Float32 of shape (1 + slots, N): the weights, then the optimiser's state. What a sync combines.
        gradient_N: The weights' gradient.
        decayed: How many of the first weights decay applies to: those of parameters of two dimensions and more.
    """

    state_SN: Tensor
    gradient_N: Tensor
    decayed: int

    @property
    def weights_N(self) -> Tensor:
        """The weights: a view."""
        return self.state_SN[0]


def flatten(module: nn.Module, slots: int) -> Flat:
    """Make all trainable parameters of `module` views of one vector, and their gradients views of another.

    Args:
        module: Its parameters keep their values.
        slots: How many vectors of state the optimiser needs; zero at first.
    """
    parameters = sorted((p for p in module.parameters() if p.requires_grad), key=lambda p: p.dim() < 2)
    starts, size, decayed = [], 0, 0
    for parameter in parameters:
        starts.append(size)
        size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
        if parameter.dim() >= 2:
            decayed = size
    flat = Flat(torch.zeros(1 + slots, size), torch.zeros(size), decayed)
    for parameter, start in zip(parameters, starts, strict=True):
        part = slice(start, start + parameter.numel())
        flat.weights_N[part] = parameter.detach().reshape(-1)
        parameter.data = flat.weights_N[part].view(parameter.shape)
        parameter.grad = flat.gradient_N[part].view(parameter.shape)
    return flat
