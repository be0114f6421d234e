"""Rates of layers: less, the further from the head, or as given."""

from collections import OrderedDict

import pytest
from torch import nn

from sparkwright.errors import InputError
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.layer_rates import blocks, rate_factors


def network() -> nn.Sequential:
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    head = nn.Sequential(OrderedDict(hidden1=nn.Linear(4, 8), act1=nn.ReLU(), output=nn.Linear(8, 2)))
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), head=head))


def test_a_block_is_a_layer_with_weights_and_what_follows_it() -> None:
    assert blocks(network()) == [
        ("features.0", "features.1", "features.2"),
        ("features.3", "features.4", "flatten"),
        ("head",),
    ]


def test_the_rate_falls_from_the_head_down() -> None:
    factors = rate_factors(network(), TrainingConfig(rate_decay=0.5))
    assert (factors["head.hidden1.weight"], factors["head.output.bias"]) == (1, 1)
    assert (factors["features.3.weight"], factors["features.4.bias"]) == (0.5, 0.5)
    assert (factors["features.0.weight"], factors["features.1.weight"]) == (0.25, 0.25)


def test_a_given_factor_stands_for_all_that_is_inside_and_the_innermost_counts() -> None:
    given = {"features": 0.1, "features.4": 0.3}
    factors = rate_factors(network(), TrainingConfig(rate_decay=0.5, layer_rates=given))
    assert (factors["features.0.weight"], factors["features.3.bias"]) == (0.1, 0.1)
    assert factors["features.4.weight"] == 0.3
    assert factors["head.output.weight"] == 1


def test_frozen_layers_have_no_rate() -> None:
    module = network()
    module.features.requires_grad_(False)
    assert all(name.startswith("head.") for name in rate_factors(module, TrainingConfig(rate_decay=0.5)))
    with pytest.raises(InputError, match=r"`layer_rates` names `features\.0`, which has no weights that train"):
        rate_factors(module, TrainingConfig(layer_rates={"features.0": 0.1}))


def test_a_layer_that_is_not_there_is_named_with_the_closest() -> None:
    with pytest.raises(InputError, match=r"`layer_rates` names `features.33`.*Did you mean `features.3`\?"):
        rate_factors(network(), TrainingConfig(layer_rates={"features.33": 0.1}))
    with pytest.raises(InputError, match=r"`layer_rates` names `feature`.*Did you mean `features`\?"):
        rate_factors(network(), TrainingConfig(layer_rates={"feature": 0.1}))


@pytest.mark.parametrize("rates", [{"features": 0}, {"features": "slow"}, ["features"], 0.1])
def test_rates_that_no_layer_can_have_are_refused(rates: object) -> None:
    with pytest.raises(InputError, match="`layer_rates` must map layers to factors above 0"):
        TrainingConfig(layer_rates=rates)  # type: ignore[arg-type]
