"""Learning rates over a training, beside torch's schedulers."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, lr_scheduler

from sparkwright.errors import InputError
from sparkwright.events import EpochEnded
from sparkwright.training.config import TrainingConfig
from sparkwright.training.loop import cpu_threads
from sparkwright.training.replica.schedule import as_it_was, plateau_drops, rate_at

STEPS = 50  # of an epoch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with cpu_threads(1):
        yield


def epoch_ended(epoch: int, loss: float | None) -> EpochEnded:
    return EpochEnded(epoch, 10, 1.0, [1.0], {} if loss is None else {"loss": loss})


@pytest.mark.parametrize(
    ("settings", "theirs", "options"),
    [
        ({"schedule": "cosine"}, lr_scheduler.CosineAnnealingLR, {"T_max": 10}),
        ({"schedule": "linear"}, lr_scheduler.LinearLR, {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 10}),
        ({"schedule": "step"}, lr_scheduler.MultiStepLR, {"milestones": [5, 8]}),
        (
            {"schedule": "step", "drop_at": (0.2, 0.4, 0.9), "drop_factor": 0.3},
            lr_scheduler.MultiStepLR,
            {"milestones": [2, 4, 9], "gamma": 0.3},
        ),
        ({"schedule": "constant", "warmup": 4}, lr_scheduler.LambdaLR, {"lr_lambda": lambda epoch: min(1, epoch / 4)}),
        (
            {"schedule": "table", "rate_table": {0: 0.5, 3: 0.25, 7: 0.125}},
            lr_scheduler.LambdaLR,
            {"lr_lambda": lambda epoch: 1.0 if epoch < 3 else 0.5 if epoch < 7 else 0.25},
        ),
    ],
)
def test_rates_at_the_beginning_of_epochs_are_those_of_torch(settings, theirs, options) -> None:
    config = TrainingConfig(learning_rate=0.5, epochs=10, **settings)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = theirs(optimizer, **options)
    for epoch in range(10):
        assert rate_at(config, epoch, STEPS) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), epoch
        optimizer.step()
        scheduler.step()


def test_one_cycle_is_that_of_torch_to_a_step() -> None:
    config = TrainingConfig(schedule="one_cycle", learning_rate=0.5, epochs=10)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=10 * STEPS, cycle_momentum=False)
    ours, expected = [], []
    for step in range(10 * STEPS):
        ours.append(rate_at(config, step / STEPS, STEPS))
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert ours[0] == expected[0] == pytest.approx(0.02)
    assert max(ours) == 0.5
    np.testing.assert_allclose(ours, expected, atol=0.006)  # torch's phases are a step shorter than their share
    assert rate_at(config, 10, STEPS) == pytest.approx(0.5e-4 / 25)


def test_one_cycle_rises_during_warm_up_where_that_is_given() -> None:
    config = TrainingConfig(schedule="one_cycle", learning_rate=0.5, epochs=10, warmup=1)
    rates = [rate_at(config, epoch, STEPS) for epoch in (0, 1, 2)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[1] == 0.5 > rates[2]


def test_a_table_may_count_steps() -> None:
    table = {"0": 0.1, "60": 0.01}
    config = TrainingConfig(schedule="table", rate_table=table, rate_table_unit="step", epochs=10)  # type: ignore[arg-type]
    assert [rate_at(config, step / STEPS, STEPS) for step in (0, 59, 60, 61)] == [0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
def test_a_plateau_lowers_the_rate_when_torch_does(monitor: str) -> None:
    config = TrainingConfig(schedule="plateau", plateau_patience=2, monitor=monitor, drop_factor=0.5, learning_rate=1.0)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    mode = "min" if monitor == "loss" else "max"
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=1, threshold=0.0, eps=0.0)
    history = []
    for epoch, value in enumerate([5, 4, 4, 4, 3, 3, 3, 3, 3, 2, float("nan"), 2, 1, 1, 1], 1):
        assert rate_at(config, epoch - 1, STEPS, plateau_drops(config, history)) == optimizer.param_groups[0]["lr"]
        value = value if monitor == "loss" else -value
        history.append(EpochEnded(epoch, 15, 1.0, [1.0], {monitor: value}))
        scheduler.step(value)
    assert plateau_drops(config, history) == 5


def test_epochs_without_a_look_do_not_wear_a_plateaus_patience_out() -> None:
    config = TrainingConfig(schedule="plateau", plateau_patience=2, validate_every=3, monitor="loss")
    history = [epoch_ended(epoch, 1.0 if epoch % 3 == 0 else None) for epoch in range(1, 9)]
    assert plateau_drops(config, history) == 0
    assert plateau_drops(config, [*history, epoch_ended(9, 1.0)]) == 1


def test_a_refit_lowers_the_rate_where_the_selection_had_a_plateau() -> None:
    config = TrainingConfig(schedule="plateau", plateau_patience=1, learning_rate=1.0, epochs=4, monitor="loss")
    history = [epoch_ended(epoch, loss) for epoch, loss in enumerate([3.0, 2.0, 2.0, 1.0], 1)]
    again = as_it_was(config, history, 4)
    assert [rate_at(again, epoch, STEPS) for epoch in range(4)] == [1.0, 1.0, 1.0, pytest.approx(0.1)]
    assert as_it_was(config.replace(schedule="cosine"), history, 4) == config.replace(schedule="cosine")


def test_a_refit_of_fewer_epochs_is_without_the_layers_that_began_later() -> None:
    config = TrainingConfig(unfreeze={1: "output", 3: "all"}, epochs=4)
    assert as_it_was(config, [], 2) == config.replace(unfreeze={1: "output"}, epochs=2)
    assert as_it_was(config, [], 3) == config.replace(epochs=3)


def test_the_rate_stays_where_stochastic_weight_averaging_begins() -> None:
    config = TrainingConfig(learning_rate=1.0, epochs=8, weight_average="swa", swa_from=0.5)
    assert [rate_at(config, epoch, STEPS) for epoch in (0, 4, 6, 7.5)] == [1.0, *[pytest.approx(0.5)] * 3]


@pytest.mark.parametrize("table", [{1: 0.1}, {}, {0: -0.1}, {0: "fast"}, {"soon": 0.1}, 5, [0.1]])
def test_a_table_that_gives_no_rate_is_refused(table: object) -> None:
    with pytest.raises(InputError, match=r"`rate_table` must map epochs or steps, the first of which is 0, to rates"):
        TrainingConfig(schedule="table", rate_table=table)  # type: ignore[arg-type]


def test_a_table_and_its_schedule_belong_together() -> None:
    with pytest.raises(InputError, match="`schedule` 'table' needs a `rate_table`"):
        TrainingConfig(schedule="table")
    with pytest.raises(InputError, match="`rate_table` needs `schedule` 'table', not 'cosine'"):
        TrainingConfig(rate_table={0: 0.1})


@pytest.mark.parametrize("shares", [(0.5, 1.0), "half", (0,), 0.5])
def test_the_rate_drops_inside_a_training(shares: object) -> None:
    with pytest.raises(InputError, match="`drop_at` must be shares of the epochs between 0 and 1"):
        TrainingConfig(drop_at=shares)  # type: ignore[arg-type]
