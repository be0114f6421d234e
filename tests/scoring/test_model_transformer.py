from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel

from sparkwright.errors import ColumnError, InputError, NotFoundError
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.featurizer import Featurizer
from sparkwright.scoring.model_transformer import ModelTransformer, predict
from sparkwright.scoring.predictor import Predictor

from .photos import means_network, photo_rows, png

pytestmark = pytest.mark.connect(only=True)

Spark = Any
CLASSES = ("cat", "dog", "eel")
PHOTOS = [png(250, 3, 9), png(4, 200, 77), png(0, 0, 255), None, b"text"]


def photo_model() -> Model:
    """Weights small enough that no probability is 0 or 1."""
    head = mlp(3, 3, hidden=[4], seed=1, mean=np.full(3, 100.0), scale=np.full(3, 0.01))
    return Model(network=means_network(), head=head, task="classification", classes=CLASSES)


def feature_model(task: str = "classification") -> Model:
    outputs = 3 if task == "classification" else 1
    head = mlp(3, outputs, seed=1, mean=np.full(3, 100.0), scale=np.full(3, 0.01))
    lineage = {"features": FeatureKey.of(means_network()).to_dict()}
    return Model(None, head, task, CLASSES if task == "classification" else (), lineage=lineage)


def collect(rows: Any) -> list[Any]:
    return sorted(rows.collect(), key=lambda row: row.path)


@pytest.mark.connect
def test_photos_get_label_probability_and_the_best(spark: Spark) -> None:
    stage = ModelTransformer(model=photo_model(), topCol="top", top=2, maxErrorRate=0.5, dropInput=True)
    scored = stage.transform(photo_rows(spark, PHOTOS))
    assert scored.columns == ["path", "label", "prediction", "probability", "probabilities", "top", "error"]
    assert scored.schema["top"].dataType.simpleString() == "array<struct<label:string,probability:float>>"
    found = collect(scored)
    expected = Predictor(photo_model().to_files(), top=2).predict([photo or b"" for photo in PHOTOS])
    for row, want in zip(found[:3], expected, strict=False):
        assert (row.prediction, row.probability) == (want.label, want.probability)
        assert tuple((pair.label, pair.probability) for pair in row.top) == want.top
        assert row.probability == max(row.probabilities)
        assert CLASSES[int(np.argmax(row.probabilities))] == row.prediction
        assert row.error is None
    for row, kind in zip(found[3:], ["empty", "unreadable"], strict=True):
        assert (row.prediction, row.probability, row.probabilities, row.top) == (None, None, None, None)
        assert row.error.kind == kind


def test_features_go_through_the_head_alone_and_give_the_same(spark: Spark) -> None:
    rows = photo_rows(spark, PHOTOS[:3])
    model = photo_model()
    features = Featurizer(network=model.network, dropInput=True).transform(rows).drop("error")
    by_features = collect(predict(features, model, input_column="features"))
    by_photos = collect(predict(rows, model))
    assert [row.prediction for row in by_features] == [row.prediction for row in by_photos]
    assert np.allclose([row.probabilities for row in by_features], [row.probabilities for row in by_photos], atol=1e-6)


@pytest.mark.parametrize("model", [photo_model(), feature_model()], ids=["of photos", "of features"])
def test_features_of_another_layer_or_width_are_refused(spark: Spark, model: Model) -> None:
    rows = photo_rows(spark, PHOTOS[:1])
    other = Featurizer(network=means_network(), layer="flat", dropInput=True).transform(rows).drop("error")
    message = (
        r"`features` holds features of `means` at layer `flat.* the model expects those of `means` at layer `output_0`"
    )
    with pytest.raises(InputError, match=message):
        predict(other, model, input_column="features")
    wide = Featurizer(network=mlp(2, 7), layer="output", inputCol="x")
    frame = wide.transform(spark.createDataFrame([("a", [1.0, 2.0])], "path string, x array<float>")).drop("error")
    bare = Model(None, model.head, "classification", CLASSES)
    with pytest.raises(InputError, match="`features` has 7 features a row; the model takes 3"):
        predict(frame, bare, input_column="features")


def test_ragged_and_nan_features_keep_their_rows(spark: Spark) -> None:
    values = [("a", [1.0, 2.0, 3.0]), ("b", [1.0]), ("c", [float("nan"), 0.0, 0.0]), ("d", None)]
    frame = spark.createDataFrame(values, "path string, x array<double>")
    found = collect(predict(frame, feature_model(), input_column="x"))
    assert [row.error and row.error.kind for row in found] == [None, "wrong shape", "not finite", "empty"]
    assert [row.prediction is None for row in found] == [False, True, True, True]


def test_regression_gives_values(spark: Spark) -> None:
    frame = spark.createDataFrame([("a", [1.0, 2.0, 3.0]), ("b", None)], "path string, x array<double>")
    model = feature_model("regression")
    found = collect(predict(frame, model, input_column="x"))
    assert found[0].prediction == pytest.approx(float(model.head.forward(np.array([[1, 2, 3]], np.float32))[0, 0]))
    assert found[1].prediction is None
    assert "probability" not in found[0].asDict()


def test_an_empty_frame_gives_no_rows_but_all_columns(spark: Spark) -> None:
    scored = predict(photo_rows(spark, []), photo_model(), top=3, probabilitiesCol="")
    assert scored.columns == ["path", "content", "label", "prediction", "probability", "top", "error"]
    assert scored.collect() == []


@pytest.mark.connect
def test_a_saved_pipeline_needs_neither_run_nor_model_folder(spark: Spark, tmp_path: Path) -> None:
    where = str(tmp_path / "model")
    photo_model().save(where)
    pipeline = Pipeline(stages=[ModelTransformer(model=where, topCol="top", dropInput=True)])
    rows = photo_rows(spark, PHOTOS[:3])
    fitted = pipeline.fit(rows)
    expected = collect(fitted.transform(rows))
    fitted.write().overwrite().save(str(tmp_path / "pipeline"))
    (tmp_path / "model").rename(tmp_path / "moved")
    loaded = PipelineModel.load(str(tmp_path / "pipeline"))
    assert collect(loaded.transform(rows)) == expected
    assert loaded.stages[0].getModel().classes == CLASSES


def test_what_cannot_work_is_said_before_any_job(spark: Spark) -> None:
    rows = photo_rows(spark, PHOTOS[:1])
    with pytest.raises(InputError, match=r"ModelTransformer needs a model. Set it: ModelTransformer\(model=…\)"):
        ModelTransformer().transform(rows)
    with pytest.raises(ColumnError, match="`content` holds photos, but the model is one of features"):
        predict(rows, feature_model())
    with pytest.raises(ColumnError, match=r"`prediction` is to be added, but is there already"):
        predict(rows.withColumnRenamed("label", "prediction"), photo_model())
    with pytest.raises(InputError, match="top must be at least 1; got 0"):
        predict(rows, photo_model(), top=0)
    with pytest.raises(NotFoundError, match="No model at /nowhere"):
        predict(rows, "/nowhere")
    with pytest.raises(TypeError, match="Invalid param value given for param"):
        ModelTransformer(model=7)
