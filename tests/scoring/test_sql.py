from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkwright.errors import ColumnError, ErrorRateError, InputError
from sparkwright.models import Model
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.model_transformer import predict
from sparkwright.scoring.sql import register, unregister
from sparkwright.session import worker_errors

from .photos import means_network, photo_rows, png

pytestmark = pytest.mark.connect(only=True)

Spark = Any
CLASSES = ("cat", "dog", "eel")
PHOTOS = [png(250, 3, 9), None, png(4, 200, 77), b"text", png(0, 0, 255)]


def photo_model() -> Model:
    head = mlp(3, 3, hidden=[4], seed=1, mean=np.full(3, 100.0), scale=np.full(3, 0.01))
    return Model(network=means_network(), head=head, task="classification", classes=CLASSES)


@pytest.mark.connect
def test_a_query_gives_what_the_transformer_gives(spark: Spark) -> None:
    rows = photo_rows(spark, PHOTOS)
    rows.createOrReplaceTempView("photos")
    register(spark, "classify", photo_model(), top=2)
    found = spark.sql(
        "SELECT path, classify(content).label, classify(content).probability, classify(content).top AS top,"
        " classify(content).error FROM photos ORDER BY path"
    )
    assert found.schema["top"].dataType.simpleString() == "array<struct<label:string,probability:float>>"
    wanted = predict(rows, photo_model(), top=2, maxErrorRate=1.0).orderBy("path").collect()
    expected = [(row.path, row.prediction, row.probability, row.top, row.error) for row in wanted]
    assert [tuple(row) for row in found.collect()] == expected
    assert [row.error and row.error.kind for row in wanted] == [None, "empty", None, "unreadable", None]


def test_a_function_counts_filters_and_joins_like_others(spark: Spark) -> None:
    photo_rows(spark, [png(red) for red in range(0, 250, 10)], partitions=4).createOrReplaceTempView("reds")
    register(spark, "classify", photo_model())
    counts = spark.sql("SELECT classify(content).label AS label, count(*) AS n FROM reds GROUP BY 1").collect()
    assert sum(row.n for row in counts) == 25
    some = counts[0]
    (left,) = spark.sql(f"SELECT count(*) FROM reds WHERE classify(content).label = '{some.label}'").collect()
    assert left[0] == some.n
    assert spark.sql("SELECT classify(content).label FROM reds WHERE path = 'none'").collect() == []


def test_numbers_go_through_a_model_of_features(spark: Spark) -> None:
    head = mlp(2, 1, seed=1)
    register(spark, "guess", Model(None, head, "regression"))
    found = spark.sql("SELECT guess(array(1.0f, 2.0f)) AS one, guess(array(1.0f)) AS two").collect()[0]
    assert found.one.value == pytest.approx(float(head.forward(np.array([[1, 2]], np.float32))[0, 0]))
    assert (found.two.value, found.two.error.kind) == (None, "wrong shape")


def test_paths_and_images_are_arguments_too(spark: Spark, tmp_path: Path) -> None:
    for red in (10, 250):
        (tmp_path / f"{red}.png").write_bytes(png(red))
    register(spark, "classify", photo_model())
    images = spark.read.format("image").load(str(tmp_path)).select("image.origin", "image")
    images.createOrReplaceTempView("images")
    query = "SELECT classify(image).probability, classify(replace(origin, 'file://', '')).probability FROM images"
    found = spark.sql(query).collect()
    assert len(found) == 2
    for pixels, path in found:
        assert pixels is not None
        assert pixels == path


@pytest.mark.connect
def test_a_query_ends_where_too_much_fails_or_the_column_is_another(spark: Spark) -> None:
    photo_rows(spark, [b"text"] * 50, partitions=1).createOrReplaceTempView("texts")
    register(spark, "strict", photo_model(), max_error_rate=0.1)
    with pytest.raises(ErrorRateError, match="50 of 50 rows"), worker_errors():
        spark.sql("SELECT strict(content).label FROM texts").collect()
    with pytest.raises(ColumnError, match=r"strict\(…\) takes photos \(bytes, paths, URLs"), worker_errors():
        spark.sql("SELECT strict(array(1.0f)).label").collect()


@pytest.mark.connect
def test_a_function_is_replaced_and_forgotten(spark: Spark) -> None:
    one = photo_model()
    other = one.replace(classes=("x", "y", "z"))
    photo_rows(spark, PHOTOS[:1]).createOrReplaceTempView("one")
    labels = []
    for model in (one, other):
        register(spark, "again", model)
        labels += [row[0] for row in spark.sql("SELECT again(content).label FROM one").collect()]
    assert labels[1] == other.classes[CLASSES.index(labels[0])]
    unregister(spark, "again")
    unregister(spark, "again")
    with pytest.raises(Exception, match="UNRESOLVED_ROUTINE"):
        spark.sql("SELECT again(content) FROM one").collect()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"max_error_rate": 2}, "max_error_rate must lie between 0 and 1; got 2"),
    ],
)
def test_arguments_out_of_range_are_refused(spark: Spark, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        register(spark, "classify", photo_model(), **options)
