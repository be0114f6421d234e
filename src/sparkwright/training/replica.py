"""A replica: one copy of the weights that trains on its own shard."""

import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.training.config import TrainingConfig
from sparkwright.training.flat import flatten
from sparkwright.training.optimizers import make_optimizer
from sparkwright.training.tasks import Task

__all__ = ["Replica", "Shard", "derived_seed"]

_MEASURED_AT_ONCE = 1024  # rows, about


@dataclass(frozen=True)
class Shard:
    """A replica's rows of the sides that it trains on, or is validated on.

    Attributes:
        x_NF: All rows of the replica, float32, in the order of arrival; may be memory-mapped.
        y_N: Targets, as the task defines them.
        w_N: Weights of rows, float32.
        order: Indices of this shard's rows, sorted by the hash of their content: the order that results depend on.
    """

    x_NF: Tensor
    y_N: Tensor
    w_N: Tensor
    order: NDArray[np.int64]


def derived_seed(*parts: int | str) -> int:
    """Return a seed of 63 bits that depends on all parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class Replica:
    """One copy of the weights with its optimiser's state, and the shard that it trains on.

    Args:
        index: Which of the replicas it is.
        module: Its own copy of the layers; its parameters become views of `flat`.
        shard: The rows it trains on; may be empty.
        task: Loss and targets.
        config: Of the whole training.

    Attributes:
        flat: Weights and optimiser's state.
        rows: Rows trained on since the last sync.
        loss_sum: Sum of the losses of this epoch's rows, each as it was when the row was trained on.
        sums: The task's sums over this epoch's rows, likewise; whole after `end_epoch`.
    """

    def __init__(self, index: int, module: nn.Module, shard: Shard, task: Task, config: TrainingConfig) -> None:
        self.index = index
        self.module = module
        self.shard = shard
        self.rows = 0
        self.loss_sum = 0.0
        self.sums = torch.zeros(task.sums, dtype=torch.float64)
        self._outputs: list[Tensor] = []  # not yet in `sums`, with their rows
        self._rows: list[Tensor] = []
        self._task = task
        self._seed = config.seed
        self._optimizer = make_optimizer(config)
        self.flat = flatten(module, self._optimizer.slots)
        self._draws = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in module.modules())
        self._batches: list[Tensor] = []

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Deal the shard's rows over the steps of an epoch, evenly and in an order of the epoch's own."""
        rng = np.random.default_rng(derived_seed("order", self._seed, epoch, self.index))
        order = torch.from_numpy(self.shard.order[rng.permutation(len(self.shard.order))])
        bounds = [step * len(order) // steps for step in range(steps + 1)]
        self._batches = [order[start:end] for start, end in pairwise(bounds)]
        self.loss_sum = 0.0
        self.sums.zero_()
        self.module.train()

    def step(self, number: int, step: int, rate: float) -> None:
        """Train on the batch `number` of the epoch; without rows it waits. `step` counts from 1 over all epochs."""
        batch = self._batches[number]
        if not len(batch):
            return
        if self._draws:
            # Of the CPU alone: `torch.manual_seed` would look for other devices at each step.
            torch.default_generator.manual_seed(derived_seed("dropout", self._seed, self.index, step))
        shard = self.shard
        self.flat.gradient_N.zero_()
        output = self.module(shard.x_NF.index_select(0, batch))
        loss = self._task.loss(output, shard.y_N.index_select(0, batch), shard.w_N.index_select(0, batch))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.update(self.flat, rate, step)
        self.rows += len(batch)
        self.loss_sum += loss.item() * len(batch)
        self._outputs.append(output.detach())
        self._rows.append(batch)
        if len(self._outputs) * len(batch) >= _MEASURED_AT_ONCE:
            self._measure()

    def end_epoch(self) -> None:
        """Bring `sums` up to date."""
        if self._outputs:
            self._measure()

    def _measure(self) -> None:
        """Measure some steps' outputs at once: step by step it would cost a tenth of the training."""
        rows = torch.cat(self._rows)
        y_B, w_B = self.shard.y_N.index_select(0, rows), self.shard.w_N.index_select(0, rows)
        self.sums += self._task.measure(torch.cat(self._outputs), y_B, w_B)
        self._outputs.clear()
        self._rows.clear()
