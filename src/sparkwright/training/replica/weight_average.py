"""Means of the weights over a training, which generalise better than the last weights alone.

The mean is the last row of `Flat.state_SN`, so that syncs combine it and checkpoints hold it as they do the optimiser's
state.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.flat import Flat

__all__ = ["WeightAverage"]


class WeightAverage:
    """Keeps the mean of a replica's weights that the configuration asks for, if any.

    Args:
        config: Of the training.

    Attributes:
        slots: How many rows of `Flat.state_SN` it needs.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.slots = 0 if config.weight_average is None else 1
        self._kind = config.weight_average
        self._decay = config.ema_decay
        self._begins = max(1, math.ceil(config.swa_from * config.epochs))  # the first epoch whose end counts

    def start(self, flat: Flat) -> None:
        """Begin with the first weights."""
        if self.slots:
            flat.state_SN[-1].copy_(flat.weights_N)

    def after_step(self, flat: Flat, step: int) -> None:
        """Take the weights after a step, counted from 1."""
        if self._kind == "ema":
            # The first weights are random: a mean of few must forget them sooner.
            flat.state_SN[-1].lerp_(flat.weights_N, 1 - min(self._decay, (1 + step) / (10 + step)))

    def after_epoch(self, flat: Flat, epoch: int) -> None:
        """Take the weights after an epoch, counted from 1, when all replicas have the same."""
        if self._kind == "swa":
            # Until it begins, the mean is that of the last weights alone.
            flat.state_SN[-1].lerp_(flat.weights_N, 1 / max(1, epoch - self._begins + 1))

    def result(self, flat: Flat) -> Tensor:
        """Return the weights that are validated and kept: a view."""
        return flat.state_SN[-1] if self.slots else flat.weights_N

    @contextmanager
    def in_place(self, flat: Flat) -> Iterator[None]:
        """Let the module compute with the mean inside."""
        if not self.slots:
            yield
            return
        own_N = flat.weights_N.clone()
        flat.weights_N.copy_(flat.state_SN[-1])
        try:
            yield
        finally:
            flat.weights_N.copy_(own_N)
