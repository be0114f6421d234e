"""The photos that a run's report shows as most confidently wrong, kept in the run."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparkwright import session
from sparkwright.errors import SparkwrightError
from sparkwright.evaluation.evaluate import most_confidently_wrong
from sparkwright.evaluation.report import Thumbnail, make_thumbnail
from sparkwright.events import Warned
from sparkwright.runs import THUMBNAILS, Run

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["keep_worst"]


def keep_worst(spark: "SparkSession", run: Run, predictions: "DataFrame", classes: Sequence[str]) -> None:
    """Keep small versions of the photos that the model was most sure of, and wrong about."""
    wrong = most_confidently_wrong(predictions, classes)
    contents = _read(spark, run, [row["path"] for row in wrong])
    thumbnails = [Thumbnail(**row, jpeg=make_thumbnail(contents.get(row["path"], b""))) for row in wrong]
    run.write(THUMBNAILS, json.dumps([thumbnail.to_dict() for thumbnail in thumbnails]))


def _read(spark: "SparkSession", run: Run, paths: Sequence[str]) -> dict[str, bytes]:
    """Return the files of a few photos, by path; a warning tells where that is not possible."""
    if not paths:
        return {}
    try:
        with session.worker_errors():
            files = spark.read.format("binaryFile").load([_escaped(path) for path in paths])
            return {row["path"]: bytes(row["content"]) for row in files.select("path", "content").collect()}
    except SparkwrightError as error:  # moved or deleted since their features were made
        run.emit(Warned(f"The report cannot show the photos that are wrong: {error}"))
        return {}


def _escaped(path: str) -> str:
    """Escape what Spark would read as a glob."""
    return "".join(f"\\{letter}" if letter in "\\*?[]{}" else letter for letter in path)
