"""Whole networks train on a cluster to the bits of training without Spark; frozen layers as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from sparkwright.models import Model
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.training.arrays import fit_table
from sparkwright.training.cluster.fit import train
from sparkwright.training.config import TrainingConfig
from sparkwright.training.result import TrainingResult
from sparkwright.training.subject import WholeNetwork

pytestmark = [pytest.mark.connect(only=True), pytest.mark.timeout(120)]

CONFIG = TrainingConfig(epochs=2, replicas=2, batch_size=8, learning_rate=0.01, sync_every=4, weight_decay=0.01)
PREPROCESSING = Preprocessing((16, 16), resize="exact", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Noise in red and in blue, as files, and their paths."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths, labels = [], ["red", "blue"] * 12
    for number, label in enumerate(labels):
        pixels = rng.integers(0, 120, (18, 18, 3))
        pixels[..., 0 if label == "red" else 2] += 100
        path = folder / f"{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        paths.append(path)
    content = [path.read_bytes() for path in paths]
    split = ["validation" if number % 4 == 3 else "train" for number in range(24)]
    return {"content": content, "path": [str(path) for path in paths], "label": labels, "split": split}


@pytest.fixture(scope="module")
def rows(spark: SparkSession, table: dict[str, list[Any]]) -> DataFrame:
    ddl = "content binary, path string, label string, split string"
    return spark.createDataFrame(list(zip(*table.values(), strict=True)), ddl).repartition(3)


def subject() -> WholeNetwork:
    network = load_network(
        "small_cnn", weights="random", seed=1, input_shape=(3, 16, 16), outputs=2, channels=(4, 8), features=8
    )
    return WholeNetwork.of(network.with_preprocessing(PREPROCESSING), new_head=True, train_from="block2")


def assert_same(result: TrainingResult, expected: TrainingResult) -> None:
    for part in ("network", "head"):
        there, wanted = getattr(result, part).weights(), getattr(expected, part).weights()
        assert there.keys() == wanted.keys()
        for name, value in there.items():
            np.testing.assert_array_equal(value, wanted[name], name)
    assert [event.validation for event in result.history] == [event.validation for event in expected.history]


@pytest.mark.parametrize(("features", "workers"), [("content", 2), ("path", 1)])
def test_a_gang_gives_the_bits_of_training_without_spark(
    rows: DataFrame, table: dict[str, list[Any]], features: str, workers: int, tmp_path: Path
) -> None:
    chosen = {"features": features, "split": "split", "subject": subject()}
    expected = fit_table(table, CONFIG, **chosen)
    result = train(rows, CONFIG, num_workers=workers, **chosen)
    assert_same(result, expected)
    assert result.network is not None
    frozen = subject().body.weights()
    Model(result.network, result.head, "classification", result.classes).save(str(tmp_path / "model"))
    loaded = Model.load(str(tmp_path / "model")).network
    assert loaded is not None
    for name, value in loaded.weights().items():
        assert np.array_equal(value, frozen[name]) == (name.startswith("block1") or "num_batches" in name), name
    assert "block1.bn" in loaded.frozen


def test_rounds_give_the_bits_of_training_without_spark(
    rows: DataFrame, table: dict[str, list[Any]], tmp_path: Path
) -> None:
    config = CONFIG.replace(epochs=1, batch_norm="local")
    chosen = {"features": "content", "split": "split", "subject": subject()}
    result = train(rows, config, num_workers=2, transport="rounds", run=str(tmp_path), **chosen)
    assert_same(result, fit_table(table, config, **chosen))
