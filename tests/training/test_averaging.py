import copy

import numpy as np
import pytest
import torch
from torch import nn

from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica import Replica, Shard
from sparkwright.training.strategies.averaging import Averaging
from sparkwright.training.tasks import Classification
from sparkwright.training.transports.in_process import InProcess


def make_replicas(sizes: list[int], **settings: object) -> list[Replica]:
    torch.manual_seed(0)
    module, task = nn.Linear(4, 3), Classification(np.ones(3, np.float32), 0)
    config = TrainingConfig(batch_size=4, replicas=len(sizes), **settings)  # type: ignore[arg-type]
    replicas = []
    for index, size in enumerate(sizes):
        shard = Shard(torch.randn(size, 4), torch.randint(3, (size,)), torch.ones(size), np.arange(size))
        replicas.append(Replica(index, copy.deepcopy(module), shard, task, config))
    return replicas


def train(replicas: list[Replica], steps: int) -> None:
    for replica in replicas:
        replica.start_epoch(1, steps)
    for number in range(steps):
        for replica in replicas:
            replica.step(number, number + 1, 0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_weights_and_optimiser_state_become_the_mean_weighted_by_rows(optimizer: str) -> None:
    replicas = make_replicas([8, 4, 12], optimizer=optimizer)
    train(replicas, 3)
    states = torch.stack([replica.flat.state_SN.clone() for replica in replicas]).double()
    assert states[:, 1:].abs().sum() > 0
    expected = (states * torch.tensor([8, 4, 12])[:, None, None]).sum(0) / 24
    Averaging(4).combine(replicas, InProcess(3))
    for replica in replicas:
        torch.testing.assert_close(replica.flat.state_SN.double(), expected, rtol=1e-5, atol=1e-7)
        assert torch.equal(replica.module.weight.reshape(-1), replica.flat.weights_N[:12])
        assert replica.rows == 0


def test_a_replica_without_rows_has_no_say() -> None:
    replicas = make_replicas([8, 0])
    train(replicas, 2)
    expected = replicas[0].flat.state_SN.clone()
    Averaging(4).combine(replicas, InProcess(2))
    for replica in replicas:
        torch.testing.assert_close(replica.flat.state_SN, expected)


def test_a_single_replica_keeps_its_bits() -> None:
    replicas = make_replicas([7])
    train(replicas, 2)
    expected = replicas[0].flat.state_SN.clone()
    Averaging(1).combine(replicas, InProcess(1))
    assert torch.equal(replicas[0].flat.state_SN, expected)
    assert replicas[0].rows == 0


def test_replicas_meet_every_so_many_steps_and_at_the_end_of_an_epoch() -> None:
    assert [number for number in range(10) if Averaging(4).due(number, 10)] == [3, 7, 9]


def test_every_row_is_trained_on_once_an_epoch_in_batches_of_nearly_equal_size() -> None:
    (replica,) = make_replicas([11])
    for epoch in (1, 2):
        replica.start_epoch(epoch, 3)
        assert sorted(torch.cat(replica._batches).tolist()) == list(range(11))
        assert sorted(map(len, replica._batches)) == [3, 4, 4]
