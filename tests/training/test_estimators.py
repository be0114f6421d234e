"""The estimators: Params, pipelines, saving and loading."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import DataFrame, SparkSession

from sparkwright.errors import ColumnError, InputError, NameUnknownError
from sparkwright.events import EpochEnded
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.runs import read_run
from sparkwright.training.config import TrainingConfig
from sparkwright.training.estimators.heads import MLPClassifier, MLPRegressor
from sparkwright.training.estimators.models import MLPClassificationModel

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def table(spark: SparkSession) -> DataFrame:
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=200)
    x = (rng.normal(size=(2, 6)) * 3)[y] + rng.normal(size=(200, 6))
    data = {
        "features": x.tolist(),
        "label": np.array(["cat", "dog"])[y],
        "index": y.astype(float),
        "size": x[:, 0] * 100 + 1000,
        "split": np.where(np.arange(200) % 4, "train", "validation"),
    }
    schema = "features array<float>, label string, index double, size double, split string"
    return spark.createDataFrame(pd.DataFrame(data), schema).cache()


def test_the_defaults_are_those_of_the_configuration(spark: SparkSession) -> None:
    assert MLPClassifier().config() == TrainingConfig()
    assert MLPRegressor().config() == TrainingConfig(task="regression")


def test_params_reach_the_configuration(spark: SparkSession) -> None:
    estimator = MLPClassifier(hiddenLayers=[32], learningRate=0.3, classWeights={"cat": 2.0}, patience=None)
    assert estimator.config() == TrainingConfig(
        hidden=(32,), learning_rate=0.3, class_weights={"cat": 2.0}, patience=None
    )
    assert estimator.copy({estimator.epochs: 7}).config().epochs == 7


def test_an_unknown_param_is_named_with_the_closest(spark: SparkSession) -> None:
    with pytest.raises(
        NameUnknownError, match=r"MLPClassifier cannot be .* no Param `learning_rate`\. Did you mean `learningRate`"
    ):
        MLPClassifier(learning_rate=0.1)


def test_values_that_cannot_be_used_are_said_before_the_job(table: DataFrame) -> None:
    with pytest.raises(
        InputError, match=r"`optimizer` must be one of sgd, adam, .*lamb, lars, not 'adan'\. Did you mean `adam`"
    ):
        MLPClassifier(optimizer="adan").fit(table)


@pytest.mark.connect
def test_a_pipeline_with_a_classifier_is_saved_and_loaded(table: DataFrame, tmp_path: Path) -> None:
    estimator = MLPClassifier(splitCol="split", epochs=8, batchSize=16, optimizer="sgd", predictionCol="animal")
    model = Pipeline(stages=[estimator]).fit(table)
    expected = model.transform(table).toPandas()
    assert (expected["animal"] == expected["label"]).mean() > 0.95
    assert set(expected.columns) >= {"animal", "probability", "probabilities", "error"}
    model.write().save(str(tmp_path / "pipeline"))
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))
    assert (loaded.transform(table).toPandas()["animal"] == expected["animal"]).all()
    stage = loaded.stages[0]
    assert isinstance(stage, MLPClassificationModel)
    assert stage.history["epoch"].tolist() == list(range(1, 9))
    assert {"train_loss", "validation_accuracy", "learning_rate", "best"} <= set(stage.history.columns)
    assert 1 <= stage.bestEpoch <= 8
    stage.getModel().save(str(tmp_path / "model"))
    assert Model.load(str(tmp_path / "model")).classes == ("cat", "dog")
    training = json.loads((tmp_path / "model" / "model.json").read_text())["lineage"]["training"]
    assert training["rows"] == {"train": 150, "validation": 50}


def test_an_estimator_is_saved_and_loaded(spark: SparkSession, tmp_path: Path) -> None:
    estimator = MLPClassifier(hiddenLayers=[4], classWeights="balanced", patience=None, splitCol="side")
    estimator.save(str(tmp_path / "estimator"))
    loaded = MLPClassifier.load(str(tmp_path / "estimator"))
    assert loaded.config() == estimator.config()
    assert loaded.getOrDefault("splitCol") == "side"
    assert loaded.uid == estimator.uid


def test_labels_that_are_numbers_are_predicted_as_numbers(table: DataFrame) -> None:
    model = MLPClassifier(labelCol="index", epochs=8, batchSize=16, optimizer="sgd").fit(table)
    predicted = model.transform(table).select("index", "prediction")
    assert dict(predicted.dtypes)["prediction"] == "double"
    assert predicted.where("index = prediction").count() > 190


def test_a_training_in_a_run_folder_is_a_run_with_a_report(table: DataFrame, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    model = MLPClassifier(splitCol="split", epochs=2, batchSize=8, healthEvery=4, runDir=run).fit(table)
    document, metrics, events = read_run(run)
    assert document["config"]["columns"] == {"features": ["features"], "label": "label", "split": "split"}
    assert metrics["validation"]["accuracy"] == model.history["validation_accuracy"][model.bestEpoch - 1]
    assert metrics["rows"] == {"train": 150, "validation": 50}
    assert [stamped.event.epoch for stamped in events if isinstance(stamped.event, EpochEnded)] == [1, 2]
    assert events[-1].event.ok
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == ["Learning", "Layers", "The run"]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_regression_predicts_in_the_targets_units(table: DataFrame) -> None:
    estimator = MLPRegressor(labelCol="size", splitCol="split", epochs=60, batchSize=8, learningRate=0.05)
    model = estimator.fit(table)
    predicted = model.transform(table).select("size", "prediction").toPandas()
    assert np.corrcoef(predicted["size"], predicted["prediction"].astype(float))[0, 1] > 0.99
    assert model.getModel().task == "regression"
    assert model.history["validation_rmse"].iloc[-1] < 30


@pytest.mark.connect
def test_named_columns_give_what_they_give_without_spark(table: DataFrame) -> None:
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F  # noqa: N812

    mixed = table.select(
        array_to_vector(F.slice("features", 1, 4).cast("array<double>")).alias("vector"),
        F.slice("features", 5, 2).alias("array"),
        F.round("size").cast("bigint").alias("whole"),
        (F.col("size") > 1000).alias("flag"),
        F.col("size").cast("decimal(12,4)").alias("decimal"),
        "label",
    ).cache()
    local = mixed.toPandas().astype({"decimal": float})
    names = ["whole", "vector", "flag", "array", "decimal"]
    estimator = MLPClassifier(featuresCols=names, epochs=4, validationFraction=0.2, hiddenLayers=[8], dropout=0.0)
    for params in ({}, {estimator.epochs: 1, estimator.learningRate: 1e-4}):  # the second time from the first's model
        estimator = estimator.copy(params)
        model, alone = estimator.fit(mixed), estimator.fit(local)
        weights, expected = model.getModel().head.weights(), alone.getModel().head.weights()
        assert {name: value.tobytes() for name, value in weights.items()} == {
            name: value.tobytes() for name, value in expected.items()
        }
        estimator.setParams(initialModel=model)
    predicted = model.transform(mixed).toPandas()
    pd.testing.assert_frame_equal(
        predicted[["prediction", "probability"]], alone.transform(local)[["prediction", "probability"]]
    )
    assert list(predicted) == [*mixed.columns, "prediction", "probability", "probabilities", "error"]
    assert list(model.copy({model.dropInput: True}).transform(mixed).columns)[:2] == ["label", "prediction"]


@pytest.mark.connect
def test_all_that_is_wrong_with_a_table_of_spark_is_said_before_a_job(table: DataFrame) -> None:
    with pytest.raises(InputError) as caught:
        MLPClassifier(featuresCols=["Size", "split"], labelCol="lable", learningRate=-1).fit(table)
    there = ["features", "label", "index", "size", "split"]
    assert caught.value.problems[:3] == (
        "`learningRate` must be above 0, not -1.0.",
        f"Column `Size` not found in {there}. Did you mean `size`?",
        f"Column `lable` not found in {there}. Did you mean `label`?",
    )
    with pytest.raises(ColumnError, match="Column `features` is among the features, and is the label"):
        MLPClassifier(labelCol="features").fit(table)
    small = Model(None, mlp(3, 2), "classification", ("a", "b"))
    stage = MLPClassificationModel(model=small, inputCols=["size", "index"])
    with pytest.raises(
        InputError, match="`inputCols` names 2 columns of one number each; the model takes 3: those that"
    ):
        stage.transform(table)
    with pytest.raises(ColumnError, match=r"it is of type double\. Columns of one number each are given together, as"):
        MLPClassificationModel(model=small, inputCol="size").transform(table)
    stage = MLPClassificationModel(inputCols=["size", "Index", "label"])
    with pytest.raises(
        ColumnError, match=r"`Index` not found in .* Did you mean `index`\?\n.*`label` must hold numbers"
    ):
        stage.transform(table)


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")  # pyspark's own
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_epochs_are_chosen_by_spark_s_cross_validation(table: DataFrame) -> None:
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

    estimator = MLPClassifier(labelCol="index", batchSize=16, optimizer="sgd")
    grid = ParamGridBuilder().addGrid(estimator.epochs, [1, 8]).build()
    evaluator = MulticlassClassificationEvaluator(labelCol="index", metricName="accuracy", probabilityCol="vectors")
    search = CrossValidator(estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, seed=0)
    assert max(search.fit(table).avgMetrics) > 0.95


@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")  # pyspark's own
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_rate_is_chosen_by_spark_s_validation_split(table: DataFrame) -> None:
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit

    estimator = MLPClassifier(labelCol="index", batchSize=16, optimizer="sgd", epochs=4, replicas=1)
    grid = ParamGridBuilder().addGrid(estimator.learningRate, [1e-6, 0.05]).build()
    evaluator = MulticlassClassificationEvaluator(labelCol="index", metricName="accuracy", probabilityCol="vectors")
    search = TrainValidationSplit(estimator=estimator, estimatorParamMaps=grid, evaluator=evaluator, seed=0)
    found = search.fit(table)
    assert found.validationMetrics[1] > max(0.9, found.validationMetrics[0])
    assert found.bestModel.getModel().lineage["training"]["config"]["learning_rate"] == 0.05
