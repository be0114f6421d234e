import copy

import numpy as np
import pytest
import torch
from torch import nn

from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica, Shard, batch_sizes
from sparkwright.training.rows.kept import Kept
from sparkwright.training.strategies._base import Interval, Strategy
from sparkwright.training.strategies.averaging import Averaging
from sparkwright.training.tasks import Classification
from sparkwright.training.transports.in_process import InProcess


def make_replicas(sizes: list[int], **settings: object) -> list[Replica]:
    torch.manual_seed(0)
    module, task = nn.Linear(4, 3), Classification(np.ones(3, np.float32), 0)
    config = TrainingConfig(batch_size=4, replicas=len(sizes), **settings)  # type: ignore[arg-type]
    replicas = []
    for index, size in enumerate(sizes):
        shard = Shard(
            Kept(torch.randn(size, 4).numpy()),
            torch.randint(3, (size,)),
            torch.ones(size),
            np.arange(size),
            np.arange(size),
        )
        replicas.append(Replica(index, copy.deepcopy(module), shard, task, config))
    return replicas


def advance(strategy: Strategy, replicas: list[Replica], steps: int) -> None:
    """Train an epoch of so many steps."""
    for replica in replicas:
        replica.start_epoch(1, steps)
    strategy.start(replicas)
    for numbers in strategy.intervals(steps):
        rows = np.array([batch_sizes(len(replica.shard.order), steps)[numbers].sum() for replica in replicas])
        interval = Interval(numbers, numbers.start + 1, [0.1] * len(numbers), rows, last=numbers.stop == steps)
        strategy.advance(replicas, interval, InProcess(len(replicas)))


def train(replicas: list[Replica], steps: int) -> list[torch.Tensor]:
    """Train each replica alone; return their states."""
    for replica in replicas:
        replica.start_epoch(1, steps)
        replica.train(range(steps), 1, [0.1] * steps)
    return [replica.flat.state_SN for replica in replicas]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weights_and_optimiser_state_become_the_mean_weighted_by_rows(optimizer: str) -> None:
    states = torch.stack(train(make_replicas([8, 4, 12], optimizer=optimizer), 3)).double()
    assert states[:, 1:].abs().sum() > 0
    expected = (states * torch.tensor([8, 4, 12])[:, None, None]).sum(0) / 24
    replicas = make_replicas([8, 4, 12], optimizer=optimizer)
    advance(Averaging(4), replicas, 3)
    for replica in replicas:
        torch.testing.assert_close(replica.flat.state_SN.double(), expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(replica.module.weight.reshape(-1), replica.flat.weights_N[:12])


def test_a_replica_without_rows_has_no_say() -> None:
    expected = train(make_replicas([8, 0]), 2)[0]
    replicas = make_replicas([8, 0])
    advance(Averaging(4), replicas, 2)
    for replica in replicas:
        torch.testing.assert_close(replica.flat.state_SN, expected)


def test_a_single_replica_keeps_its_bits() -> None:
    (expected,) = train(make_replicas([7]), 2)
    replicas = make_replicas([7])
    advance(Averaging(1), replicas, 2)
    assert torch.equal(replicas[0].flat.state_SN, expected)


def test_replicas_meet_every_so_many_steps_and_at_the_end_of_an_epoch() -> None:
    assert list(Averaging(4).intervals(10)) == [range(4), range(4, 8), range(8, 10)]
    assert list(Averaging(4).intervals(10, begun=8)) == [range(8, 10)]


def test_every_row_is_trained_on_once_an_epoch_in_batches_of_nearly_equal_size() -> None:
    (replica,) = make_replicas([11])
    for epoch in (1, 2):
        replica.start_epoch(epoch, 3)
        assert sorted(torch.cat(replica._batches).tolist()) == list(range(11))
        assert sorted(map(len, replica._batches)) == [3, 4, 4]
