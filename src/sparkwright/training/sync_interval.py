"""How many steps between two syncs: measured before the first step, chosen for a share of the time, written down.

The measurement trains copies that are thrown away, so that a training whose interval was measured has the bits of one
that was told the same interval. Rank 0 decides for all. What it decides is kept in the run's folder and in checkpoints:
who goes on with the run, or repeats it there, does not measure again.
"""

import copy
import dataclasses
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from sparkwright import storage
from sparkwright.errors import InputError
from sparkwright.events import Emit, SyncIntervalChosen, ignore
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica, Shard
from sparkwright.training.strategies import make_strategy
from sparkwright.training.strategies._base import Interval
from sparkwright.training.tasks import Task
from sparkwright.training.transports._base import Transport

__all__ = ["RECORD", "SyncCost", "choose_sync_interval", "measure_sync_cost"]

RECORD = "sync_interval.json"
"""In a run's folder: what was measured and chosen."""

_STEPS = 3  # of the longer one of the two intervals that are compared
_REPEATS = 4  # of each, after one that warms up


@dataclass(frozen=True)
class SyncCost:
    """What a training's time is made of, as rank 0 sees it.

    Attributes:
        step_s: Seconds of a step of all replicas that a worker hosts.
        sync_s: Seconds of a sync: messages, waiting for the others, and what is computed before and after.
    """

    step_s: float
    sync_s: float

    def interval(self, share: float) -> int:
        """Return the fewest steps between syncs that let these take at most a share of the time."""
        if self.sync_s <= 0:
            return 1
        return max(1, math.ceil(self.sync_s * (1 - share) / (share * self.step_s)))

    def share(self, every: int) -> float:
        """Return the share of the time that syncs take every so many steps."""
        return self.sync_s / (self.sync_s + every * self.step_s)


def measure_sync_cost(
    config: TrainingConfig, task: Task, module: nn.Module, train: Mapping[int, Shard], transport: Transport
) -> SyncCost:
    """Measure on copies: of `module`, of the strategy, of the first rows of each shard. A collective call.

    What a sync computes is told apart from a step by intervals of one step and of several.
    """
    rows = _STEPS * config.batch_size * config.accumulate
    replicas = [
        Replica(index, copy.deepcopy(module), dataclasses.replace(shard, order=shard.order[:rows]), task, config)
        for index, shard in train.items()
    ]
    for replica in replicas:
        replica.start_epoch(1, _STEPS)
    strategy = make_strategy(config.replace(sync_every=_STEPS))
    strategy.start(replicas)
    work: dict[int, list[float]] = {1: [], _STEPS: []}
    sums: list[float] = []
    for repeat in range(1 + _REPEATS):
        for steps, seen in work.items():
            clock, seconds = transport.clock(), transport.seconds
            interval = Interval(range(steps), 1, [0.0] * steps, np.ones(transport.replicas, np.int64), last=False)
            strategy.advance(replicas, interval, transport)
            if repeat:
                sums.append(transport.seconds - seconds)
                seen.append(transport.clock() - clock - sums[-1])
    short, long = (statistics.median(seconds) for seconds in work.values())
    step_s = min(max((long - short) / (_STEPS - 1), long / _STEPS / 2, 1e-9), max(long / _STEPS, 1e-9))
    return SyncCost(step_s, statistics.median(sums) + max(short - step_s, 0.0))


def choose_sync_interval(
    config: TrainingConfig,
    task: Task,
    module: nn.Module,
    train: Mapping[int, Shard],
    transport: Transport,
    run: str | None = None,
    emit: Emit = ignore,
) -> int:
    """Return the steps between two syncs: as written down in the run's folder, else measured. A collective call.

    Args:
        config: Of the training, whose `sync_share` is to be met.
        task: Loss and targets.
        module: The layers with their first weights.
        train: Shard of each hosted replica.
        transport: To the other processes.
        run: URI of the run's folder, where rank 0 reads and writes the record; None keeps none.
        emit: What takes the event; give one in rank 0's process only.

    Raises:
        InputError: The record is not one.
    """
    if config.strategy == "all_reduce":
        return 1  # its gradients are summed at each step
    record = storage.join(run, RECORD) if run is not None and transport.rank == 0 else None
    known = transport.agree(_read(record) if record is not None else 0)
    if known:
        return known
    cost = measure_sync_cost(config, task, module, train, transport)
    every = transport.agree(cost.interval(config.sync_share))
    chosen = SyncIntervalChosen(every, cost.step_s, cost.sync_s, cost.share(every), config.sync_share)
    emit(chosen)
    if record is not None:
        storage.write_bytes(record, json.dumps(dataclasses.asdict(chosen), indent=2).encode())
    return every


def _read(record: str) -> int:
    """Return the interval that was written down; 0 without a record."""
    try:
        every = json.loads(storage.read_bytes(record))["every"]
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record} does not tell how many steps lie between two syncs: {error}. Remove it.") from error
    return int(every)
