"""The few photos that a run's report shows, kept in the run: the only photos that reach the driver."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparkwright import session
from sparkwright.errors import SparkwrightError
from sparkwright.evaluation.evaluate import most_confidently_wrong
from sparkwright.evaluation.report import TILES, Thumbnail, draw_contact_sheet, make_thumbnail
from sparkwright.events import Warned
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.runs import AUGMENTED, THUMBNAILS, Run

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["keep_augmented", "keep_worst"]


def keep_worst(spark: "SparkSession", run: Run, predictions: "DataFrame", classes: Sequence[str]) -> None:
    """Keep small versions of the photos that the model was most sure of, and wrong about."""
    wrong = most_confidently_wrong(predictions, classes)
    contents = _read(spark, run, [row["path"] for row in wrong], "the photos that are wrong")
    thumbnails = [Thumbnail(**row, jpeg=make_thumbnail(contents.get(row["path"], b""))) for row in wrong]
    run.write(THUMBNAILS, json.dumps([thumbnail.to_dict() for thumbnail in thumbnails]))


def keep_augmented(spark: "SparkSession", run: Run, photos: "DataFrame", preprocessing: Preprocessing) -> None:
    """Keep some training photos as augmentation changes them; nothing without augmentation.

    Args:
        spark: The session.
        run: Whose report shows them.
        photos: Rows with the columns `path` and `split`.
        preprocessing: Of the network that trains on them.
    """
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    if preprocessing.augmentation is None:
        return
    with session.worker_errors():  # of all classes: in the order of a hash
        some = photos.where("split = 'train'").select("path").orderBy(F.xxhash64("path"), "path").limit(TILES)
        paths = [row["path"] for row in some.collect()]
    contents = _read(spark, run, paths, "augmented photos")
    run.write(AUGMENTED, draw_contact_sheet([contents[path] for path in paths if path in contents], preprocessing))


def _read(spark: "SparkSession", run: Run, paths: Sequence[str], what: str) -> dict[str, bytes]:
    """Return the files of a few photos, by path; a warning tells where that is not possible."""
    if not paths:
        return {}
    try:
        with session.worker_errors():
            files = spark.read.format("binaryFile").load([_escaped(path) for path in paths])
            return {row["path"]: bytes(row["content"]) for row in files.select("path", "content").collect()}
    except SparkwrightError as error:  # moved or deleted since their features were made
        run.emit(Warned(f"The report cannot show {what}: {error}"))
        return {}


def _escaped(path: str) -> str:
    """Escape what Spark would read as a glob."""
    return "".join(f"\\{letter}" if letter in "\\*?[]{}" else letter for letter in path)
