"""Estimators of whole networks, on tables without Spark."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sparkwright.errors import ColumnError, InputError
from sparkwright.models import Model
from sparkwright.networks.augmentation import PRESETS, Augmentation
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import FINETUNING
from sparkwright.training.estimators.networks import NetworkClassifier, NetworkRegressor
from sparkwright.training.subject import WholeNetwork

PREPROCESSING = Preprocessing((16, 16), resize="exact", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
QUICK = {"epochs": 2, "replicas": 2, "batchSize": 8, "learningRate": 0.01}


@pytest.fixture(scope="module")
def photos() -> pa.Table:
    """Noise in red and in blue; the redder, the higher its value."""
    rng, contents, values = np.random.default_rng(0), [], []
    for number in range(32):
        pixels = rng.integers(0, 120, (18, 18, 3))
        pixels[..., 0 if number % 2 else 2] += 100
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        contents.append(file.getvalue())
        values.append(float(pixels[..., 0].mean() - pixels[..., 2].mean()))
    labels = ["red" if number % 2 else "blue" for number in range(32)]
    return pa.table({"content": pa.array(contents, pa.binary()), "label": labels, "value": values})


def small_cnn():
    network = load_network(
        "small_cnn", weights="random", seed=1, input_shape=(3, 16, 16), outputs=2, channels=(4, 8), features=8
    )
    return network.with_preprocessing(PREPROCESSING)


def test_a_classifier_of_photos_learns_and_its_model_goes_on(photos: pa.Table, tmp_path: Path) -> None:
    fitted = NetworkClassifier(network=small_cnn(), **{**QUICK, "epochs": 6}).fit(photos)
    model = fitted.getModel()
    scores = model.full.forward(np.stack([PREPROCESSING.apply(value.as_py()) for value in photos["content"]]))
    assert [model.classes[best] for best in scores.argmax(1)] == photos["label"].to_pylist()
    assert fitted.history["train_loss"].is_monotonic_decreasing
    model.save(str(tmp_path / "model"))
    again = NetworkClassifier(initialModel=str(tmp_path / "model"), trainFrom="head", **QUICK).fit(photos).getModel()
    before, after = Model.load(str(tmp_path / "model")).network.weights(), again.network.weights()
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    assert not np.array_equal(again.head.weights()["output.weight"], model.head.weights()["output.weight"])


def test_a_regression_of_photos_gives_the_targets_own_units(photos: pa.Table) -> None:
    fitted = NetworkRegressor(network=small_cnn(), labelCol="value", **{**QUICK, "epochs": 30}).fit(photos)
    values = fitted.getModel().full.forward(
        np.stack([PREPROCESSING.apply(value.as_py()) for value in photos["content"]])
    )
    error = values[:, 0] - photos["value"].to_numpy()
    assert np.abs(error).mean() < 0.3 * photos["value"].to_numpy().std()


def test_the_defaults_are_those_of_fine_tuning() -> None:
    estimator = NetworkClassifier(network="resnet18")
    assert estimator.config() == FINETUNING.replace(learning_rate=3e-4, weight_average=None, batch_norm="averaged")
    assert estimator.getOrDefault("featuresCol") == "content"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "Name the `network` to train, or the `initialModel` to go on from; neither is set"),
        (
            {"network": small_cnn(), "trainFrom": "block9"},
            "The network `small_cnn` has no layer `block9`.",
        ),
        (
            {"network": small_cnn(), "featuresCol": "value"},
            "Column `value` must hold files' bytes, their paths,",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_with_the_reason(photos: pa.Table, params, message: str) -> None:
    with pytest.raises(InputError) as caught:
        NetworkClassifier(**params).fit(photos)
    assert message in str(caught.value)
    assert ("Column" in str(caught.value)) == ("Column" in message)  # a column is not blamed for a layer


def test_numbers_for_labels_are_told_the_estimator_that_learns_them(photos: pa.Table) -> None:
    with pytest.raises(ColumnError, match=r"`value` is no whole number \(for regression use `NetworkRegressor`\)"):
        NetworkClassifier(network=small_cnn(), labelCol="value").fit(photos)
    with pytest.raises(
        ColumnError, match=r'\(for regression use TrainingConfig\(task="regression"\)\), for example `v'
    ):
        fit_table(photos, features="content", label="value", subject=WholeNetwork.of(small_cnn(), new_head=True))


def test_an_estimator_is_saved_with_the_name_of_its_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="saved with the name or the path of its `network`, not with the network"):
        NetworkClassifier(network=small_cnn()).save(str(tmp_path / "estimator"))


def test_photos_are_augmented_as_the_param_says_from_a_network_and_from_a_model(photos: pa.Table) -> None:
    flips = {"flip_horizontal": 0.5, "mixup": 0.2}
    model = NetworkClassifier(network=small_cnn(), augmentation=flips, **QUICK).fit(photos).getModel()
    assert model.full.preprocessing.augmentation == Augmentation(**flips)
    plain = NetworkClassifier(network=small_cnn(), **QUICK).fit(photos).getModel()
    assert not np.array_equal(model.head.weights()["output.weight"], plain.head.weights()["output.weight"])
    again = NetworkClassifier(initialModel=plain, augmentation="aerial", **QUICK).fit(photos).getModel()
    assert again.full.preprocessing.augmentation == PRESETS["aerial"]
    with pytest.raises(InputError, match=r"There is no augmentation 'arial'.* Did you mean `aerial`"):
        NetworkClassifier(augmentation="arial")
