"""What a call of `featurize` that was stopped has left, so that the next one does not compute it again.

Features are found by their photo's bytes, so a row of a stopped job is as good as any other, wherever it lies: in the
finished output, in that of a finished task, or in a file that a task had closed before it was stopped. A Parquet file
ends in its footer; Spark leaves out a file that has none, and no row of a file cut short is ever read.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparkwright import storage
from sparkwright.scoring.feature_key import FeatureKey

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["ROWS_PER_FILE", "begin", "holds_rows", "salvage"]

ROWS_PER_FILE = 4096
"""Rows after which a task closes its file: what a stopped task loses at most, while files stay large enough."""

_KEY = "key.json"
_SCHEMA = "sha256 string, features array<float>, error struct<kind: string, message: string>"


def begin(folder: str, key: FeatureKey) -> None:
    """Make a folder for features, and say in it which.

    Raises:
        StorageError: it cannot be written.
    """
    storage.write_bytes(storage.join(folder, _KEY), json.dumps(key.to_dict()).encode())


def holds_rows(folder: str) -> bool:
    """Whether a folder that `begin` made holds any row that the next call could use."""
    return next(_files(folder), None) is not None


def salvage(spark: "SparkSession", folders: list[str], key: FeatureKey) -> "DataFrame | None":
    """Return ``sha256`` and ``features`` of what stopped calls have left; None if there is nothing.

    Args:
        spark: The session.
        folders: That `begin` made; those of another key are left out, and those that it did not make.
        key: Of the features that are wanted.
    """
    files = [file for folder in folders if _digest(folder) == key.digest for file in _files(folder)]
    if not files:
        return None
    rows = spark.read.schema(_SCHEMA).options(ignoreCorruptFiles=True, ignoreMissingFiles=True).parquet(*files)
    return rows.where("error IS NULL AND features IS NOT NULL").select("sha256", "features")


def _digest(folder: str) -> str | None:
    try:
        return FeatureKey.from_dict(json.loads(storage.read_bytes(storage.join(folder, _KEY)))).digest
    except (FileNotFoundError, ValueError, TypeError):  # not there, or of another version
        return None


def _files(folder: str) -> Iterator[str]:
    """Yield the Parquet files in a folder and in what Spark's committer makes in it while a job runs."""
    for name in storage.list_files(folder):
        if name.startswith("part-") and name.endswith(".parquet"):
            yield storage.join(folder, name)
        elif "." not in name and name != "errors":
            yield from _files(storage.join(folder, name))
