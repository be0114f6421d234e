from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel

from sparkwright.errors import ColumnError, InputError, NameUnknownError
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.featurizer import Featurizer
from sparkwright.scoring.model_transformer import ModelTransformer, predict
from sparkwright.scoring.several import several_outputs

from .photos import means_network, photo_rows, png

pytestmark = pytest.mark.connect(only=True)

Spark = Any
CLASSES = ("cat", "dog", "eel")
PHOTOS = [png(250, 3, 9), png(4, 200, 77), None]


def photo_model() -> Model:
    head = mlp(3, 3, hidden=[4], seed=1, mean=np.full(3, 100.0), scale=np.full(3, 0.01))
    return Model(network=means_network(), head=head, task="classification", classes=CLASSES)


def collect(rows: Any) -> list[Any]:
    return sorted(rows.collect(), key=lambda row: row.path)


@pytest.mark.connect
def test_one_pass_gives_layers_and_all_that_is_made_of_the_scores(spark: Spark) -> None:
    model = photo_model()
    outputs = {
        "embedding": "flat",
        "kind": "label",
        "p": "probability",
        "all": "probabilities",
        "best": "top",
        "scores": "logits",
    }
    stage = ModelTransformer(model=model, outputs=outputs, top=2, maxErrorRate=1.0, dropInput=True)
    scored = stage.transform(photo_rows(spark, PHOTOS))
    assert set(scored.columns) == {"path", "label", *outputs, "error"}
    usual = predict(photo_rows(spark, PHOTOS), model, top=2, maxErrorRate=1.0)
    by_function = predict(photo_rows(spark, PHOTOS), model, top=2, outputs=outputs, maxErrorRate=1.0, dropInput=True)
    assert by_function.schema == scored.schema
    for row, want in zip(collect(scored), collect(usual), strict=True):
        if want.error is not None:
            assert [row[name] for name in outputs] == [None] * 6
            assert row.error == want.error
            continue
        assert row.kind == want.prediction
        assert row.p == pytest.approx(want.probability, abs=1e-6)
        assert row["all"] == pytest.approx(want.probabilities, abs=1e-6)
        assert [pair.label for pair in row.best] == [pair.label for pair in want.top]
        assert row.scores == pytest.approx(model.head.forward(2 * np.array([row.embedding], np.float32))[0], abs=1e-5)


def test_embeddings_of_several_outputs_are_features_like_others(spark: Spark) -> None:
    network = means_network()
    rows = Featurizer(network=network, outputs={"early": "flat", "late": network.layer}).transform(
        photo_rows(spark, PHOTOS[:2])
    )
    assert FeatureKey.of_column(rows.schema["early"]) == FeatureKey.of(network.cut("flat"))
    assert FeatureKey.of_column(rows.schema["late"]) == FeatureKey.of(network)
    for row in collect(rows):
        assert row.late == pytest.approx([2 * value for value in row.early])


def test_features_give_several_outputs_of_the_head(spark: Spark) -> None:
    model = photo_model()
    features = Featurizer(network=model.network, dropInput=True).transform(photo_rows(spark, PHOTOS[:2])).drop("error")
    scored = predict(features, model, input_column="features", outputs={"hidden": "hidden1", "kind": "label"})
    usual = predict(features, model, input_column="features")
    for row, want in zip(collect(scored), collect(usual), strict=True):
        assert row.kind == want.prediction
        assert len(row.hidden) == 4


def test_one_layer_alone_is_the_graph_cut_there() -> None:
    network = means_network()
    graph, outputs = several_outputs(network, {"x": "flat"})
    assert graph.onnx == network.cut("flat").to_onnx()
    assert [field.name for output in outputs for field in output.fields()] == ["x"]


def test_a_network_with_its_classifier_is_a_model(spark: Spark, tmp_path: Path) -> None:
    network = photo_model().full
    model = Model.of_network(network, CLASSES)
    model.save(str(tmp_path / "model"))
    loaded = Model.load(str(tmp_path / "model"))
    assert (loaded.head, loaded.classes) == (None, CLASSES)
    rows = photo_rows(spark, PHOTOS[:2])
    expected = [(row.prediction, row.probability) for row in collect(predict(rows, photo_model()))]
    for given in (model, str(tmp_path / "model"), network.with_classes(CLASSES)):
        assert [(row.prediction, row.probability) for row in collect(predict(rows, given))] == expected
    numbers = spark.createDataFrame([("a", [1.0, 2.0, 3.0])], "path string, x array<double>")
    with pytest.raises(ColumnError, match="the model is a whole network without a head of its own: give it photos"):
        predict(numbers, model, input_column="x")


def test_a_network_without_names_of_classes_gives_numbers() -> None:
    assert Model.of_network(means_network()).classes == (0, 1, 2)
    with pytest.raises(InputError, match=r"gives outputs of shape \(3,\); got 2 classes"):
        Model.of_network(means_network(), ["a", "b"])
    with pytest.raises(InputError, match="A model needs a network, a head, or both; got neither"):
        Model(None, None, "classification")


@pytest.mark.connect
def test_outputs_are_saved_with_the_pipeline(spark: Spark, tmp_path: Path) -> None:
    outputs = {"embedding": "flat", "kind": "label"}
    stages = [ModelTransformer(model=photo_model(), outputs=outputs, dropInput=True)]
    Pipeline(stages=stages).fit(photo_rows(spark, PHOTOS[:1])).write().overwrite().save(str(tmp_path / "pipeline"))
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))
    assert loaded.stages[0].getOutputs() == outputs
    assert set(loaded.transform(photo_rows(spark, PHOTOS[:1])).columns) == {"path", "label", *outputs, "error"}


def test_what_cannot_be_given_is_said_before_any_job(spark: Spark) -> None:
    rows = photo_rows(spark, PHOTOS[:1])
    model = photo_model()
    with pytest.raises(NameUnknownError, match="has no layer `poool`"):
        predict(rows, model, outputs={"x": "poool"})
    with pytest.raises(InputError, match="outputs names label more than once"):
        predict(rows, model, outputs={"a": "label", "b": "label"})
    with pytest.raises(InputError, match="outputs names all columns that are added; leave out predictionCol"):
        predict(rows, model, outputs={"a": "label"}, predictionCol="b")
    with pytest.raises(InputError, match="and their layers; leave out layer"):
        Featurizer(network=means_network(), layer="flat", outputs={"a": "flat"}).transform(rows)
    with pytest.raises(TypeError, match="Invalid param value given for param"):
        ModelTransformer(model=model, outputs={})
