"""Ours on flat tensors beside torch's own, and beside the papers' formulas where torch has none."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from sparkwright.training.config import TrainingConfig
from sparkwright.training.loop import cpu_threads
from sparkwright.training.replica.flat import Flat, flatten
from sparkwright.training.replica.optimizers import clip, make_optimizer

Torch = Callable[..., torch.optim.Optimizer]

SETTINGS = [
    ({"optimizer": "sgd", "momentum": 0, "nesterov": False}, torch.optim.SGD, {}),
    ({"optimizer": "sgd", "momentum": 0.9, "nesterov": False}, torch.optim.SGD, {"momentum": 0.9}),
    ({"optimizer": "sgd", "momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ({"optimizer": "adam", "momentum": 0.8}, torch.optim.Adam, {"betas": (0.8, 0.999)}),
    ({"optimizer": "adam", "beta2": 0.9, "epsilon": 0.1}, torch.optim.Adam, {"betas": (0.9, 0.9), "eps": 0.1}),
    ({"optimizer": "adamw"}, torch.optim.AdamW, {}),
    ({"optimizer": "rmsprop"}, torch.optim.RMSprop, {"momentum": 0.9}),
    ({"optimizer": "rmsprop", "momentum": 0, "beta2": 0.9}, torch.optim.RMSprop, {"alpha": 0.9}),
    ({"optimizer": "adadelta"}, torch.optim.Adadelta, {}),
    ({"optimizer": "adagrad"}, torch.optim.Adagrad, {}),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with cpu_threads(1):
        yield


def descend(module: nn.Module, config: TrainingConfig, factors: dict[str, float] | None = None) -> Flat:
    """Take twenty steps of ours."""
    optimizer = make_optimizer(config)
    flat = flatten(module, optimizer.slots, factors)
    for step in range(1, 21):
        flat.gradient_N.zero_()
        module(rows()).square().mean().backward()
        optimizer.update(flat, 0.05, step)
    return flat


def rows() -> Tensor:
    return torch.randn(20, 5, generator=torch.Generator().manual_seed(1))


def twins() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    ours, reference = nn.Linear(5, 3), nn.Linear(5, 3)
    reference.load_state_dict(ours.state_dict())
    return ours, reference


def assert_equal(ours: nn.Module, reference: nn.Module) -> None:
    for (name, own), other in zip(ours.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("settings", "theirs", "options"), SETTINGS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_are_those_of_torch(
    settings: dict[str, object], theirs: Torch, options: dict[str, object], decay: float
) -> None:
    ours, reference = twins()
    descend(ours, TrainingConfig(weight_decay=decay, **settings))  # type: ignore[arg-type]
    groups = [{"params": [reference.weight], "weight_decay": decay}, {"params": [reference.bias], "weight_decay": 0.0}]
    expected = theirs(groups, lr=0.05, **options)
    for _ in range(20):
        expected.zero_grad()
        reference(rows()).square().mean().backward()
        expected.step()
    assert_equal(ours, reference)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_follows_its_paper(decay: float) -> None:
    ours, reference = twins()
    descend(ours, TrainingConfig(optimizer="lamb", weight_decay=decay))
    means = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in reference.named_parameters()}
    for step in range(1, 21):
        reference.zero_grad()
        reference(rows()).square().mean().backward()
        for name, (m, v) in means.items():
            w = reference.get_parameter(name)
            g = w.grad
            assert g is not None
            with torch.no_grad():
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g * g)
                r = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-6)
                if name == "weight":
                    r += decay * w
                    r *= w.norm() / r.norm()
                w -= 0.05 * r
    assert_equal(ours, reference)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_follows_its_paper(decay: float) -> None:
    ours, reference = twins()
    descend(ours, TrainingConfig(optimizer="lars", nesterov=False, weight_decay=decay))
    momenta = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    for _ in range(20):
        reference.zero_grad()
        reference(rows()).square().mean().backward()
        for name, v in momenta.items():
            w = reference.get_parameter(name)
            g = w.grad
            assert g is not None
            with torch.no_grad():
                local, penalty = (0.001 * w.norm() / (g.norm() + decay * w.norm()), decay) if w.dim() > 1 else (1, 0)
                v.copy_(0.9 * v + 0.05 * local * (g + penalty * w))
                w -= v
    assert_equal(ours, reference)


@pytest.mark.parametrize("optimizer", ["lamb", "lars"])
def test_layers_of_zeros_are_stepped_as_by_sgd_and_adam(optimizer: str) -> None:
    ours, _ = twins()
    nn.init.zeros_(ours.weight)
    flat = descend(ours, TrainingConfig(optimizer=optimizer))
    assert torch.isfinite(flat.state_SN).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lamb", "lars", "rmsprop"])
def test_a_layer_with_half_the_rate_takes_half_the_step(optimizer: str) -> None:
    changes = []
    for factor in (1.0, 0.5):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2))
        before = module[0].weight.detach().clone()
        config = TrainingConfig(optimizer=optimizer, weight_decay=0)
        chosen = make_optimizer(config)
        flat = flatten(module, chosen.slots, {"0.weight": factor, "0.bias": factor})
        module(rows()).square().mean().backward()
        chosen.update(flat, 0.05, 1)
        changes.append(module[0].weight.detach() - before)
    torch.testing.assert_close(changes[1], changes[0] / 2, rtol=1e-4, atol=1e-7)


def test_a_gradient_is_clipped_as_torch_clips_it() -> None:
    ours, reference = twins()
    flat = flatten(ours, 0)
    for module in (ours, reference):
        module(10 * rows()).square().mean().backward()
    nn.utils.clip_grad_value_(reference.parameters(), 3.0)
    nn.utils.clip_grad_norm_(reference.parameters(), 2.0)
    clip(flat.gradient_N, norm=2.0, value=3.0)
    assert ours.weight.grad is not None
    torch.testing.assert_close(ours.weight.grad, reference.weight.grad)
    before = flat.gradient_N.clone()
    clip(flat.gradient_N, norm=100.0, value=100.0)
    assert torch.equal(flat.gradient_N, before)


def test_flattening_keeps_values_and_leaves_frozen_parameters_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    module[0].requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flat = flatten(module, slots=2)
    assert flat.state_SN.shape == (3, 32)  # 10 weights and 2 biases, each begun at a multiple of 16
    assert [(group.part, group.decays) for group in flat.groups] == [(slice(0, 16), True), (slice(16, 32), False)]
    assert flat.tensors == {"1.weight": slice(0, 10), "1.bias": slice(16, 18)}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    flat.weights_N.fill_(1)
    assert (module[1].weight == 1).all()
    assert torch.equal(module[0].weight, before["0.weight"])


def test_weights_of_one_rate_and_one_decay_lie_side_by_side() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(2, 2))
    flat = flatten(module, 0, {"0.weight": 0.1, "0.bias": 0.1})
    told = [(group.rate_factor, group.decays, len(group.tensors)) for group in flat.groups]
    assert told == [(1.0, True, 2), (1.0, False, 2), (0.1, True, 1), (0.1, False, 1)]
    assert [group.part.start for group in flat.groups[1:]] == [group.part.stop for group in flat.groups[:-1]]
    assert flat.groups[-1].part.stop == flat.state_SN.shape[1]


def test_weights_whose_channels_come_last_keep_their_layout() -> None:
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    before = module.weight.detach().clone()
    flat = flatten(module, 0)
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(module.weight, before)
    module(torch.rand(1, 3, 4, 4)).sum().backward()
    assert torch.count_nonzero(flat.gradient_N) == module.weight.numel() + module.bias.numel()


def test_without_decay_neighbours_of_one_rate_are_stepped_at_once() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(2, 2))
    flat = flatten(module, 0, {"0.weight": 0.1, "0.bias": 0.1})
    assert [(group.part, group.rate_factor, len(group.tensors)) for group in flat.undecayed] == [
        (slice(0, flat.groups[1].part.stop), 1.0, 4),
        (slice(flat.groups[1].part.stop, flat.groups[-1].part.stop), 0.1, 2),
    ]
    assert not any(group.decays for group in flat.undecayed)
