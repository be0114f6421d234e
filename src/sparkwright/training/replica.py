"""A replica: one copy of the weights that trains on its own shard."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.errors import NotFiniteError
from sparkwright.training.config import TrainingConfig
from sparkwright.training.flat import flatten
from sparkwright.training.optimizers import make_optimizer
from sparkwright.training.rows.store import FeatureFile
from sparkwright.training.tasks import Task

__all__ = ["Replica", "Shard", "batch_sizes", "derived_seed"]

_MEASURED_AT_ONCE = 1024  # rows, about
_KEYS_TOLD = 32  # of a batch, in an error
_WAITING = ("outputs", "targets", "weights")


@dataclass(frozen=True)
class Shard:
    """A replica's rows of the sides that it trains on, or is validated on.

    Attributes:
        x_NF: All rows of the replica, float32, in the order of arrival; may be memory-mapped.
        y_N: Targets, as the task defines them.
        w_N: Weights of rows, float32.
        order: Indices of this shard's rows, sorted by the hash of their content: the order that results depend on.
        key_N: That hash of each row, int64, for messages.
        file: The file that `x_NF` lies in; None in memory.
    """

    x_NF: Tensor
    y_N: Tensor
    w_N: Tensor
    order: NDArray[np.int64]
    key_N: NDArray[np.int64]
    file: FeatureFile | None = None

    def take(self, rows: Tensor) -> Tensor:
        """Return the features of some rows."""
        if self.file is None:
            return self.x_NF.index_select(0, rows)
        return torch.from_numpy(self.file.take(rows.numpy()))


def batch_sizes(rows: int, steps: int) -> NDArray[np.int64]:
    """Return how many of a shard's rows each step of an epoch takes: as evenly as possible."""
    return np.diff(np.arange(steps + 1) * rows // steps)


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
        step: The one it is in or took last, counted over all epochs from 1; 0 before the first. A worker's pulse.
        differs: Whether its state differs from the other replicas' after a sync too.
        loss_sum: Sum of the losses of this epoch's rows, each as it was when the row was trained on.
        sums: The task's sums over this epoch's rows, likewise; whole after `end_epoch`.
    """

    def __init__(self, index: int, module: nn.Module, shard: Shard, task: Task, config: TrainingConfig) -> None:
        self.index = index
        self.module = module
        self.shard = shard
        self.step = 0
        self.differs = False
        self.loss_sum = 0.0
        self.sums = torch.zeros(task.sums, dtype=torch.float64)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # outputs, targets, weights: not yet in `sums`
        self._task = task
        self._seed = config.seed
        self._rate = config.rate
        self._retried = config.on_not_finite == "retry"
        self._optimizer = make_optimizer(config)
        self.flat = flatten(module, self._optimizer.slots)
        self._draws = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in module.modules())
        self._batches: list[Tensor] = []

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Deal the shard's rows over the steps of an epoch, evenly and in an order of the epoch's own."""
        rng = np.random.default_rng(derived_seed("order", self._seed, epoch, self.index))
        order = torch.from_numpy(self.shard.order[rng.permutation(len(self.shard.order))])
        self._batches = list(torch.split(order, batch_sizes(len(order), steps).tolist()))
        self.loss_sum = 0.0
        self.sums.zero_()
        self._waiting.clear()
        self.module.train()

    def train(self, numbers: range, first_step: int, rates: Sequence[float]) -> None:
        """Take the steps `numbers` of the epoch; `first_step` is the first one's number over all epochs, from 1."""
        for step, (number, rate) in enumerate(zip(numbers, rates, strict=True), first_step):
            self.backward(number, step)
            if len(self._batches[number]):  # without rows it waits
                self.update(rate, step)

    def backward(self, number: int, step: int) -> None:
        """Compute the gradient of the batch `number` of the epoch; without rows it is 0.

        Raises:
            NotFiniteError: The loss is not finite, and the training is to stop then.
        """
        self.step = step
        batch = self._batches[number]
        self.flat.gradient_N.zero_()
        if not len(batch):
            return
        if self._draws:
            # Of the CPU alone: `torch.manual_seed` would look for other devices at each step.
            torch.default_generator.manual_seed(derived_seed("dropout", self._seed, self.index, step))
        shard = self.shard
        output = self.module(shard.take(batch))
        y_B, w_B = shard.y_N.index_select(0, batch), shard.w_N.index_select(0, batch)
        loss = self._task.loss(output, y_B, w_B)
        value = loss.item()
        # With a retry all go on to the epoch's end, where the sums tell every process alike.
        if not math.isfinite(value) and not self._retried:
            raise NotFiniteError(self._not_finite(value, batch, step))
        loss.backward()  # type: ignore[no-untyped-call]
        self.loss_sum += value * len(batch)
        self._waiting.append((output.detach(), y_B, w_B))
        if len(self._waiting) * len(batch) >= _MEASURED_AT_ONCE:
            self._measure()

    def update(self, rate: float, step: int) -> None:
        """Let the optimiser take a step along the gradient."""
        self._optimizer.update(self.flat, rate, step)

    def carried(self) -> dict[str, Tensor]:
        """Return what is the replica's own after a sync and not known from the epoch: copies, by name."""
        own = {
            "loss_sum": torch.tensor(self.loss_sum, dtype=torch.float64),
            "sums": self.sums.clone(),
            # What is not measured yet stays so: sums depend on what is added up at once. Not as indices of rows: they
            # come in another order when they come again.
            "lengths": torch.tensor([len(output) for output, _, _ in self._waiting], dtype=torch.int64),
        }
        if self._waiting:
            own |= dict(zip(_WAITING, map(torch.cat, zip(*self._waiting, strict=True)), strict=True))
        return own | ({"state": self.flat.state_SN.clone()} if self.differs else {})

    def restore(self, carried: Mapping[str, Tensor]) -> None:
        """Become what the replica was when `carried` was taken; after `start_epoch`."""
        self.loss_sum = float(carried["loss_sum"])
        self.sums = carried["sums"].clone()
        lengths = carried["lengths"].tolist()
        parts = [torch.split(carried[name], lengths) for name in _WAITING] if lengths else []
        self._waiting = list(zip(*parts, strict=True)) if parts else []
        if self.differs:
            self.flat.state_SN.copy_(carried["state"])

    def _not_finite(self, value: float, batch: Tensor, step: int) -> str:
        keys = [f"{key:016x}" for key in self.shard.key_N[batch.numpy()].astype(np.uint64)]
        more = f" and {len(keys) - _KEYS_TOLD} more" if len(keys) > _KEYS_TOLD else ""
        return (
            f"The loss became {value} in step {step} of replica {self.index}. Lower `learningRate` (now {self._rate}), "
            f"or look for extreme values in the features; the batch's rows have the keys "
            f"{', '.join(keys[:_KEYS_TOLD])}{more}."
        )

    def end_epoch(self) -> None:
        """Bring `sums` up to date."""
        if self._waiting:
            self._measure()

    def _measure(self) -> None:
        """Measure some steps' outputs at once: step by step it would cost a tenth of the training."""
        self.sums += self._task.measure(*map(torch.cat, zip(*self._waiting, strict=True)))
        self._waiting.clear()
