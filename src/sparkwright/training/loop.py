"""The training loop: plain torch, without Spark, the same wherever replicas are hosted.

Every process of a training runs it with the replicas that it hosts; what it must know of the others comes as sums over
the transport's fixed tree, so that all processes decide alike.
"""

import contextlib
import copy
import dataclasses
import math
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.errors import NotFiniteError
from sparkwright.events import Emit, EpochEnded, Warned, ignore
from sparkwright.training.checkpoints import Checkpoints, Paused, Snapshot
from sparkwright.training.config import TrainingConfig
from sparkwright.training.pace import Pace
from sparkwright.training.replica.health import Health
from sparkwright.training.replica.replica import Replica, Shard, batch_sizes
from sparkwright.training.replica.schedule import plateau_drops, rate_at
from sparkwright.training.rewind import HALVINGS, copied, packed, unpacked
from sparkwright.training.strategies._base import Interval, Strategy
from sparkwright.training.tasks import Task
from sparkwright.training.transports._base import Transport

__all__ = ["BestEpoch", "Fitted", "Loop", "Place", "cpu_threads", "finished"]

T = TypeVar("T")

Place = tuple[int, int]
"""Where a training is between two syncs: the epoch, and how many of its batches are done."""

_DIVERGED = 1000.0  # where a halved rate would come too late for the next epoch


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


def finished(steps: Generator[Place, None, T]) -> T:
    """Take all steps of a training, one after the other; return what it ends with."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class BestEpoch:
    """Finds the best epoch and says when to stop looking.

    Args:
        direction: ``"min"`` if less is better, ``"max"`` if more is.
        patience: Epochs without a better value after which to stop; None never stops.

    Attributes:
        epoch: The best epoch so far; 0 before the first.
        value: What it had.
    """

    def __init__(self, direction: str, patience: int | None) -> None:
        self._sign = 1.0 if direction == "min" else -1.0
        self._patience = patience
        self.epoch = 0
        self.value = math.nan

    def see(self, epoch: int, value: float) -> bool:
        """Take an epoch's value; return whether it is the best so far. NaN never is."""
        if (self.epoch and not self._sign * value < self._sign * self.value) or math.isnan(value):
            return False
        self.epoch, self.value = epoch, value
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
        sync_every: Steps between two syncs.
    """

    module: nn.Module
    epoch: int
    history: list[EpochEnded]
    sync_every: int


@dataclass
class Loop:
    """Trains replicas of one network.

    Attributes:
        config: How.
        task: Loss, targets and metrics.
        strategy: How replicas combine.
        transport: How their bytes move.
        emit: What takes an event for each epoch; called in rank 0's process.
        checkpoints: Where the training is kept, so that it can go on; None keeps it nowhere.
        phase: Under which name.
        notes: What a checkpoint is to remember of earlier phases, as JSON can hold it.
        replica: What makes a replica of its index, layers, shard, task and configuration.
    """

    config: TrainingConfig
    task: Task
    strategy: Strategy
    transport: Transport
    emit: Emit = ignore
    checkpoints: Checkpoints | None = None
    phase: str = "selection"
    notes: Mapping[str, Any] = field(default_factory=dict)
    replica: Callable[[int, nn.Module, Shard, Task, TrainingConfig], Replica] = Replica

    def fit(
        self,
        module: nn.Module,
        train: Mapping[int, Shard],
        validation: Mapping[int, Shard] | None = None,
        saved: Snapshot | None = None,
    ) -> Fitted:
        """Train copies of `module`, one for each hosted replica; a collective call.

        Args:
            module: The layers with their first weights, the same in every process.
            train: Shard of each hosted replica; together they hold at least one row.
            validation: Likewise the rows that choose the best epoch; None keeps the last epoch's weights.
            saved: Where to go on, with the hosted replicas' own tensors; None begins.

        Raises:
            NotFiniteError: The loss is not finite.
            Paused: `checkpoints` want it so after an epoch that is not the last.
        """
        return finished(self.steps(module, train, validation, saved))

    def steps(
        self,
        module: nn.Module,
        train: Mapping[int, Shard],
        validation: Mapping[int, Shard] | None = None,
        saved: Snapshot | None = None,
    ) -> Generator[Place, None, Fitted]:
        """Do what `fit` does from sync to sync; before each stretch, yield where the training is."""
        last = self.config.epochs
        replicas = [
            self.replica(index, copy.deepcopy(module), train[index], self.task, self.config)
            for index in self.transport.hosted
        ]
        if 0 in self.transport.hosted and self.config.health_every:  # others would tell the same
            replicas[0].health = Health(
                replicas[0].module, self.config.health_every, self.config.rate, self.phase, self.emit
            )
        counts = self._counts(replicas, saved)
        steps = math.ceil(counts.max() / (self.config.batch_size * self.config.accumulate))
        best = BestEpoch(self.config.direction, self.config.patience)
        kept, history = replicas[0].flat.weights_N.clone(), list[EpochEnded]()
        if saved is not None:
            for replica in replicas:
                replica.flat.state_SN.copy_(saved.common["state"])
            kept.copy_(saved.common["kept"])
            best.epoch, best.value = saved.facts["best"]
            history = [EpochEnded(**event) for event in saved.facts["history"]]
        self.strategy.start(replicas, saved.common if saved else None)
        pace = Pace(self.emit, self.phase, last, counts, steps, self.transport)
        state = _State(replicas, counts, steps, kept, best, history, saved, pace)
        state.halvings = saved.facts.get("halvings", 0) if saved else 0
        for epoch in range(saved.epoch if saved else 1, last + 1):
            if self._pauses_before(epoch):
                self._pause(state, epoch)
            final = epoch == last or self._time_is_up(history)
            looks = epoch % self.config.validate_every == 0 or final
            ended = yield from self._epoch(state, epoch, validation if looks else None)
            state.saved = None
            if validation is not None and looks and best.see(epoch, ended.validation[self.config.monitored]):
                ended = replace(ended, best=True)
                kept.copy_(replicas[0].average.result(replicas[0].flat))
            history.append(ended)
            self.emit(ended)
            if replicas[0].health is not None:
                replicas[0].health.epoch_ended(epoch, history[0].train_loss, ended.train_loss)
            # Only a look at the validation rows can tell that patience was in vain.
            if final or (validation is not None and looks and best.exhausted(epoch)):
                break
        replicas[0].flat.weights_N.copy_(kept if best.epoch else replicas[0].average.result(replicas[0].flat))
        return Fitted(replicas[0].module.cpu().eval(), best.epoch or len(history), history, self.strategy.every)

    @property
    def _most(self) -> float:
        """The mean loss of an epoch from which it counts as diverged; guessing has about 1, in a regression too."""
        return _DIVERGED if self.config.on_not_finite == "retry" else sys.float_info.max

    def _time_is_up(self, history: Sequence[EpochEnded]) -> bool:
        """Whether an epoch like the last one would end beyond the time limit, by rank 0's clock. A collective call."""
        limit_s = self.config.time_limit_s
        if limit_s is None or not history:
            return False
        return bool(self.transport.agree(sum(event.seconds for event in history) + history[-1].seconds >= limit_s))

    def _counts(self, replicas: Sequence[Replica], saved: Snapshot | None) -> NDArray[np.float64]:
        """Return how many rows each replica of the training has."""
        if saved is not None:
            return np.array(saved.facts["counts"])

        def rows() -> list[Tensor]:
            found = self._zeros(len(replicas))
            for vector, replica in zip(found, replicas, strict=True):
                vector[replica.index] = len(replica.shard.order)
            return found

        summed: NDArray[np.float64] = self.transport.sum_of(rows).numpy()
        return summed[: self.transport.replicas]

    def _zeros(self, count: int) -> list[Tensor]:
        """Return what is summed: an element for each replica, the task's sums of both sides, bytes sent and saved."""
        size = self.transport.replicas + 2 * self.task.sums + self.task.validation_sums + 2
        return [torch.zeros(size, dtype=torch.float64) for _ in range(count)]

    def _epoch(
        self, state: "_State", epoch: int, validation: Mapping[int, Shard] | None
    ) -> Generator[Place, None, EpochEnded]:
        """Train an epoch; if asked for, anew with half the rate as long as its loss is not finite."""
        if self.config.on_not_finite == "stop":
            return (yield from self._train(state, epoch, validation))
        if state.saved is not None:
            state.begin = unpacked(state.saved)
        else:
            state.begin = copied(self._beginning(state, epoch))
        while True:
            try:
                return (yield from self._train(state, epoch, validation))
            except NotFiniteError as error:
                if state.halvings == HALVINGS:
                    raise
                state.halvings += 1
                self.emit(Warned(f"Epoch {epoch} begins anew with half the rate. {error}"))
                state.saved = copied(state.begin)
                for replica in state.replicas:
                    replica.flat.state_SN.copy_(state.saved.common["state"])
                self.strategy.start(state.replicas, state.saved.common)
                self.strategy.codec.residuals.clear()

    def _train(
        self, state: "_State", epoch: int, validation: Mapping[int, Shard] | None
    ) -> Generator[Place, None, EpochEnded]:
        replicas, counts, steps, saved = state.replicas, state.counts, state.steps, state.saved
        cost = _Cost(self.transport, saved)
        for replica in replicas:
            replica.start_epoch(epoch, steps)
            if saved is not None:
                self._restore(replica, saved.replicas[replica.index])
        rows_RB = np.stack([batch_sizes(int(count), steps) for count in counts])
        drops = plateau_drops(self.config, state.history)
        for numbers in self.strategy.intervals(steps, saved.number if saved else 0):
            yield epoch, numbers.start
            interval = Interval(
                numbers,
                (epoch - 1) * steps + numbers.start + 1,
                [state.slowed * rate_at(self.config, epoch - 1 + number / steps, steps, drops) for number in numbers],
                rows_RB[:, numbers.start : numbers.stop].sum(1),
                last=numbers.stop == steps,
            )
            try:
                self.strategy.advance(replicas, interval, self.transport)
            except Exception as error:
                error.add_note(", ".join(f"replica {replica.index} in step {replica.step}" for replica in replicas))
                raise
            state.pace.advanced(epoch, numbers, replicas)
            if self.checkpoints is not None and self.checkpoints.due(self.transport):
                self.checkpoints.save(self._snapshot(state, epoch, numbers.stop, cost), self.transport)
        for replica in replicas:
            replica.average.after_epoch(replica.flat, epoch)
        losses, trained, validated, sent_bytes = self._measured(replicas, validation, cost)
        loss = float(losses.sum() / counts.sum())
        if not (loss <= self._most and bool(torch.isfinite(replicas[0].flat.weights_N).all())):
            raise NotFiniteError(
                f"The weights or the loss ({loss:g}) were out of bounds at the end of epoch "
                f"{epoch}. Lower `learningRate` (now {state.slowed * self.config.rate:g}), or look for extreme values "
                "in the features."
            )
        seconds, syncing, *_ = cost.spent()
        return EpochEnded(
            epoch=epoch,
            epochs=self.config.epochs,
            train_loss=loss,
            replica_losses=(losses / np.maximum(counts, 1)).tolist(),
            training={name: value for name, value in trained.items() if name != "loss"},
            validation=validated,
            learning_rate=state.slowed * rate_at(self.config, epoch - 1, steps, drops),
            rows=int(counts.sum()),
            seconds=seconds,
            sync_share=syncing / seconds,
            sent_bytes=int(sent_bytes[0]),
            saved_bytes=int(sent_bytes[1]),
        )

    def _pauses_before(self, epoch: int) -> bool:
        """Whether the training ends here, for now."""
        pause_after = None if self.checkpoints is None else self.checkpoints.pause_after
        return pause_after is not None and epoch > pause_after and self.phase == "selection"

    def _pause(self, state: "_State", epoch: int) -> NoReturn:
        """Keep the training as it is before an epoch, unless that is where it came from, and end it for now."""
        if self.checkpoints is not None and state.saved is None:
            self.checkpoints.save(self._beginning(state, epoch), self.transport)
        raise Paused(state.history, state.best.epoch)

    def _beginning(self, state: "_State", epoch: int) -> Snapshot:
        """Return the training as it is before an epoch."""
        for replica in state.replicas:  # which have what they measured of the epoch before
            replica.start_epoch(epoch, state.steps)
        return self._snapshot(state, epoch, 0, _Cost(self.transport, None))

    def _snapshot(self, state: "_State", epoch: int, number: int, cost: "_Cost") -> Snapshot:
        residuals = self.strategy.codec.residuals
        own = {
            replica.index: replica.carried()
            | ({"residual": residuals[replica.index]} if replica.index in residuals else {})
            for replica in state.replicas
        }
        seconds, syncing, *sent_bytes = cost.spent()
        own[state.replicas[0].index]["sent_bytes"] = torch.tensor(sent_bytes, dtype=torch.float64)
        common = {"state": state.replicas[0].flat.state_SN, "kept": state.kept, **self.strategy.state()}
        facts = {
            "best": [state.best.epoch, state.best.value],
            "history": [dataclasses.asdict(event) for event in state.history],
            "counts": state.counts.tolist(),
            "seconds": [seconds, syncing],
            "halvings": state.halvings,
            "notes": dict(self.notes),
        }
        return packed(Snapshot(self.phase, epoch, number, common, own, facts), state.begin if number else None)

    def _restore(self, replica: Replica, own: Mapping[str, Tensor]) -> None:
        replica.restore(own)
        if "residual" in own:
            self.strategy.codec.residuals[replica.index] = own["residual"].clone()

    def _measured(
        self, replicas: Sequence[Replica], validation: Mapping[int, Shard] | None, cost: "_Cost"
    ) -> tuple[NDArray[np.float64], dict[str, float], dict[str, float], NDArray[np.float64]]:
        """Return each replica's sum of losses, metrics of the training and validation rows, bytes sent and saved."""
        sizes = [self.transport.replicas, self.task.sums, self.task.sums + self.task.validation_sums]
        ends = np.cumsum(sizes)

        def sums() -> list[Tensor]:
            found = self._zeros(len(replicas))
            for vector, replica in zip(found, replicas, strict=True):
                replica.end_epoch()
                vector[replica.index] = replica.loss_sum
                vector[ends[0] : ends[1]] = replica.sums
                if validation is not None:
                    with replica.average.in_place(replica.flat):
                        measured = _measure(replica, validation[replica.index], self.task, self.transport)
                    vector[ends[1] : ends[2]] = measured
            found[0][ends[2] :] = torch.tensor(cost.spent()[2:], dtype=torch.float64)
            return found

        losses, trained, validated, sent = np.split(self.transport.sum_of(sums).numpy(), ends)
        return losses, self.task.metrics(trained), self.task.metrics(validated) if validation is not None else {}, sent


@dataclass
class _State:
    """A training between two epochs, or where a checkpoint left it."""

    replicas: Sequence[Replica]
    counts: NDArray[np.float64]
    steps: int
    kept: Tensor
    best: BestEpoch
    history: list[EpochEnded]
    saved: Snapshot | None
    pace: Pace
    begin: Snapshot | None = None  # of the epoch, to go back to
    halvings: int = 0

    @property
    def slowed(self) -> float:
        """The share of the configured rate that is left of it."""
        return float(0.5**self.halvings)


class _Cost:
    """What an epoch has cost this process: seconds, seconds of syncs, bytes sent, bytes saved.

    Args:
        transport: Its counters are taken at the epoch's beginning.
        saved: Where the epoch goes on, with what it had cost those who host the same replicas.
    """

    def __init__(self, transport: Transport, saved: Snapshot | None) -> None:
        self._transport = transport
        self._begin = np.array(self._now())
        if saved is not None:
            own = [part["sent_bytes"].numpy() for part in saved.replicas.values() if "sent_bytes" in part]
            self._begin -= [*saved.facts["seconds"], *sum(own, np.zeros(2))]

    def _now(self) -> list[float]:
        transport = self._transport
        return [transport.clock(), transport.seconds, transport.sent_bytes, transport.saved_bytes]

    def spent(self) -> list[float]:
        """Return the four so far."""
        return [now - begin for now, begin in zip(self._now(), self._begin.tolist(), strict=True)]


@torch.no_grad()
def _measure(replica: Replica, shard: Shard, task: Task, transport: Transport) -> Tensor:
    """Return the task's sums over a shard."""
    replica.module.eval()
    sums = torch.zeros(task.sums + task.validation_sums, dtype=torch.float64)
    for rows in torch.split(torch.from_numpy(shard.order), shard.reader.rows_at_once):
        transport.beat()
        output = replica.outputs(shard, rows)
        measured = (output, shard.y_N.index_select(0, rows), shard.w_N.index_select(0, rows))
        sums += torch.cat([task.measure(*measured), task.measure_validation(*measured)])
    return sums
