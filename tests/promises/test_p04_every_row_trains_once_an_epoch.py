"""P4: no row is lost, doubled or stale in training; the last short batch too."""

from collections import Counter

import numpy as np
import pytest

from sparkwright.training.arrays import fit_arrays
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica


@pytest.mark.parametrize(("rows", "batch_size", "replicas"), [(61, 8, 4), (7, 32, 3), (100, 1, 1)])
def test_every_row_trains_once_in_every_epoch(monkeypatch, rows, batch_size, replicas):
    seen: Counter[tuple[float, int]] = Counter()
    backward, epoch = Replica.backward, Replica.start_epoch
    epochs = Counter()

    def start(self, number, steps):
        epochs[self.index] = number
        epoch(self, number, steps)

    def watched(self, number, step):
        batch = self._batches[number]
        seen.update((float(row), epochs[self.index]) for row in self.shard.x.values[batch.numpy(), 0])
        assert len(batch) <= batch_size
        backward(self, number, step)

    monkeypatch.setattr(Replica, "start_epoch", start)
    monkeypatch.setattr(Replica, "backward", watched)
    x = np.stack([np.arange(rows), np.arange(rows) % 2], 1).astype(np.float32)
    config = TrainingConfig(batch_size=batch_size, replicas=replicas, epochs=3, patience=None)
    result = fit_arrays(x, np.where(x[:, 1] > 0, "odd", "even"), config)
    assert seen == Counter((float(row), number) for row in range(rows) for number in (1, 2, 3))
    assert [event.rows for event in result.history] == [rows] * 3
