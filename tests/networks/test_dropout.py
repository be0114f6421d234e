"""Dropout of 16 random bits an element."""

import pytest
import torch

from sparkwright.networks.dropout import Dropout, draw_bits, noise_of


@pytest.mark.parametrize("p", [0.01, 0.3, 0.5, 0.9])
def test_the_share_that_is_wanted_is_dropped_and_means_stay(p: float) -> None:
    torch.manual_seed(1)
    dropped = Dropout(p)(torch.ones(1000, 401))
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=0.003)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert len(dropped.unique()) == 2


def test_neighbours_are_dropped_independently() -> None:
    kept = (noise_of(draw_bits(100_000, torch.Generator().manual_seed(3)), (100_000, 4), 0.4) > 0).double()
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.01


def test_gradients_pass_through_what_is_kept() -> None:
    x = torch.ones(7, 5, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert 0 < (y == 0).sum() < y.numel()


def test_scoring_drops_nothing() -> None:
    x = torch.ones(3, 2)
    assert Dropout(0.5).eval()(x) is x


def test_a_seed_drops_the_same_on_all_processors() -> None:
    torch.manual_seed(5)
    assert (Dropout(0.5)(torch.ones(12)) / 2).int().tolist() == [0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
def test_probabilities_next_to_the_ends_stay_inside(p: float) -> None:
    noise = noise_of(draw_bits(250), (1000,), p)
    assert noise.isfinite().all()
    assert (noise > 0).float().mean().item() == pytest.approx(1 - p, abs=0.01)


def test_other_types_of_numbers_keep_theirs() -> None:
    assert Dropout(0.5)(torch.ones(4, dtype=torch.bfloat16)).dtype == torch.bfloat16
