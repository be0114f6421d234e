import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from sparkwright.events import Event, LayersMeasured, Warned
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.health import Health, advice


class Told(list):
    """Takes events."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    @property
    def looks(self) -> list[LayersMeasured]:
        return [event for event in self if isinstance(event, LayersMeasured)]

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self if isinstance(event, Warned)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = OrderedDict(
        conv=nn.Conv2d(1, 4, 3),
        bn=nn.BatchNorm2d(4),
        act=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(4 * 36, 10),
        act2=nn.ReLU(),
        output=nn.Linear(10, 2),
    )
    return nn.Sequential(layers)


def steps(module: nn.Module, count: int, rate: float = 0.01, **settings: int) -> Told:
    """Take steps of plain SGD that are looked at; the schedule's highest rate is 0.01."""
    told = Told()
    health = Health(module, settings.get("every", 1), 0.01, "selection", told)
    x, y = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 2
    for step in range(1, count + 1):
        module.zero_grad()
        with health.forward(step):
            output = module(x)
        nn.functional.cross_entropy(output, y).backward()
        with health.update(rate, step, epoch=1), torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter -= rate * parameter.grad
    return told


def test_figures_are_those_of_their_definitions() -> None:
    module, told = network(), Told()
    health = Health(module, 1, 0.1, "selection", told)
    x, y = torch.randn(32, 1, 8, 8), torch.arange(32) % 2
    with health.forward(1):
        output = module(x)
    nn.functional.cross_entropy(output, y).backward()
    before = module.fc.weight.detach().clone()
    with health.update(0.1, 1, 3), torch.no_grad():
        module.fc.weight -= 0.1 * module.fc.weight.grad
    (look,) = told.looks
    assert (look.phase, look.epoch, look.step) == ("selection", 3, 1)
    assert [layer["name"] for layer in look.layers] == ["conv", "fc", "output"]
    conv, fc, last = look.layers
    assert fc["update_ratio"] == pytest.approx(float((module.fc.weight.detach() - before).norm() / before.norm()))
    assert fc["gradient_norm"] == pytest.approx(float(module.fc.weight.grad.norm()))
    with torch.no_grad():
        module.fc.weight.copy_(before)
        module.train()
        maps = module.conv(x)
        hidden = module.fc(module.flatten(module.act(module.bn(maps))))
    assert conv["spread"] == pytest.approx(float(maps.std(correction=0)), rel=1e-5)
    assert fc["spread"] == pytest.approx(float(hidden.std(correction=0)), rel=1e-5)
    assert fc["dead"] == pytest.approx(float((hidden.relu().amax(0) == 0).float().mean()))
    assert (conv["dead"], last["dead"]) == (0, None)
    assert conv["update_ratio"] == 0


def test_looks_come_at_every_so_many_steps() -> None:
    assert [look.step for look in steps(network(), 10, every=4).looks] == [4, 8]


def test_short_trainings_are_looked_at_early() -> None:
    assert [look.step for look in steps(network(), 60, every=200).looks] == [25, 50]
    assert [look.step for look in steps(network(), 120, every=60).looks] == [25, 50, 60, 120]


def test_looking_changes_nothing_and_leaves_no_hooks() -> None:
    watched, alone = network(), network()
    steps(watched, 5)
    steps(alone, 5, every=100)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), alone.parameters(), strict=True))
    assert not any(layer._forward_hooks for layer in watched.modules())


def test_frozen_layers_are_left_out() -> None:
    module = network()
    module.conv.requires_grad_(False)
    assert [layer["name"] for layer in steps(module, 1).looks[0].layers] == ["fc", "output"]


def test_layers_that_begin_to_train_later_are_measured_from_then_on() -> None:
    module, told = network(), Told()
    health = Health(module, 1, 0.01, "selection", told)
    for step, trains in ((1, False), (2, False), (3, True)):
        module.conv.requires_grad_(trains)
        module.zero_grad()
        with health.forward(step):
            output = module(torch.randn(32, 1, 8, 8))
        output.square().mean().backward()
        with health.update(0.01, step, 1), torch.no_grad():
            module.output.weight.mul_(0.99)
    assert [look.layers[0]["name"] for look in told.looks] == ["fc", "fc", "conv"]
    assert told.warnings == []


def test_recurrent_layers_are_measured_without_dead_units() -> None:
    class Last(nn.Module):
        def forward(self, outputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return outputs[0][:, -1]

    module = nn.Sequential(nn.Flatten(1, 2), nn.GRU(8, 6, batch_first=True), Last(), nn.Linear(6, 2))
    recurrent, linear = steps(module, 1).looks[0].layers
    assert recurrent["name"] == "1"
    assert recurrent["dead"] is linear["dead"] is None
    assert recurrent["spread"] > 0 < recurrent["update_ratio"]


def test_dead_units_are_warned_of_once_after_two_looks() -> None:
    module = network()
    with torch.no_grad():
        module.fc.bias.fill_(-1000.0)
    assert steps(module, 1).warnings == []
    dead, still = steps(module, 4).warnings
    assert "units are dead" in dead
    assert "in `fc`. Lower `learningRate`" in dead
    assert "Not learning: `conv`, `fc`, `output`, because no gradient comes through." in still


def test_a_layer_that_moves_slowly_though_its_gradient_is_there_is_no_warning() -> None:
    assert steps(network(), 4, rate=1e-2 * 0.2).warnings == []


def test_small_updates_at_the_schedules_end_are_no_warning() -> None:
    assert steps(network(), 4, rate=1e-12).warnings == []


def test_advice_names_the_rate_where_the_loss_does_not_fall() -> None:
    assert "too high. Lower `learningRate` (now 0.5)" in advice(2.3, 2.3, 3, 0.05, 0.5)
    assert "too low. Raise `learningRate` (now 1e-08)" in advice(2.3, 2.3, 3, 1e-7, 1e-8)


@pytest.mark.parametrize(
    ("first", "loss", "epoch", "ratio"),
    [(2.3, 1.0, 3, 0.05), (2.3, 2.3, 2, 0.05), (2.3, 2.3, 3, 1e-3), (2.3, 2.3, 3, 0.0), (2.3, math.nan, 3, 1e-3)],
)
def test_a_training_that_gets_on_or_has_a_usual_rate_needs_no_advice(
    first: float, loss: float, epoch: int, ratio: float
) -> None:
    assert advice(first, loss, epoch, ratio, 0.1) == ""


def training(health_every: int | None, **changes: object) -> tuple[Told, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 8)).astype(np.float32)
    config = TrainingConfig(
        hidden=[16], epochs=4, batch_size=16, replicas=2, calibrate=False, health_every=health_every, **changes
    )
    told = Told()
    result = fit_arrays(x, np.where(x[:, 0] > 0, "a", "b"), config, emit=told)
    return told, result.head.weights()


@pytest.mark.parametrize("strategy", ["averaging", "all_reduce", "outer"])
def test_a_training_tells_how_its_layers_learn_and_ends_with_the_same_bits(strategy: str) -> None:
    told, weights = training(10, strategy=strategy)
    assert [look.step for look in told.looks] == [10, 20, 30, 40, 50]
    assert [layer["name"] for layer in told.looks[0].layers] == ["hidden1", "output"]
    assert all(layer["update_ratio"] > 0 for look in told.looks[:-1] for layer in look.layers)
    assert told.warnings == []
    quiet, same = training(None, strategy=strategy)
    assert quiet.looks == []
    assert all(np.array_equal(weights[name], same[name]) for name in weights)
