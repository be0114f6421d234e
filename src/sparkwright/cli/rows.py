"""The rows that `predict` and `evaluate` are given: photos, a table of photos or of numbers, or features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["GivenRows", "open_rows"]


@dataclass(frozen=True)
class GivenRows:
    """Rows to score.

    Attributes:
        rows: Lazy.
        column: The one that is scored.
        label: The one with the classes, if they are known.
        count: How many rows there are.
        unit: What they are called.
        shown: Columns that tell a row from others; the first that is there counts.
    """

    rows: "DataFrame"
    column: str
    label: str
    count: int
    unit: str = "photos"
    shown: tuple[str, ...] = ("path", "url", "key")


def open_rows(
    spark: "SparkSession",
    data: Sequence[str],
    manifest: Mapping[str, Any],
    *,
    labels: str | None = None,
    columns: Sequence[str] | None = None,
    label: str | None = None,
) -> GivenRows:
    """Open what a model is to score.

    Args:
        spark: The session.
        data: Paths of photos; or one table, or one folder of features.
        manifest: The model's. A model that was trained on columns of a table says which.
        labels: Of photos: see `read_images`; None reads none.
        columns: Of a table of numbers: the features; None: those that the model was trained on.
        label: Of a table of numbers: the column of the classes; None: that of the training.

    Raises:
        NotFoundError: Nothing is there.
        ColumnError: A table lacks columns.
        InputError: It cannot be read.
    """
    from sparkwright.data.images import read_images
    from sparkwright.data.photo_table import is_photo_table, read_photo_table
    from sparkwright.scoring.feature_set import open_features, read_manifest

    if len(data) == 1 and read_manifest(data[0]) is not None:
        found = open_features(spark, data[0])
        # Photos that could not be read keep their place, without a prediction.
        return GivenRows(found.rows.drop("error"), "features", "label", found.manifest.rows)
    if len(data) == 1 and is_photo_table(data[0]):
        trained = manifest["lineage"].get("config", {})
        columns = columns or trained.get("columns")
        if columns:
            return _numbers(spark, data[0], columns, label or trained.get("label", "label"))
        rows, column, count = read_photo_table(spark, data[0])
        return GivenRows(rows, column, "label", count)
    photos = read_images(spark, data, labels=labels)
    return GivenRows(photos.rows if labels else photos.rows.drop("label"), "content", "label", photos.files)


def _numbers(spark: "SparkSession", table: str, columns: Sequence[str], label: str) -> GivenRows:
    from pyspark.sql.types import BooleanType

    from sparkwright.data.tables import read_numbers
    from sparkwright.scoring.frames import join_columns
    from sparkwright.scoring.model_transformer import JOINED
    from sparkwright.session import worker_errors

    rows = read_numbers(spark, table, columns)
    if label in rows.columns and isinstance(rows.schema[label].dataType, BooleanType):
        rows = rows.withColumn(label, rows[label].cast("string"))  # as classes are called
    with worker_errors():
        count = rows.count()
    return GivenRows(join_columns(rows, columns, JOINED), JOINED, label, count, "rows", ("id", "key"))
