"""P2: what is frozen stays bit-equal, weights and running statistics, in training, saving and loading."""

import json

import numpy as np
import pytest
import torch

from sparkwright.models import Model
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.network import from_spec
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.training.subject import WholeNetwork


@pytest.mark.parametrize(
    ("name", "options", "until", "moving"),
    [
        ("small_cnn", {"input_shape": (1, 16, 16)}, "block1", "block2.bn.running_mean"),
        ("mobilenet_v1_0.25", {}, "block12", "conv_pw_13.bn.running_mean"),
        ("resnet18", {}, "layer3", "layer4.0.bn1.running_mean"),
        ("mobilenet_v2", {}, "features.10", "features.18.1.running_mean"),
    ],
)
def test_frozen_layers_stay_bit_equal_while_others_train(name, options, until, moving):
    network = load_network(name, weights="random", **options).freeze(until)
    before = {key: value.copy() for key, value in network.weights().items()}
    module = network.to_module().train()
    optimiser = torch.optim.AdamW((p for p in module.parameters() if p.requires_grad), lr=0.1, weight_decay=0.1)
    for seed in range(2):
        x = torch.randn(4, *network.input_shape, generator=torch.Generator().manual_seed(seed))
        module(x).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        module.eval()  # as after an epoch's validation
        module.train()
    trained = network.with_weights(module.state_dict())
    loaded = from_spec(json.loads(json.dumps(trained.to_spec())), trained.weights())
    assert loaded.frozen == network.frozen
    after = loaded.weights()
    frozen = [key for key in before if any(key.startswith(f"{layer}.") for layer in network.frozen)]
    assert len(frozen) > 3
    for key in frozen:
        assert np.array_equal(after[key], before[key]), key
    assert not np.array_equal(after[moving], before[moving])
    assert sum(not np.array_equal(after[key], before[key]) for key in before) > 3


# The same on a cluster: tests/training/test_networks_on_spark.py.
@pytest.mark.parametrize("batch_norm", ["averaged", "local", "frozen"])
def test_frozen_layers_stay_bit_equal_in_a_training_of_replicas_and_in_the_saved_model(batch_norm, tmp_path):
    network = load_network("small_cnn", weights="random", input_shape=(1, 8, 8), channels=(4, 4))
    before, rng = network.weights(), np.random.default_rng(0)
    table = {"features": rng.normal(size=(40, 64)), "label": np.array(["a", "b"] * 20)}
    config = TrainingConfig(epochs=2, replicas=3, batch_size=4, learning_rate=0.1, batch_norm=batch_norm)
    subject = WholeNetwork.of(network, new_head=True, train_from="block2")
    result = fit_table(table, config, subject=subject)
    Model(result.network, result.head, "classification", result.classes).save(str(tmp_path / "model.zip"))
    loaded = Model.load(str(tmp_path / "model.zip")).network
    same = {name for name, value in loaded.weights().items() if np.array_equal(value, before[name])}
    assert same >= {name for name in before if name.startswith("block1")}
    assert "block2.conv.weight" not in same
    assert ("block2.bn.running_mean" in same) == (batch_norm == "frozen")
    assert loaded.frozen >= {"block1.conv", "block1.bn"}
