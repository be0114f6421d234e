"""Many heads in one process, over one stream of batches.

Trials of one seed and batch size see the same rows in the same order, and the same random numbers. So a batch is
gathered, standardised and drawn for once, and each head takes it from there: with dropout of its own made of the same
draws, with layers, loss, optimiser, rate and schedule of its own. A head stays a training like any other
(`sparkwright.training.fitting.training_steps`): it pauses, stops early, keeps its best epoch and its checkpoints as it
does alone, and may pause here and go on alone, or the other way round. Trainings take turns from sync to sync, the one
that is furthest behind first, so that those that go on from an epoch wait for the others to come there.

What differs is rounding: products are made by other kernels (`head_passes`). `TOLERANCE` says by how much. A head's
result does not depend on which others are in the pass: none of its sums has a part of another.
"""

import heapq
import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sparkwright.errors import InputError
from sparkwright.events import Emit, ignore
from sparkwright.training.checkpoints import Checkpoints, Paused
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import Outcome, moments_of, training_steps
from sparkwright.training.loop import Place, cpu_threads
from sparkwright.training.replica.allocation import freed_memory_kept
from sparkwright.training.replica.replica import Replica, Shard, derived_seed
from sparkwright.training.rows.moments import Moments
from sparkwright.training.rows.population import Population
from sparkwright.training.rows.store import Rows
from sparkwright.training.subject import Head
from sparkwright.training.tasks import Task
from sparkwright.training.transports.in_process import InProcess
from sparkwright.tuning.batch_stream import Batch, BatchStream
from sparkwright.tuning.head_passes import HeadPasses
from sparkwright.tuning.time_limit import limited

__all__ = ["TOGETHER", "TOLERANCE", "Ended", "heads_at_once", "structure_key", "train_together"]

TOLERANCE = 1e-4
"""How far an epoch's losses and metrics may be from those of a training alone (relative; absolute below 1), and weights
at the end from its weights, in their deviations. Most are a hundredth of that; a row between two classes may fall to
the other one."""

TOGETHER = 16
"""Heads that a job trains, where they are small."""

_SMALL = 1 << 20  # weights of a head, up to which what heads share is worth waiting for each other

_SHARED = ("task", "replicas", "batch_size", "seed", "sampling", "standardise", "class_weights", "threads")
_ALONE = {"device": "cpu", "precision": "float32", "compile": False, "accumulate": 1, "unfreeze": None, "refit": False}


def structure_key(config: TrainingConfig) -> str | None:
    """Return what trainings of heads must have in common to share a pass; None for what trains alone.

    Whole networks train alone, whatever their configuration says.
    """
    if config.sync_every == "auto" or any(getattr(config, name) != value for name, value in _ALONE.items()):
        return None
    return json.dumps({name: getattr(config, name) for name in _SHARED}, sort_keys=True)


def heads_at_once(config: TrainingConfig, parameters: int) -> int:
    """Return how many heads a job should train if nobody says it: 1 where there is little to share.

    What heads share (rows, random numbers, the start of a job) takes as long as the products of some hundred thousand
    weights. Above a million weights little is gained, and a search decides better by results that come one by one.

    Args:
        config: Of a trial.
        parameters: The head's weights.
    """
    return TOGETHER if structure_key(config) is not None and parameters <= _SMALL else 1


@dataclass(frozen=True)
class Ended:
    """What one of several trainings ended with.

    Attributes:
        outcome: What it gives; the pause that its checkpoints wanted; or what went wrong with it alone.
        seconds: What it took of the pass.
    """

    outcome: Outcome | Paused | Exception
    seconds: float


def train_together(
    configs: Sequence[TrainingConfig],
    population: Population,
    rows: Mapping[int, Rows],
    emits: Sequence[Emit] | None = None,
    checkpoints: Sequence[Checkpoints | None] | None = None,
    subject: Head | None = None,
    moments: Moments | None = None,
    limits_s: Sequence[float | None] | None = None,
) -> list[Ended]:
    """Train heads over one stream of batches, in this process; return what each ended with, in their order.

    As `sparkwright.training.fitting.train_rows` would one by one, within `TOLERANCE`.

    Args:
        configs: How each trains; all of one `structure_key`.
        population: What all rows are together.
        rows: Of each replica.
        emits: What takes the events of each.
        checkpoints: Where each is kept, goes on from and pauses; None keeps none.
        subject: Weights to begin with; None draws them.
        moments: What `moments_of` gives for the training rows; None measures them.
        limits_s: Seconds that each may take of the pass; None: any time.

    Raises:
        InputError: Configurations that cannot share a pass.
    """
    keys = {structure_key(config) for config in configs}
    if len(keys) > 1 or None in keys:
        raise InputError(
            f"Heads that train together must agree in {', '.join(_SHARED)}, on a CPU, in float32, without accumulate, "
            "unfreeze and refit. Train the others by themselves."
        )
    if not configs:
        return []
    subject, first = subject or Head(), configs[0]
    stream = BatchStream([(config.dropped, config.hidden or (population.width,)) for config in configs])
    with cpu_threads(first.threads), freed_memory_kept():
        moments = moments or moments_of(first, population, rows, InProcess(first.replicas), subject)
        turns = []
        for number, config in enumerate(configs):
            transport = _OwnTime(config.replicas)
            steps = training_steps(
                config.replace(health_every=None),
                population,
                rows,
                transport,
                emits[number] if emits else ignore,
                checkpoints[number] if checkpoints else None,
                subject,
                partial(_Member, stream),
                moments,
            )
            within = limited(steps, limits_s[number] if limits_s else None, transport.clock)
            turns.append(_Turns(within, transport))
        _take_turns(turns, stream)
    return [Ended(turn.outcome, turn.transport.seconds_spent) for turn in turns]


def _take_turns(turns: Sequence["_Turns"], stream: BatchStream) -> None:
    """Let trainings go on until all have ended, the one that is furthest behind first."""
    waiting = [(place, number) for number, turn in enumerate(turns) if (place := turn.take()) is not None]
    heapq.heapify(waiting)
    while waiting:
        place, number = waiting[0]
        stream.passed(place)
        reached = turns[number].take()
        if reached is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (reached, number))


class _OwnTime(InProcess):
    """A transport whose clock stands still while it is another training's turn."""

    def __init__(self, replicas: int) -> None:
        super().__init__(replicas)
        self.seconds_spent = 0.0
        self._since: float | None = None

    def begin(self) -> None:
        self._since = time.perf_counter()

    def end(self) -> None:
        self.seconds_spent, self._since = self.clock(), None

    def clock(self) -> float:
        return self.seconds_spent + (0.0 if self._since is None else time.perf_counter() - self._since)


class _Turns:
    """One of the trainings."""

    def __init__(self, steps: Generator[Place, None, Outcome], transport: _OwnTime) -> None:
        self.transport = transport
        self._steps = steps
        self.outcome: Outcome | Paused | Exception

    def take(self) -> Place | None:
        """Go on to the next sync and return where that is; None at the end."""
        self.transport.begin()
        try:
            return next(self._steps)
        except StopIteration as end:
            self.outcome = end.value
        except (Paused, Exception) as fault:
            self.outcome = fault.with_traceback(None)  # which would hold this, and so the training, in a circle
        finally:
            self.transport.end()
        return None


class _Member(Replica):
    """A replica of one of the trainings, which takes its batches from the stream."""

    def __init__(
        self, stream: BatchStream, index: int, module: nn.Module, shard: Shard, task: Task, config: TrainingConfig
    ) -> None:
        super().__init__(index, module, shard, task, config)
        self._stream = stream
        self._head = HeadPasses(module)

    def backward(self, number: int, step: int) -> None:
        self.step = step
        rows = self._batches[number]
        if not len(rows):
            self.flat.gradient_N.zero_()
            return
        batch = self._stream.batch((self._epoch, number, self.index), lambda: self._batch(rows, step))
        output_BO = self._head.forward(batch.x_BF, batch.draws)
        loss, gradient_BO = self._task.loss_and_gradient(output_BO, batch.y_B, batch.w_B)
        self._trained_on(rows, loss, output_BO, batch.y_B, batch.w_B)
        self._head.backward(gradient_BO)

    def _batch(self, rows: Tensor, step: int) -> Batch:
        draws = self._stream.draws(derived_seed("dropout", self._seed, self.index, step))
        y_B, w_B = self.shard.y_N.index_select(0, rows), self.shard.w_N.index_select(0, rows)
        return Batch(self._features(self.shard, rows), y_B, w_B, draws)

    def _features(self, shard: Shard, rows: Tensor) -> Tensor:
        x_BF = shard.batch(rows)
        assert isinstance(x_BF, Tensor)
        with torch.no_grad():
            return x_BF if self._head.standardise is None else self._head.standardise(x_BF)

    def outputs(self, shard: Shard, rows: Tensor) -> Tensor:
        if not len(rows):
            return super().outputs(shard, rows)
        place = (self.index, int(rows[0]), len(rows))
        return self._head.outputs(self._stream.validation(place, lambda: self._features(shard, rows)))
