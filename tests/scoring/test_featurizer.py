import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as F  # noqa: N812

from sparkwright.errors import ColumnError, ErrorRateError, InputError, NameUnknownError
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.featurizer import Featurizer
from sparkwright.session import worker_errors

from .photos import answer, means_network, photo_rows, png

pytestmark = pytest.mark.connect(only=True)

Spark = Any


def collect(rows: Any) -> list[Any]:
    with worker_errors():
        return sorted(rows.collect(), key=lambda row: row.path)


@pytest.mark.connect
def test_features_stand_beside_all_input_columns(spark: Spark) -> None:
    rows = photo_rows(spark, [png(red) for red in range(11)])
    scored = Featurizer(network=means_network(), batchSize=4).transform(rows)
    assert scored.columns == ["path", "content", "label", "features", "error"]
    assert scored.schema["features"].dataType.simpleString() == "array<float>"
    assert scored.schema["error"].dataType.simpleString() == "struct<kind:string,message:string>"
    found = collect(scored)
    assert [row.path for row in found] == [f"photo{n:05d}" for n in range(11)]
    assert [row.label for row in found] == [f"class{n % 3}" for n in range(11)]
    assert [row.features for row in found] == [answer(red).tolist() for red in range(11)]
    assert {row.error for row in found} == {None}


def test_an_empty_frame_and_empty_partitions_give_no_rows_but_all_columns(spark: Spark) -> None:
    featurizer = Featurizer(network=means_network(), dropInput=True)
    empty = featurizer.transform(photo_rows(spark, []))
    assert empty.columns == ["path", "label", "features", "error"]
    assert collect(empty) == []
    sparse = featurizer.transform(photo_rows(spark, [png(7)], partitions=5))
    assert [row.features for row in collect(sparse)] == [answer(7).tolist()]


def test_null_and_corrupt_rows_keep_their_place(spark: Spark) -> None:
    contents = [png(1), None, b"text named .jpg", b"", png(2)[:30], png(3)]
    found = collect(Featurizer(network=means_network()).transform(photo_rows(spark, contents, partitions=1)))
    assert [row.features is None for row in found] == [False, True, True, True, True, False]
    assert [row.error and row.error.kind for row in found] == [
        *(None, "empty", "unreadable", "empty", "unreadable", None)
    ]
    assert "decoded" in found[2].error.message


@pytest.mark.connect
def test_a_task_with_too_many_failures_stops_the_job(spark: Spark) -> None:
    rows = photo_rows(spark, [png(1)] * 20 + [b"text"] * 10, partitions=1)
    with pytest.raises(ErrorRateError, match=r"10 of 30 rows of task \d+ failed, more than maxErrorRate=0.05 allows"):
        collect(Featurizer(network=means_network()).transform(rows))
    assert len(collect(Featurizer(network=means_network(), maxErrorRate=0.5).transform(rows))) == 30


@pytest.mark.connect
def test_arrays_and_vectors_are_scored_by_a_network_of_numbers(spark: Spark) -> None:
    head = mlp(2, 2, hidden=[3])
    x = np.array([[0.5, -1.0], [2.0, 3.0]], np.float32)
    frame = spark.createDataFrame(
        [("a", x[0].tolist()), ("b", x[1].tolist()), ("c", None)], "path string, x array<float>"
    )
    vectors = frame.withColumn("v", array_to_vector(F.coalesce("x", F.array(F.lit(0.0), F.lit(0.0)))))
    found = collect(Featurizer(network=head, layer="output", inputCol="x").transform(frame))
    assert np.allclose([row.features for row in found[:2]], head.forward(x), atol=1e-6)
    assert found[2].features is None
    assert found[2].error.kind == "empty"
    found = collect(Featurizer(network=head, layer="output", inputCol="v").transform(vectors))
    assert np.allclose([row.features for row in found[:2]], head.forward(x), atol=1e-6)
    assert np.allclose(found[0].v.toArray(), x[0])


@pytest.mark.connect
def test_a_saved_stage_needs_nothing_else_and_gives_the_same(spark: Spark, tmp_path: Path) -> None:
    rows = photo_rows(spark, [png(red) for red in range(3)])
    featurizer = Featurizer(network=means_network(), outputCol="embedding", batchSize=2, dropInput=True)
    path = str(tmp_path / "stage")
    featurizer.save(path)
    featurizer.write().overwrite().save(path)
    loaded = Featurizer.load(path)
    assert (loaded.uid, loaded.getOutputCol(), loaded.getBatchSize(), loaded.getDropInput()) == (
        *(featurizer.uid, "embedding", 2, True),
    )
    assert loaded.getNetwork().fingerprint() == featurizer.getNetwork().fingerprint()
    assert collect(loaded.transform(rows)) == collect(featurizer.transform(rows))
    assert not list(tmp_path.rglob("*.pkl"))


@pytest.mark.connect
def test_a_pipeline_fits_saves_and_loads_with_a_featurizer_in_it(spark: Spark, tmp_path: Path) -> None:
    rows = photo_rows(spark, [png(red) for red in range(3)])
    pipeline = Pipeline(stages=[Featurizer(network=means_network(), layer="flat", outputCol="f", dropInput=True)])
    model = pipeline.fit(rows)
    path = str(tmp_path / "pipeline")
    model.write().overwrite().save(path)
    loaded = PipelineModel.load(path)
    assert collect(loaded.transform(rows)) == collect(model.transform(rows))
    assert collect(loaded.transform(rows))[1].f == (answer(1) / 2).tolist()


def test_a_torch_network_is_saved_and_loaded_too(spark: Spark, tmp_path: Path) -> None:
    featurizer = Featurizer(network=mlp(2, 2, hidden=[3]), layer="act1", inputCol="x")
    featurizer.save(str(tmp_path / "stage"))
    loaded = Featurizer.load(str(tmp_path / "stage"))
    assert loaded.getNetwork().fingerprint() == featurizer.getNetwork().fingerprint()
    assert loaded.getLayer() == "act1"


def test_the_column_says_which_network_made_it_and_parquet_keeps_that(spark: Spark, tmp_path: Path) -> None:
    network = means_network()
    scored = Featurizer(network=network, dropInput=True).transform(photo_rows(spark, [png(1)]))
    scored.write.parquet(str(tmp_path / "features"))
    field = spark.read.parquet(str(tmp_path / "features")).select("path", "features").schema["features"]
    assert FeatureKey.of_column(field) == FeatureKey.of(network)
    assert json.loads(field.metadata["sparkwright.features"])["width"] == 3


def test_params_can_be_overridden_for_one_transform(spark: Spark) -> None:
    featurizer = Featurizer(network=means_network())
    rows = featurizer.transform(photo_rows(spark, [png(1)]), {featurizer.outputCol: "other"})
    assert "other" in rows.columns
    assert featurizer.getOutputCol() == "features"


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"inputCol": "contant"}, ColumnError, r"`contant` not found in \[.*\]. Did you mean `content`\?"),
        ({"inputCol": "number"}, ColumnError, "`number` must hold photos' bytes .* of type int"),
        ({"outputCol": "label"}, ColumnError, "`label` is to be added, but is there already"),
        ({"outputCol": "error"}, ColumnError, "`error` is to be added, but is there already"),
        ({"batchSize": 0}, InputError, "batchSize must be at least 1; got 0"),
        ({"maxErrorRate": 1.5}, InputError, "maxErrorRate must lie between 0 and 1; got 1.5"),
        ({"layer": "flatt"}, NameUnknownError, "has no layer `flatt`. Did you mean `flat`"),
        ({"network": mlp(2, 2)}, ColumnError, "`content` holds photos, but mlp.* takes 2 numbers a row"),
    ],
)
def test_what_cannot_work_is_said_before_any_job(
    spark: Spark, params: dict[str, Any], error: type[Exception], message: str
) -> None:
    rows = photo_rows(spark, [png(1)]).withColumn("number", F.lit(1))
    with pytest.raises(error, match=message):
        Featurizer(**{"network": means_network(), **params}).transform(rows)


def test_a_stage_without_a_network_says_how_to_set_it(spark: Spark) -> None:
    with pytest.raises(InputError, match=r"Featurizer needs a network. Set it: Featurizer\(network=…\)"):
        Featurizer().transform(photo_rows(spark, [png(1)]))
    with pytest.raises(TypeError, match="Invalid param value given for param"):
        Featurizer(network=7)
