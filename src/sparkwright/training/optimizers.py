"""Optimisers on flat tensors, in place; they keep no state of their own, so that a sync sees all there is."""

import math
from abc import ABC, abstractmethod

import torch

from sparkwright.training.config import TrainingConfig
from sparkwright.training.flat import Flat

__all__ = ["Adam", "Optimizer", "Sgd", "make_optimizer"]


class Optimizer(ABC):
    """Changes a replica's weights, given their gradient."""

    slots: int
    """How many vectors of state it needs, each as long as the weights."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    @abstractmethod
    def update(self, flat: Flat, rate: float, step: int) -> None:
        """Take one step; the gradient may be overwritten. `step` counts from 1, as Adam's bias correction does."""

    def _add_penalty(self, flat: Flat) -> None:
        if self.decay:
            flat.gradient_N[: flat.decayed].add_(flat.weights_N[: flat.decayed], alpha=self.decay)


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD`` (Sutskever et al. 2013)."""

    def __init__(self, decay: float, momentum: float, nesterov: bool) -> None:
        super().__init__(decay)
        self.momentum = momentum
        self.nesterov = nesterov
        self.slots = 1 if momentum else 0

    def update(self, flat: Flat, rate: float, step: int) -> None:  # noqa: ARG002
        self._add_penalty(flat)
        direction = gradient = flat.gradient_N
        if self.momentum:
            velocity = flat.state_SN[1]
            velocity.mul_(self.momentum).add_(gradient)
            direction = gradient.add_(velocity, alpha=self.momentum) if self.nesterov else velocity
        flat.weights_N.sub_(direction, alpha=rate)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as ``torch.optim.Adam``; `decoupled` makes it AdamW (Loshchilov and Hutter 2019)."""

    slots = 2
    beta2 = 0.999
    epsilon = 1e-8

    def __init__(self, decay: float, beta1: float, decoupled: bool) -> None:
        super().__init__(decay)
        self.beta1 = beta1
        self.decoupled = decoupled

    def update(self, flat: Flat, rate: float, step: int) -> None:
        if not self.decoupled:
            self._add_penalty(flat)
        elif self.decay:
            flat.weights_N[: flat.decayed].mul_(1 - rate * self.decay)
        _, mean, square = flat.state_SN
        mean.lerp_(flat.gradient_N, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(flat.gradient_N, flat.gradient_N, value=1 - self.beta2)
        root = torch.sqrt(square, out=flat.gradient_N)  # the gradient's memory is free now
        root.div_(math.sqrt(1 - self.beta2**step)).add_(self.epsilon)
        flat.weights_N.addcdiv_(mean, root, value=-rate / (1 - self.beta1**step))


def make_optimizer(config: TrainingConfig) -> Optimizer:
    """Return the optimiser that `config` names."""
    if config.optimizer == "sgd":
        return Sgd(config.decay, config.momentum, config.nesterov)
    return Adam(config.decay, config.momentum, decoupled=config.optimizer == "adamw")
