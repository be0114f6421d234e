"""What a call that was stopped has left, so that the next one does not compute it again.

Features and predictions are found by their photo's bytes (predictions of paths and URLs by these), so a row of a
stopped job is as good as any other, wherever it lies: in the finished output, in that of a finished task, or in a file
that a task had closed before it was stopped. A Parquet file ends in its footer; Spark leaves out a file that has none,
and no row of a file cut short is ever read.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparkwright import storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

__all__ = ["ROWS_PER_FILE", "begin", "divide", "holds_rows", "salvage"]

ROWS_PER_FILE = 4096
"""Rows after which a task closes its file: what a stopped task loses at most, while files stay large enough."""

_KEY = "key.json"


def begin(folder: str, key: str) -> None:
    """Make a folder for rows, and say in it what they depend on beside the photo's bytes.

    Raises:
        StorageError: it cannot be written.
    """
    storage.write_bytes(storage.join(folder, _KEY), json.dumps({"digest": key}).encode())


def holds_rows(folder: str) -> bool:
    """Whether a folder that `begin` made holds any row that the next call could use."""
    return next(_files(folder), None) is not None


def salvage(
    spark: "SparkSession", folders: list[str], key: str, schema: "StructType | str", location: str | None = None
) -> "DataFrame | None":
    """Return the rows without an error that stopped calls have left; None if there is nothing.

    Args:
        spark: The session.
        folders: That `begin` made; those of another key are left out, and those that it did not make.
        key: Of the rows that are wanted.
        schema: The columns that are wanted; with ``sha256``, and ``error``, which is left out.
        location: A column of paths or URLs instead: the rows have its ``sha256``.
    """
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    files = [file for folder in folders if _digest(folder) == key for file in _files(folder)]
    if not files:
        return None
    rows = spark.read.schema(schema).options(ignoreCorruptFiles=True, ignoreMissingFiles=True).parquet(*files)
    if location is not None:
        rows = rows.withColumn("sha256", F.sha2(location, 256)).drop(location)
    return rows.where("error IS NULL AND sha256 IS NOT NULL").drop("error")


def divide(rows: "DataFrame", column: str, known: "DataFrame") -> "tuple[DataFrame, DataFrame]":
    """Divide rows by whether their photos are known; photos' bytes are read twice, and never shuffled.

    Args:
        rows: With photos' bytes, or where these lie.
        column: Their column.
        known: ``sha256``, and columns that `rows` does not have.

    Returns:
        The rows that are not known; the others, with `known`'s columns and no ``error``.
    """
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    hashed = rows.withColumn("sha256", F.sha2(column, 256))
    unknown = hashed.join(F.broadcast(known.select("sha256").distinct()), "sha256", "left_anti")
    matched = hashed.join(known.dropDuplicates(["sha256"]), "sha256", "inner")
    error = F.lit(None).cast("struct<kind:string,message:string>")
    return unknown.select(rows.columns), matched.withColumn("error", error)


def _digest(folder: str) -> str | None:
    try:
        return str(json.loads(storage.read_bytes(storage.join(folder, _KEY)))["digest"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # not there, or of another version
        return None


def _files(folder: str) -> Iterator[str]:
    """Yield the Parquet files in a folder and in what Spark's committer makes in it while a job runs."""
    for name in storage.list_files(folder):
        if name.startswith("part-") and name.endswith(".parquet"):
            yield storage.join(folder, name)
        elif "." not in name and name != "errors":
            yield from _files(storage.join(folder, name))
