"""Optimisers on flat tensors, in place; they keep no state of their own, so that a sync sees all there is.

The arithmetic is torch's, the fused one where there is one: a step reads and writes each vector once. LAMB and LARS,
which torch lacks, look at each tensor of the network by itself.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.optim.adadelta import adadelta
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.flat import Flat, Group

__all__ = ["Adadelta", "Adagrad", "Adam", "Lamb", "Lars", "Optimizer", "RMSprop", "Sgd", "clip", "make_optimizer"]


class Optimizer(ABC):
    """Changes a replica's weights, given their gradient.

    Args:
        decay: L2 penalty of the weights that decay applies to.
    """

    slots: int
    """How many vectors of state it needs, each as long as the weights."""

    layerwise = False
    """Whether each tensor is stepped by itself, instead of a whole group at once."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def update(self, flat: Flat, rate: float, step: int) -> None:
        """Take one step; `step` counts from 1, as Adam's bias correction does."""
        for group in flat.groups if self.decay or self.layerwise else flat.undecayed:
            for part in group.tensors if self.layerwise else (group.part,):
                state_SN = flat.state_SN[: 1 + self.slots, part]
                self._step(state_SN, flat.gradient_N[part], rate * group.rate_factor, step - group.before, group)

    def _decay(self, group: Group) -> float:
        return self.decay if group.decays else 0.0

    @abstractmethod
    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, group: Group) -> None:
        """Take one step of weights of one group."""


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD`` (Sutskever et al. 2013)."""

    def __init__(self, decay: float, momentum: float, nesterov: bool) -> None:
        super().__init__(decay)
        self.momentum = momentum
        self.nesterov = nesterov
        self.slots = 1 if momentum else 0

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, group: Group) -> None:  # noqa: ARG002
        self._descend(state_SN, gradient_N, rate, self._decay(group))

    def _descend(self, state_SN: Tensor, gradient_N: Tensor, rate: float, decay: float) -> None:
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


class Lars(Sgd):
    """SGD with a rate for each tensor, by the norms of its weights and gradient, for large batches (You et al. 2017).

    What has no decay (biases, norms' weights) is stepped as SGD does, as is usual.
    """

    layerwise = True
    trust = 0.001
    """How long a gradient is at rate 1, as a share of its weights' norm."""

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, group: Group) -> None:  # noqa: ARG002
        if group.decays:
            weight, gradient = state_SN[0].norm(), gradient_N.norm()
            factor = self.trust * _ratio(weight, gradient + self.decay * weight, otherwise=1 / self.trust)
            gradient_N = gradient_N.add(state_SN[0], alpha=self.decay).mul_(factor)
        self._descend(state_SN, gradient_N, rate, 0.0)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as ``torch.optim.Adam``; `decoupled` makes it AdamW (Loshchilov and Hutter 2019)."""

    slots = 2

    def __init__(self, decay: float, beta1: float, beta2: float, epsilon: float, decoupled: bool) -> None:
        super().__init__(decay)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.decoupled = decoupled

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, group: Group) -> None:
        weights_N, mean_N, square_N = state_SN
        adam(
            [weights_N],
            [gradient_N],
            [mean_N],
            [square_N],
            [],
            [_taken(step, weights_N)],
            decoupled_weight_decay=self.decoupled,
            beta1=self.beta1,
            beta2=self.beta2,
            lr=rate,
            weight_decay=self._decay(group),
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
            foreach=False,
            fused=True,
        )


class Lamb(Optimizer):
    """Adam with changes as long as their tensor's norm times the rate, for large batches (You et al. 2020).

    What has no decay (biases, norms' weights) is stepped as Adam does, as is usual.
    """

    slots = 2
    layerwise = True

    def __init__(self, decay: float, beta1: float, beta2: float, epsilon: float) -> None:
        super().__init__(decay)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, group: Group) -> None:
        weights_N, mean_N, square_N = state_SN
        mean_N.lerp_(gradient_N, 1 - self.beta1)
        square_N.mul_(self.beta2).addcmul_(gradient_N, gradient_N, value=1 - self.beta2)
        deviation_N = (square_N / (1 - self.beta2**step)).sqrt_().add_(self.epsilon)
        change_N = (mean_N / (1 - self.beta1**step)).div_(deviation_N)
        if group.decays:
            change_N.add_(weights_N, alpha=self.decay)
            change_N.mul_(_ratio(weights_N.norm(), change_N.norm(), otherwise=1.0))
        weights_N.add_(change_N, alpha=-rate)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012) with momentum, as ``torch.optim.RMSprop``."""

    def __init__(self, decay: float, momentum: float, beta2: float, epsilon: float) -> None:
        super().__init__(decay)
        self.momentum, self.beta2, self.epsilon = momentum, beta2, epsilon
        self.slots = 2 if momentum else 1

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, group: Group) -> None:
        rmsprop(
            [state_SN[0]],
            [gradient_N],
            [state_SN[1]],
            [],
            [state_SN[2]] if self.momentum else [],
            [_taken(step, state_SN)],
            foreach=False,
            lr=rate,
            alpha=self.beta2,
            eps=self.epsilon,
            weight_decay=self._decay(group),
            momentum=self.momentum,
            centered=False,
        )


class Adadelta(Optimizer):
    """Adadelta (Zeiler 2012), as ``torch.optim.Adadelta``."""

    slots = 2

    def __init__(self, decay: float, beta2: float, epsilon: float) -> None:
        super().__init__(decay)
        self.beta2, self.epsilon = beta2, epsilon

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, group: Group) -> None:
        weights_N, square_N, change_N = state_SN
        adadelta(
            [weights_N],
            [gradient_N],
            [square_N],
            [change_N],
            [_taken(step, weights_N)],
            foreach=False,
            lr=rate,
            rho=self.beta2,
            eps=self.epsilon,
            weight_decay=self._decay(group),
            maximize=False,
        )


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011), as ``torch.optim.Adagrad``."""

    slots = 1

    def __init__(self, decay: float, epsilon: float) -> None:
        super().__init__(decay)
        self.epsilon = epsilon

    def _step(self, state_SN: Tensor, gradient_N: Tensor, rate: float, step: int, group: Group) -> None:
        weights_N, square_N = state_SN
        adagrad(
            [weights_N],
            [gradient_N],
            [square_N],
            [_taken(step, weights_N)],
            fused=True,
            foreach=False,
            lr=rate,
            weight_decay=self._decay(group),
            lr_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )


def clip(gradient_N: Tensor, norm: float | None, value: float | None) -> None:
    """Limit each element of a gradient to `value`, then its Euclidean norm to `norm`, in place, as torch does."""
    if value is not None:
        gradient_N.clamp_(-value, value)
    if norm is not None:
        gradient_N.mul_((norm / (gradient_N.norm() + 1e-6)).clamp_(max=1.0))


def make_optimizer(config: TrainingConfig) -> Optimizer:
    """Return the optimiser that `config` names."""
    decay, beta1, beta2, epsilon = config.decay, config.momentum, config.squares_decay, config.smallest
    match config.optimizer:
        case "sgd":
            return Sgd(decay, config.momentum, config.nesterov)
        case "lars":
            return Lars(decay, config.momentum, config.nesterov)
        case "lamb":
            return Lamb(decay, beta1, beta2, epsilon)
        case "rmsprop":
            return RMSprop(decay, config.momentum, beta2, epsilon)
        case "adadelta":
            return Adadelta(decay, beta2, epsilon)
        case "adagrad":
            return Adagrad(decay, epsilon)
        case _:
            return Adam(decay, beta1, beta2, epsilon, decoupled=config.optimizer == "adamw")


def _taken(step: int, like: Tensor) -> Tensor:
    """Return how many steps were taken before `step`, as torch's optimisers, which count on by themselves, want it."""
    return torch.tensor(step - 1.0, device=like.device)


def _ratio(norm: Tensor, by: Tensor, *, otherwise: float) -> Tensor:
    """Return `norm` / `by`, or `otherwise` where either is 0: without waiting for the device."""
    return torch.where((norm > 0) & (by > 0), norm / by, otherwise)
