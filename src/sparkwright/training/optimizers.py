"""Optimisers on flat tensors, in place; they keep no state of their own, so that a sync sees all there is.

The arithmetic is torch's fused one: a step reads and writes each vector once.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from sparkwright.training.config import TrainingConfig
from sparkwright.training.flat import Flat

__all__ = ["Adam", "Optimizer", "Sgd", "make_optimizer"]


class Optimizer(ABC):
    """Changes a replica's weights, given their gradient.

    Args:
        decay: L2 penalty of the weights that decay applies to.
    """

    slots: int
    """How many vectors of state it needs, each as long as the weights."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def update(self, flat: Flat, rate: float, step: int) -> None:
        """Take one step; `step` counts from 1, as Adam's bias correction does."""
        if not self.decay:
            return self._step(flat.state_SN, flat.gradient_N, rate, step, 0.0)
        for part, decay in ((slice(flat.decayed), self.decay), (slice(flat.decayed, None), 0.0)):
            self._step(flat.state_SN[:, part], flat.gradient_N[part], rate, step, decay)
        return None

    @abstractmethod
    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, decay: float) -> None:
        """Take one step of weights that have one decay."""


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD`` (Sutskever et al. 2013)."""

    def __init__(self, decay: float, momentum: float, nesterov: bool) -> None:
        super().__init__(decay)
        self.momentum = momentum
        self.nesterov = nesterov
        self.slots = 1 if momentum else 0

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, decay: float) -> None:  # noqa: ARG002
        sgd(
            [state_SN[0]],
            [gradient_N],
            [state_SN[1] if self.momentum else None],
            weight_decay=decay,
            momentum=self.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=False,
            has_sparse_grad=False,
            foreach=False,
            fused=True,
        )


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as ``torch.optim.Adam``; `decoupled` makes it AdamW (Loshchilov and Hutter 2019)."""

    slots = 2
    beta2 = 0.999
    epsilon = 1e-8

    def __init__(self, decay: float, beta1: float, decoupled: bool) -> None:
        super().__init__(decay)
        self.beta1 = beta1
        self.decoupled = decoupled

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, decay: float) -> None:
        weights_N, mean_N, square_N = state_SN
        adam(
            [weights_N],
            [gradient_N],
            [mean_N],
            [square_N],
            [],
            [torch.tensor(step - 1.0)],  # adam counts on by itself
            decoupled_weight_decay=self.decoupled,
            beta1=self.beta1,
            beta2=self.beta2,
            lr=rate,
            weight_decay=decay,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
            foreach=False,
            fused=True,
        )


def make_optimizer(config: TrainingConfig) -> Optimizer:
    """Return the optimiser that `config` names."""
    if config.optimizer == "sgd":
        return Sgd(config.decay, config.momentum, config.nesterov)
    return Adam(config.decay, config.momentum, decoupled=config.optimizer == "adamw")
