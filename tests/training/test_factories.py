"""Networks that a function of the user's builds train like those of the catalogue."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.errors import InputError
from sparkwright.models import Model
from sparkwright.networks import factory
from sparkwright.networks.factory import from_factory
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.training.arrays import fit_table
from sparkwright.training.cluster.fit import train
from sparkwright.training.config import TrainingConfig
from sparkwright.training.result import TrainingResult
from sparkwright.training.subject import WholeNetwork

MODULE = """
import torch
from torch import nn


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.output = nn.Linear(2 * 4 + 3, 2)

    def forward(self, image, numbers):
        seen = torch.relu(self.norm(self.conv(image))).flatten(1)
        return {"logits": self.output(torch.cat([seen, numbers], 1)), "maps": seen}


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)
"""
CONFIG = TrainingConfig(epochs=20, replicas=2, batch_size=8, learning_rate=0.02, weight_decay=0.0, health_every=20)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TorchNetwork:
    """A network of two inputs."""
    (tmp_path / "nets_of_two.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(factory, "_trusted", set())
    return from_factory("nets_of_two:Both", {"image": (1, 4, 4), "numbers": (3,)}, output="logits")


def table(rows: int = 120) -> pa.Table:
    """Rows whose label is in both columns: the sum's sign of the third number and of the image."""
    rng = np.random.default_rng(0)
    image, numbers = rng.normal(size=(rows, 16)), rng.normal(size=(rows, 3))
    label = np.where(numbers[:, 2] + image.mean(1) * 4 > 0, "above", "below")
    return pa.table({"image": list(image.astype(np.float32)), "numbers": list(numbers), "label": label})


def fit(network: TorchNetwork, features: list[str], **settings: object) -> TrainingResult:
    subject = WholeNetwork.of(network, **settings)  # type: ignore[arg-type]
    return fit_table(table(), CONFIG, features=features, subject=subject)


def test_a_network_of_two_inputs_learns_from_two_columns(both: TorchNetwork, tmp_path: Path) -> None:
    result = fit(both, ["image", "numbers"])
    assert result.history[-1].training["accuracy"] > 0.8
    assert result.network is not None
    model = Model(result.network, None, "classification", result.classes)
    model.save(str(tmp_path / "model"))
    rows = table()
    x = np.hstack([np.stack(rows[name].to_numpy()) for name in ("image", "numbers")]).astype(np.float32)
    scores = Model.load(str(tmp_path / "model")).full.forward(x)
    assert np.array_equal(scores, result.network.forward(x))
    right = np.array(result.classes)[scores.argmax(1)] == rows["label"].to_numpy()
    assert right.mean() > 0.8


def test_columns_in_another_order_than_the_inputs_are_refused(both: TorchNetwork) -> None:
    with pytest.raises(InputError, match=r"takes its inputs in the order image, numbers; the columns are numbers, im"):
        fit(both, ["numbers", "image"])


def test_frozen_modules_inside_stay_as_they_were(both: TorchNetwork) -> None:
    result = fit(both, ["image", "numbers"], train_from="module.inner.output")
    assert result.network is not None
    assert result.network.frozen == {"module.inner.conv", "module.inner.norm"}
    before, after = both.weights(), result.network.weights()
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name for name in before if ".output." not in name} == same


def test_a_layer_that_leaves_nothing_to_train_is_said() -> None:
    with pytest.raises(InputError, match=r"Nothing of the network `Linear` would train"):
        WholeNetwork.of(from_factory("torch.nn:Linear", (4,), {"in_features": 4, "out_features": 2}).freeze())


@pytest.mark.usefixtures("both")
def test_a_network_that_cannot_be_saved_is_refused_before_the_training() -> None:
    network = from_factory("nets_of_two:Branching", (4,), {"in_features": 4, "out_features": 2})
    with pytest.raises(InputError, match=r"`Branching` cannot be exported to ONNX.*\nIts `forward` must be traceable"):
        WholeNetwork.of(network)


@pytest.mark.spark
@pytest.mark.timeout(240)
def test_workers_build_the_network_by_its_factory(spark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_trusted", set())
    network = from_factory("torch.nn:Linear", (3,), {"in_features": 3, "out_features": 2})
    rows, config = table(24).select(["numbers", "label"]), CONFIG.replace(epochs=1)
    here = fit_table(rows, config, features="numbers", subject=WholeNetwork.of(network))
    df = spark.createDataFrame(rows.to_pandas())
    there = train(df, config, features="numbers", num_workers=2, subject=WholeNetwork.of(network))
    assert here.network is not None
    assert there.network is not None
    for name, value in here.network.weights().items():
        assert np.array_equal(value, there.network.weights()[name])
