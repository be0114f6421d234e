"""P1: the optimiser's state survives every sync."""

import numpy as np
import pytest
import torch
from torch import nn

from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica, Shard
from sparkwright.training.rows.kept import Kept
from sparkwright.training.settings import OPTIMIZERS
from sparkwright.training.strategies._base import Interval
from sparkwright.training.strategies.averaging import Averaging
from sparkwright.training.tasks import Classification
from sparkwright.training.transports.in_process import InProcess


def trajectory(optimizer: str, sync_every: int, replicas: int) -> torch.Tensor:
    """Train replicas that all see the same batches, so that averaging must change nothing."""
    config = TrainingConfig(optimizer=optimizer, replicas=replicas, batch_size=8, seed=1)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 5, generator=generator), torch.randint(3, (64,), generator=generator)
    shard, task = (
        Shard(Kept(x.numpy()), y, torch.ones(64), np.arange(64), np.arange(64)),
        Classification(np.ones(3, np.float32), 0),
    )
    torch.manual_seed(0)
    module = nn.Linear(5, 3)
    state = module.state_dict()
    workers = []
    for _ in range(replicas):
        copy = nn.Linear(5, 3)
        copy.load_state_dict(state)
        workers.append(Replica(0, copy, shard, task, config))  # the same index: the same order of rows
    strategy, transport = Averaging(sync_every), InProcess(replicas)
    for worker in workers:
        worker.start_epoch(1, 8)
    strategy.start(workers)
    for numbers in strategy.intervals(8):
        rows = np.full(replicas, 8 * len(numbers))
        interval = Interval(numbers, numbers.start + 1, [0.1] * len(numbers), rows, last=numbers.stop == 8)
        strategy.advance(workers, interval, transport)
    return workers[0].flat.state_SN


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("sync_every", [1, 3])
def test_replicas_that_see_the_same_rows_train_as_one_alone_whatever_the_interval(
    optimizer: str, sync_every: int
) -> None:
    together, alone = trajectory(optimizer, sync_every, replicas=4), trajectory(optimizer, 100, replicas=1)
    assert alone[1].abs().sum() > 0
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
