"""Labels, losses and rare classes on a gang of workers: the bits of a training without Spark."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from sparkwright.evaluation.evaluate import evaluate, evaluate_multilabel
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.predictions import write_predictions
from sparkwright.training.arrays import fit_table
from sparkwright.training.estimators.heads import MLPClassifier

pytestmark = [pytest.mark.connect(only=True), pytest.mark.timeout(120)]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 3))
TABLE = pd.DataFrame(
    {
        "features": X.astype(np.float32).tolist(),
        "kind": np.where(X[:, 0] > 1.2, "fraud", "fine"),
        "tags": [[name for name, has in zip(("left", "top"), (a > 0, b > 1), strict=True) if has] for a, b, _ in X],
        "split": np.where(np.arange(240) < 180, "train", "validation"),
    }
)


def fitted(spark: SparkSession, **params: Any) -> tuple[Any, Model]:
    """Train with Spark, and check that training without gives the same model."""
    rows = spark.createDataFrame(TABLE, "features array<float>, kind string, tags array<string>, split string")
    stage = MLPClassifier(splitCol="split", epochs=8, learningRate=0.05, weightDecay=0.0, replicas=3, **params)
    model = stage.setParams(numWorkers=2).fit(rows)
    kept = model.getModel()
    config = stage._config(kept.task)
    alone = fit_table(TABLE, config, label=params["labelCol"], split="split")
    assert alone.thresholds == kept.thresholds
    for name, values in alone.head.weights().items():
        np.testing.assert_array_equal(kept.head.weights()[name], values)
    return model.transform(rows), kept


def test_several_labels_are_trained_scored_and_evaluated_as_without_spark(spark: SparkSession) -> None:
    scored, kept = fitted(spark, labelCol="tags", thresholdMetric="f1", loss="focal")
    found = evaluate_multilabel(scored, [str(name) for name in kept.classes], label="tags", thresholds=kept.thresholds)
    predicted = scored.select("tags", "prediction").collect()
    right = np.mean([sorted(row["tags"]) == sorted(row["prediction"]) for row in predicted])
    assert found["rows"] == found["evaluated"] == 240
    assert found["subset_accuracy"] == pytest.approx(right)
    assert found["micro"]["f1"] > 0.8


def test_balanced_rows_and_a_threshold_are_those_without_spark(spark: SparkSession) -> None:
    scored, kept = fitted(
        spark, labelCol="kind", sampling="balanced", thresholdMetric="f1", loss="binary_cross_entropy"
    )
    found = evaluate(scored, [str(name) for name in kept.classes], label="kind", threshold=kept.thresholds[0])
    right = np.mean([row["kind"] == row["prediction"] for row in scored.select("kind", "prediction").collect()])
    assert found["accuracy"] == pytest.approx(right)
    assert found["balanced_accuracy"] > 0.8


def test_several_labels_of_a_row_are_joined_in_csv(spark: SparkSession, tmp_path: Path) -> None:
    model = Model(None, mlp(3, 2, seed=1), "multilabel", ("left", "top"))
    rows = spark.createDataFrame(TABLE[["features"]].head(20), "features array<float>").coalesce(1)
    write_predictions(rows, model, str(tmp_path / "labels.csv"), input_column="features", top=2)
    with (tmp_path / "labels.csv").open() as file:
        found = list(csv.DictReader(file))
    has = model.full.forward(X[:20].astype(np.float32)) >= 0
    expected = [";".join(name for name, own in zip(model.classes, row, strict=True) if own) for row in has]
    assert sorted(row["prediction"].strip('"') for row in found) == sorted(expected)
    assert {row["label_1"] for row in found} | {row["label_2"] for row in found} == {"left", "top"}
