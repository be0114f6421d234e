"""Tables whose rows are photos: with their bytes, or with where they lie."""

from typing import TYPE_CHECKING

from sparkwright.data.tables import CSV, read_columns
from sparkwright.errors import ColumnError, NotFoundError, did_you_mean
from sparkwright.session import slots, worker_errors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["is_photo_table", "read_photo_table"]

_COLUMNS = ("content", "url", "path")

# Small tables are one partition to Spark, and a photo behind a URL is a thousand times as much work as its row.
_PARTITIONS_PER_SLOT = 4
_ROWS_PER_PARTITION = 10_000


def is_photo_table(path: str) -> bool:
    """Tell a table from photos by its name: ``*.csv``, ``*.tsv`` (``.gz`` too) or ``*.parquet``, file or folder."""
    return path.lower().rstrip("/").endswith((*CSV, ".parquet"))


def read_photo_table(spark: "SparkSession", path: str) -> "tuple[DataFrame, str, int]":
    """Read a table of photos with all its columns.

    Args:
        spark: The session.
        path: CSV with a header, or Parquet, wherever Spark reads.

    Returns:
        The rows, lazy; the column with the photos, which is the first there is of `content` (bytes), `url` and `path`
        (where they lie); and how many rows there are. Rows of links are spread over all slots.

    Raises:
        NotFoundError: there is no such table, or it has no rows.
        ColumnError: it has none of these columns.
        InputError: it is neither CSV nor Parquet.
    """
    rows = read_columns(spark, path)
    column = next((name for name in _COLUMNS if name in rows.columns), None)
    if column is None:
        raise ColumnError(
            f"A table of photos has a column `content` (bytes), `url` or `path`; {path} has {rows.columns}."
            + did_you_mean(rows.columns[0] if rows.columns else "", _COLUMNS)
        )
    with worker_errors():
        count = rows.count()
    if not count:
        raise NotFoundError(f"The table {path} has no rows.")
    if column != "content":
        rows = rows.repartition(max(_PARTITIONS_PER_SLOT * slots(spark), count // _ROWS_PER_PARTITION))
    return rows, column, count
