"""Ours on flat tensors beside torch's own."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparkwright.training.config import TrainingConfig
from sparkwright.training.flat import flatten
from sparkwright.training.optimizers import make_optimizer

Torch = Callable[..., torch.optim.Optimizer]


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"optimizer": "sgd", "momentum": 0, "nesterov": False}, torch.optim.SGD),
        ({"optimizer": "sgd", "momentum": 0.9, "nesterov": False}, torch.optim.SGD),
        ({"optimizer": "sgd", "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
        ({"optimizer": "adam", "momentum": 0.8}, torch.optim.Adam),
        ({"optimizer": "adamw", "momentum": 0.9}, torch.optim.AdamW),
    ],
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_torch(settings: dict[str, object], theirs: Torch, decay: float) -> None:
    torch.manual_seed(0)
    ours, reference = nn.Linear(5, 3), nn.Linear(5, 3)
    reference.load_state_dict(ours.state_dict())
    config = TrainingConfig(weight_decay=decay, **settings)  # type: ignore[arg-type]
    optimizer = make_optimizer(config)
    flat = flatten(ours, optimizer.slots)
    momentum = config.momentum
    options = {"momentum": momentum, "nesterov": config.nesterov} if theirs is torch.optim.SGD else {}
    if theirs is not torch.optim.SGD:
        options = {"betas": (momentum, 0.999)}
    groups = [{"params": [reference.weight], "weight_decay": decay}, {"params": [reference.bias], "weight_decay": 0.0}]
    expected = theirs(groups, lr=0.05, **options)
    x = torch.randn(20, 5)
    for step in range(1, 21):
        flat.gradient_N.zero_()
        ours(x).square().mean().backward()
        optimizer.update(flat, 0.05, step)
        expected.zero_grad()
        reference(x).square().mean().backward()
        expected.step()
    torch.testing.assert_close(ours.weight, reference.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.bias, reference.bias, rtol=1e-5, atol=1e-6)


def test_flattening_keeps_values_and_leaves_frozen_parameters_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    module[0].requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flat = flatten(module, slots=2)
    assert flat.state_SN.shape == (3, 32)  # 10 weights and 2 biases, each begun at a multiple of 16
    assert flat.decayed == 16
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    flat.weights_N.fill_(1)
    assert (module[1].weight == 1).all()
    assert torch.equal(module[0].weight, before["0.weight"])
