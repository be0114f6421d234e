"""The training loop: plain torch, without Spark, the same wherever replicas are hosted.

Every process of a training runs it with the replicas that it hosts; what it must know of the others comes as sums over
the transport's fixed tree, so that all processes decide alike.
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.errors import InputError
from sparkwright.events import Emit, EpochEnded, ignore
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica import Replica, Shard
from sparkwright.training.schedule import rate_at
from sparkwright.training.strategies._base import Strategy
from sparkwright.training.tasks import Task
from sparkwright.training.transports._base import Transport

__all__ = ["BestEpoch", "Fitted", "Loop", "cpu_threads"]

_MEASURED_AT_ONCE = 1024  # validation rows in a forward pass; part of the result, as kernels may round by size


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads inside, and leave its random numbers outside as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)


class BestEpoch:
    """Finds the best epoch and says when to stop looking.

    Args:
        direction: ``"min"`` if less is better, ``"max"`` if more is.
        patience: Epochs without a better value after which to stop; None never stops.

    Attributes:
        epoch: The best epoch so far; 0 before the first.
    """

    def __init__(self, direction: str, patience: int | None) -> None:
        self._sign = 1.0 if direction == "min" else -1.0
        self._patience = patience
        self._best = math.inf
        self.epoch = 0

    def see(self, epoch: int, value: float) -> bool:
        """Take an epoch's value; return whether it is the best so far. NaN never is."""
        if not self._sign * value < self._best:
            return False
        self._best, self.epoch = self._sign * value, epoch
        return True

    def exhausted(self, epoch: int) -> bool:
        """Whether patience is over after `epoch`."""
        return self._patience is not None and epoch - self.epoch >= self._patience


@dataclass(frozen=True)
class Fitted:
    """What a training of one head ends with.

    Attributes:
        module: The layers with the best weights, in inference mode.
        epoch: The epoch whose weights they are.
        history: One event for each epoch.
    """

    module: nn.Module
    epoch: int
    history: list[EpochEnded]


@dataclass
class Loop:
    """Trains replicas of one network.

    Attributes:
        config: How.
        task: Loss, targets and metrics.
        strategy: How replicas combine.
        transport: How their bytes move.
        emit: What takes an event for each epoch; called in rank 0's process.
    """

    config: TrainingConfig
    task: Task
    strategy: Strategy
    transport: Transport
    emit: Emit = ignore

    def fit(
        self,
        module: nn.Module,
        train: Mapping[int, Shard],
        validation: Mapping[int, Shard] | None = None,
    ) -> Fitted:
        """Train copies of `module`, one for each hosted replica; a collective call.

        Args:
            module: The layers with their first weights, the same in every process.
            train: Shard of each hosted replica; together they hold at least one row.
            validation: Likewise the rows that choose the best epoch; None keeps the last epoch's weights.

        Raises:
            InputError: The loss is not finite.
        """
        last = self.config.epochs
        replicas = [
            Replica(index, copy.deepcopy(module), train[index], self.task, self.config)
            for index in self.transport.hosted
        ]
        counts = self._summed([{replica.index: float(len(replica.shard.order))} for replica in replicas])[
            : self.transport.replicas
        ]
        steps = math.ceil(counts.max() / self.config.batch_size)
        best = BestEpoch(self.config.direction, self.config.patience)
        kept, history = replicas[0].flat.weights_N.clone(), []
        for epoch in range(1, last + 1):
            looks = epoch % self.config.validate_every == 0 or epoch == last
            ended = self._epoch(replicas, counts, epoch, last, steps, validation if looks else None)
            if validation is not None and looks and best.see(epoch, ended.validation[self.config.monitor]):
                ended = replace(ended, best=True)
                kept.copy_(replicas[0].flat.weights_N)
            history.append(ended)
            self.emit(ended)
            # Only a look at the validation rows can tell that patience was in vain.
            if validation is not None and looks and best.exhausted(epoch):
                break
        if best.epoch:
            replicas[0].flat.weights_N.copy_(kept)
        return Fitted(replicas[0].module.eval(), best.epoch or last, history)

    def _epoch(
        self,
        replicas: Sequence[Replica],
        counts: NDArray[np.float64],
        epoch: int,
        last: int,
        steps: int,
        validation: Mapping[int, Shard] | None,
    ) -> EpochEnded:
        started, syncing = time.perf_counter(), 0.0
        for replica in replicas:
            replica.start_epoch(epoch, steps)
        for number in range(steps):
            rate = rate_at(self.config, epoch - 1 + number / steps)
            for replica in replicas:
                replica.step(number, (epoch - 1) * steps + number + 1, rate)
            if self.strategy.due(number, steps):
                before = time.perf_counter()
                self.strategy.combine(replicas, self.transport)
                syncing += time.perf_counter() - before
        losses, trained, validated = self._measured(replicas, validation)
        seconds = time.perf_counter() - started
        if not np.isfinite(losses).all():
            raise InputError(
                f"The loss became {losses.sum()} in epoch {epoch} (replicas "
                f"{', '.join(map(str, np.flatnonzero(~np.isfinite(losses))))}). Lower `learningRate` (now "
                f"{self.config.rate}), or look for extreme values in the features."
            )
        return EpochEnded(
            epoch=epoch,
            epochs=last,
            train_loss=float(losses.sum() / counts.sum()),
            replica_losses=(losses / np.maximum(counts, 1)).tolist(),
            training={name: value for name, value in trained.items() if name != "loss"},
            validation=validated,
            learning_rate=rate_at(self.config, epoch - 1),
            rows=int(counts.sum()),
            seconds=seconds,
            sync_share=syncing / seconds,
        )

    def _measured(
        self, replicas: Sequence[Replica], validation: Mapping[int, Shard] | None
    ) -> tuple[NDArray[np.float64], dict[str, float], dict[str, float]]:
        """Return each replica's sum of losses, and the metrics of the epoch's training rows and the validation rows."""
        count, width = self.transport.replicas, self.task.sums
        sums = []
        for replica in replicas:
            replica.end_epoch()
            own = {replica.index: replica.loss_sum}
            own |= {count + place: float(value) for place, value in enumerate(replica.sums)}
            if validation is not None:
                measured = _measure(replica.module, validation[replica.index], self.task)
                own |= {count + width + place: float(value) for place, value in enumerate(measured)}
            sums.append(own)
        losses, trained, validated = np.split(self._summed(sums), [count, count + width])
        return losses, self.task.metrics(trained), self.task.metrics(validated) if validation is not None else {}

    def _summed(self, parts: Sequence[Mapping[int, float]]) -> NDArray[np.float64]:
        """Sum over all replicas vectors given by their elements: one a replica, then the task's sums of both sides."""
        vectors = []
        for part in parts:
            vector = torch.zeros(self.transport.replicas + 2 * self.task.sums, dtype=torch.float64)
            for place, value in part.items():
                vector[place] = value
            vectors.append(vector)
        summed: NDArray[np.float64] = self.transport.tree_sum(vectors).numpy()
        return summed


@torch.no_grad()
def _measure(module: nn.Module, shard: Shard, task: Task) -> Tensor:
    """Return the task's sums over a shard."""
    module.eval()
    sums = torch.zeros(task.sums, dtype=torch.float64)
    for rows in torch.split(torch.from_numpy(shard.order), _MEASURED_AT_ONCE):
        output = module(shard.x_NF.index_select(0, rows))
        sums += task.measure(output, shard.y_N.index_select(0, rows), shard.w_N.index_select(0, rows))
    return sums
