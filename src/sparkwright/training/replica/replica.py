"""A replica: one copy of the weights that trains on its own shard."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.errors import NotFiniteError
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.batch_norm import hold
from sparkwright.training.replica.buckets import bucketed
from sparkwright.training.replica.flat import flatten
from sparkwright.training.replica.health import Health
from sparkwright.training.replica.layer_rates import rate_factors
from sparkwright.training.replica.optimizers import clip, make_optimizer
from sparkwright.training.replica.passes import Passes
from sparkwright.training.replica.sampling import draw_balanced
from sparkwright.training.replica.unfreezing import first_epochs, hold_until
from sparkwright.training.replica.weight_average import WeightAverage
from sparkwright.training.rows.ahead import Ahead
from sparkwright.training.rows.kept import Kept
from sparkwright.training.rows.readers import NUMBERS, Draw, Inputs, Reader
from sparkwright.training.tasks import Task

__all__ = ["Replica", "Shard", "batch_sizes", "derived_seed"]

_MEASURED_AT_ONCE = 1024  # rows, about
_KEYS_TOLD = 32  # of a batch, in an error
_UNWATCHED = contextlib.nullcontext()
_WAITING = ("outputs", "targets", "weights")


@dataclass(frozen=True)
class Shard:
    """A replica's rows of the sides that it trains on, or is validated on.

    Attributes:
        x: What is kept of all rows of the replica, in the order of arrival.
        y_N: Targets, as the task defines them.
        w_N: Weights of rows, float32.
        order: Indices of this shard's rows, sorted by the hash of their content: the order that results depend on.
        key_N: That hash of each row, int64.
        reader: Makes the network's inputs of rows.
        share_N: What share of an epoch each row is to have, in any unit; None: all the same, each row once.
    """

    x: Kept
    y_N: Tensor
    w_N: Tensor
    order: NDArray[np.int64]
    key_N: NDArray[np.int64]
    reader: Reader = NUMBERS
    share_N: Tensor | None = None

    def dealt(self, rng: np.random.Generator) -> Tensor:
        """Return the rows of an epoch in its order, as many as the shard has."""
        if self.share_N is None:
            return torch.from_numpy(self.order[rng.permutation(len(self.order))])
        return torch.from_numpy(draw_balanced(self.order, self.y_N.numpy(), self.share_N.numpy(), rng))

    def batch(self, rows: Tensor, draw: Draw | None = None) -> Inputs:
        """Return what the network takes of some rows: in training with the draws of a step, else as in scoring."""
        index = rows.numpy()
        return self.reader.batch(self.x.take(index), self.key_N[index], draw)


def batch_sizes(rows: int, steps: int) -> NDArray[np.int64]:
    """Return how many of a shard's rows each step of an epoch takes: as evenly as possible."""
    return np.diff(np.arange(steps + 1) * rows // steps)


def derived_seed(*parts: int | str) -> int:
    """Return a seed of 63 bits that depends on all parts."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _may_draw(layer: nn.Module) -> bool:
    """Whether a layer's output may be random in training; of layers that are not torch's nobody knows."""
    known = type(layer).__module__.split(".")[0] in ("torch", "sparkwright")
    return not known or bool(getattr(layer, "p", 0) or getattr(layer, "dropout", 0))


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
        passes: How the module computes.
        average: What keeps a mean of the weights.
        step: The one it is in or took last, counted over all epochs from 1; 0 before the first. A worker's pulse.
        differs: Whether its state differs from the other replicas' after a sync too.
        apart: Whether its running statistics do, until the epoch ends.
        health: What looks at its layers; None: nothing does.
        loss_sum: Sum of the losses of this epoch's rows, each as it was when the row was trained on.
        sums: The task's sums over this epoch's rows, likewise; whole after `end_epoch`.
    """

    def __init__(self, index: int, module: nn.Module, shard: Shard, task: Task, config: TrainingConfig) -> None:
        self.index = index
        self.module = module
        self.shard = shard
        self.step = 0
        self.differs = False
        self.health: Health | None = None
        self.loss_sum = 0.0
        self.sums = torch.zeros(task.sums, dtype=torch.float64)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # outputs, targets, weights: not yet in `sums`
        self._task = task
        self._seed = config.seed
        self._rate = config.rate
        self._retried = config.on_not_finite == "retry"
        self._optimizer = make_optimizer(config)
        self.average = WeightAverage(config)
        self._limits = config.clip_norm, config.clip_value
        self.passes = Passes(module, config, index)
        self._held = config.batch_norm == "frozen"
        slots = self._optimizer.slots + self.average.slots
        self._begins = first_epochs(module, config.unfreeze)
        self.flat = flatten(module, slots, rate_factors(module, config), self._begins, moving=not self._held)
        self._groups = self.flat.groups
        self.apart = config.batch_norm == "local" and self.flat.trained < len(self.flat.weights_N)
        self.average.start(self.flat)
        self._draws = any(map(_may_draw, module.modules()))
        self._batches: list[Tensor] = []
        self._epoch = 0
        self._ahead = config.threads if shard.reader.ahead else 0
        self._inputs: Callable[[int], Inputs] = self._making(1, 0)

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Deal the shard's rows over the steps of an epoch, evenly and in an order of the epoch's own."""
        self._epoch = epoch
        rng = np.random.default_rng(derived_seed("order", self._seed, epoch, self.index))
        order = self.shard.dealt(rng)
        sizes = batch_sizes(len(order), steps)
        if self.shard.x.lengths is not None:
            order = torch.from_numpy(bucketed(order.numpy(), self.shard.x.lengths, sizes, rng))
        self._batches = list(torch.split(order, sizes.tolist()))
        self._inputs = self._making(epoch, steps)
        self.loss_sum = 0.0
        self.sums.zero_()
        self._waiting.clear()
        self.module.train()
        if self._held:
            hold(self.module)
        if self._begins:
            hold_until(self.module, self._begins, epoch)
            groups = [replace(group, before=(group.begins - 1) * steps) for group in self._groups]
            self.flat = replace(self.flat, groups=tuple(group for group in groups if group.begins <= epoch))

    def _making(self, epoch: int, steps: int) -> Callable[[int], Inputs]:
        """Return what gives the inputs of a batch of the epoch, made ahead where that takes long."""
        shard, batches, seed, index = self.shard, self._batches, self._seed, self.index  # a thread holds no replica

        def make(number: int) -> Inputs:
            if not len(batches[number]):
                return torch.empty(0)
            return shard.batch(batches[number], Draw(seed, epoch, index, (epoch - 1) * steps + number + 1))

        return Ahead(make, steps, self._ahead).take if self._ahead else make

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
        size = len(batch)
        self.flat.gradient_N.zero_()
        if not size:
            return
        if self._draws:
            self.passes.seed(derived_seed("dropout", self._seed, self.index, step))
        mixed = self.shard.reader.mixing(size, Draw(self._seed, self._epoch, self.index, step))
        share, others = (1.0, batch) if mixed is None else (mixed[0], batch[mixed[1]])
        for part, own in self.passes.parts(self._inputs(number), size):
            self._backward(own, batch[part], step, size, share, others[part])

    def _backward(self, inputs: Inputs, rows: Tensor, step: int, of: int, share: float, others: Tensor) -> None:
        """Add the gradient of some rows of a batch of `of`; they are blended with `others`, if `share` is below 1."""
        with _UNWATCHED if self.health is None else self.health.forward(step):
            output = self.passes(inputs)
        y_B, w_B = self.shard.y_N.index_select(0, rows), self.shard.w_N.index_select(0, rows)
        loss = self._task.loss(output, y_B, w_B)
        if share < 1:
            y, w = self.shard.y_N.index_select(0, others), self.shard.w_N.index_select(0, others)
            loss = share * loss + (1 - share) * self._task.loss(output, y, w)
        self._trained_on(rows, loss.item(), output.detach(), y_B, w_B)
        size = len(rows)
        (loss if size == of else loss * (size / of)).backward()  # type: ignore[no-untyped-call]

    def _trained_on(self, rows: Tensor, loss: float, output_BO: Tensor, y_B: Tensor, w_B: Tensor) -> None:
        """Count the loss and the outputs of rows."""
        # With a retry all go on to the epoch's end, where the sums tell every process alike.
        if not math.isfinite(loss) and not self._retried:
            raise NotFiniteError(self._not_finite(loss, rows, self.step))
        self.loss_sum += loss * len(rows)
        self._waiting.append((output_BO, y_B, w_B))
        if len(self._waiting) * len(rows) >= _MEASURED_AT_ONCE:
            self._measure()

    def outputs(self, shard: Shard, rows: Tensor) -> Tensor:
        """Return the outputs for some rows of a shard, as in scoring."""
        return self.passes.exactly(shard.batch(rows))

    def update(self, rate: float, step: int) -> None:
        """Let the optimiser take a step along the gradient."""
        with _UNWATCHED if self.health is None else self.health.update(rate, step, self._epoch):
            clip(self.flat.gradient_N, *self._limits)
            self._optimizer.update(self.flat, rate, step)
        self.average.after_step(self.flat, step)

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
        if self.apart and not self.differs:
            own["statistics"] = self.flat.statistics_SM.clone()
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
        elif self.apart:
            self.flat.statistics_SM.copy_(carried["statistics"])

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
