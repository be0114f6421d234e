from itertools import pairwise

import numpy as np
import pytest
import torch

from sparkwright.training.config import TrainingConfig
from sparkwright.training.loop import BestEpoch, cpu_threads
from sparkwright.training.replica.schedule import rate_at


def run(direction: str, patience: int | None, values: dict[int, float]) -> tuple[int, int]:
    """Return the best epoch and the last one that was trained."""
    best = BestEpoch(direction, patience)
    for epoch in range(1, 101):
        if epoch in values:
            best.see(epoch, values[epoch])
        if best.exhausted(epoch):
            return best.epoch, epoch
    return best.epoch, 100


def test_the_best_epoch_is_the_least_loss_or_the_greatest_accuracy() -> None:
    values = {1: 0.5, 2: 0.2, 3: 0.9, 4: 0.4}
    assert run("min", None, values) == (2, 100)
    assert run("max", None, values) == (3, 100)


def test_of_equal_values_the_first_epoch_is_best() -> None:
    assert run("min", 3, dict.fromkeys(range(1, 101), 1.0)) == (1, 4)


def test_a_value_that_is_nan_is_never_best() -> None:
    assert run("max", 5, {1: float("nan"), 2: 0.1, 3: float("nan")}) == (2, 7)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "step"])
def test_the_rate_begins_at_its_highest_and_never_rises_without_warm_up(schedule: str) -> None:
    config = TrainingConfig(schedule=schedule, learning_rate=0.5, epochs=10)
    rates = [rate_at(config, epoch, 4) for epoch in np.arange(0, 10, 0.25)]
    assert rates[0] == 0.5
    assert all(later <= earlier for earlier, later in pairwise(rates))
    last = {"constant": 0.5, "cosine": 0.0, "linear": 0.0, "step": 0.005}[schedule]
    assert rate_at(config, 10, 4) == pytest.approx(last)


def test_the_rate_rises_during_warm_up() -> None:
    config = TrainingConfig(schedule="constant", learning_rate=1.0, warmup=2, epochs=10)
    assert [rate_at(config, epoch, 4) for epoch in (0, 1, 2, 3)] == [0, 0.5, 1, 1]


def test_threads_and_random_numbers_of_the_process_are_given_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with cpu_threads(threads + 1):
        assert torch.get_num_threads() == threads + 1
        torch.rand(3)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
