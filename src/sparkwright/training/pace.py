"""How far an epoch of training is, told while it lasts: an hour of silence looks like a job that hangs."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparkwright.events import Emit, EpochAdvanced
from sparkwright.training.replica.replica import Replica
from sparkwright.training.transports._base import Transport

__all__ = ["Pace"]

_EVERY_S = 1.0


class Pace:
    """Tells of a training between two syncs, at most once a second.

    Args:
        emit: What takes the events.
        phase: ``"selection"`` or ``"refit"``.
        epochs: Of the training, at most.
        counts: Rows of each replica of the training.
        steps: Batches of an epoch.
        transport: Whose share of the time is told.
    """

    def __init__(
        self, emit: Emit, phase: str, epochs: int, counts: NDArray[np.float64], steps: int, transport: Transport
    ) -> None:
        self._emit, self._phase, self._epochs = emit, phase, epochs
        self._counts, self._steps, self._transport = counts, steps, transport
        self._began = self._told = time.perf_counter()
        self._synced = transport.seconds
        self._trained = 0  # batches in this process, which may have gone on in the midst of a training

    def advanced(self, epoch: int, numbers: range, replicas: Sequence[Replica]) -> None:
        """Take the batches of an epoch that were trained on just now."""
        self._trained += len(numbers)
        now = time.perf_counter()
        if now - self._told < _EVERY_S:
            return
        self._told, seconds, done = now, now - self._began, numbers.stop
        rows = sum(int(self._counts[replica.index]) * done // self._steps for replica in replicas)
        left = (self._epochs - epoch + 1) * self._steps - done
        self._emit(
            EpochAdvanced(
                phase=self._phase,
                epoch=epoch,
                epochs=self._epochs,
                batches=done,
                of=self._steps,
                train_loss=sum(replica.loss_sum for replica in replicas) / max(rows, 1),
                rows_per_s=float(self._counts.sum()) / self._steps * self._trained / seconds,
                sync_share=(self._transport.seconds - self._synced) / seconds,
                seconds_left=seconds / self._trained * left,
            )
        )
