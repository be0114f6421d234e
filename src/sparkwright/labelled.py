"""Labelled rows with sides, from a folder of features or a table: what a run trains on, and tests on once."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from sparkwright import session
from sparkwright.data import splits
from sparkwright.data.tables import read_numbers
from sparkwright.errors import ColumnError, InputError, did_you_mean
from sparkwright.evaluation.evaluate import evaluate
from sparkwright.events import Address, Channel, Emit, Warned, ignore
from sparkwright.models import Model
from sparkwright.report_photos import keep_worst
from sparkwright.runs import Run
from sparkwright.scoring.feature_set import FeatureSet, open_features
from sparkwright.scoring.model_transformer import ModelTransformer, predict

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["FeatureRows", "Fractions", "LabelledRows", "TableRows"]

Fractions = tuple[float, float, float]

_EXAMPLES = 5


class LabelledRows(ABC):
    """Rows with labels and, in the column `split`, sides.

    Attributes:
        rows: Those that have features, label and side.
        columns: Of the features.
        label: Column of the classes.
        unit: What a row is called.
        scorable: Condition of rows that can be tested on.
    """

    rows: "DataFrame"
    columns: tuple[str, ...]
    label: str
    unit: ClassVar[str] = "rows"
    scorable: ClassVar[str] = "true"

    @property
    def test_rows(self) -> "DataFrame":
        """The rows of the test side, those too that a model will fail on."""
        return self.rows.where("split = 'test'")

    def require_test(self) -> None:
        """Refuse rows none of which is on the test side; looks at no feature and no label of such a row.

        Raises:
            InputError: No row is there.
        """
        with session.worker_errors():
            none = self.test_rows.where(self.scorable).isEmpty()
        if none:
            raise InputError(
                "No row with features and label is on the test side. Give it some (--split): what is trained here is "
                "tested on rows that it has not seen."
            )

    @abstractmethod
    def describe(self, emit: Emit) -> dict[str, Any]:
        """Return the data summary of the report (`RunRecord.metrics`); counts and a few examples reach the driver."""

    def test(self, model: Model, run: Run, data: dict[str, Any], photos: "DataFrame | None" = None) -> dict[str, Any]:
        """Score the test rows; keep their predictions in the run, and return the metrics.

        Args:
            model: A classifier.
            run: Where ``predictions/`` are put.
            data: What `describe` gave.
            photos: The test rows as the model's network reads them, to be scored instead of the features.
        """
        test = self.test_rows if photos is None else photos
        spark, path = test.sparkSession, run.path("predictions")
        with Channel(run.emit, session.driver_hosts(spark)) as channel, session.worker_errors():
            self._score(test, model, channel.address).write.mode("overwrite").parquet(path)
            predictions = spark.read.parquet(path)
        classes = [str(name) for name in model.classes]
        on_train = {str(name): rows for name, rows in data["rows"].get("train", {}).items()}
        result = evaluate(
            predictions,
            classes,
            label=self.label,
            threshold=next(iter(model.thresholds), None),
            training_rows={name: on_train.get(name, 0) for name in classes},
        )
        self._keep_examples(run, predictions, classes)
        return result.to_dict()

    @abstractmethod
    def _score(self, test: "DataFrame", model: Model, channel: Address) -> "DataFrame":
        """Return the rows with the model's predictions."""

    @abstractmethod
    def _keep_examples(self, run: Run, predictions: "DataFrame", classes: Sequence[str]) -> None:
        """Keep in the run what its report shows of single rows."""


class FeatureRows(LabelledRows):
    """The rows of a folder of features; those that could not be read have none, and are counted by `describe`."""

    unit = "photos"
    scorable = "error IS NULL AND label IS NOT NULL"

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        self.rows = features.rows.where("features IS NOT NULL AND label IS NOT NULL AND split IS NOT NULL")
        self.columns, self.label = ("features",), "label"

    @classmethod
    def open(cls, spark: "SparkSession", uri: str) -> Self:
        """Open a folder of features that have labels and sides.

        Raises:
            NotFoundError: There are no features.
            ColumnError: They have no labels or no sides.
        """
        found = open_features(spark, uri)
        missing = [name for name in ("label", "split") if name not in found.rows.columns]
        if missing:
            raise ColumnError(
                f"The features in {uri} have no column {' and no column '.join(missing)}; they have "
                f"{found.rows.columns}. Make them with labels and sides: sparkwright featurize … --labels … --split …"
            )
        return cls(found)

    @property
    def test_rows(self) -> "DataFrame":
        return self.features.rows.where("split = 'test'")

    def describe(self, emit: Emit) -> dict[str, Any]:
        from pyspark.sql import functions as F  # noqa: N812  its usual name

        features = self.features
        failed = features.rows.where("error IS NOT NULL")
        kinds, examples = {}, []
        if features.manifest.errors:
            with session.worker_errors():
                counted = failed.groupBy("error.kind").count().orderBy(F.desc("count"), "kind").collect()
                first = failed.orderBy("key").select("path", "error.kind", "error.message").limit(_EXAMPLES).collect()
            kinds = {row["kind"]: row["count"] for row in counted}
            examples = [row.asDict() for row in first]
        counts = splits.split_counts(features.rows)
        double = splits.find_duplicates(features.rows)
        if double.across_sides:
            emit(
                Warned(
                    f"{double.across_sides:,} photos lie on more than one side of the split with the same bytes, for "
                    f"instance {' and '.join(double.examples[0])}; name groups (--group) to keep them together."
                )
            )
        return {
            "rows": {side: rows for side, rows in counts.items() if side is not None},
            "errors": {"count": features.manifest.errors, "kinds": kinds, "examples": examples},
            "duplicates": {
                "count": double.count,
                "across_sides": double.across_sides,
                "examples": [list(pair) for pair in double.examples],
            },
        }

    def fingerprint(self) -> dict[str, Any]:
        """Return how many rows there are, and a hash of photos, labels, sides that no order or partition changes."""
        from pyspark.sql import functions as F  # noqa: N812  its usual name

        digest = F.sha2(F.concat_ws("/", "sha256", "split", "label"), 256)
        number = F.conv(F.substring(digest, 1, 15), 16, 10).cast("decimal(20,0)")
        with session.worker_errors():
            row = self.rows.agg(F.count("*"), F.sum(number)).first()
        count, total = (0, 0) if row is None else (row[0], row[1] or 0)
        return {"rows": int(count), "fingerprint": f"{int(total) % 2**64:016x}"}

    def _score(self, test: "DataFrame", model: Model, channel: Address) -> "DataFrame":
        from_photos = model.network is not None
        scored = predict(
            test if from_photos else test.withColumnRenamed("error", "read_error"),
            model,
            input_column="content" if from_photos else "features",
            channel=channel,
            maxErrorRate=1.0,  # photos without features failed before, and within the limit
            dropInput=True,
        )
        if from_photos:
            return scored
        # A photo that could not be read says why; that it has no features says nothing.
        return scored.selectExpr(
            *(f"`{name}`" for name in scored.columns if name not in ("error", "read_error")),
            "coalesce(read_error, error) AS error",
        )

    def _keep_examples(self, run: Run, predictions: "DataFrame", classes: Sequence[str]) -> None:
        keep_worst(predictions.sparkSession, run, predictions, classes)


class TableRows(LabelledRows):
    """The rows of a table, put on sides."""

    def __init__(self, rows: "DataFrame", columns: Sequence[str], label: str) -> None:
        self.rows, self.columns, self.label = rows, tuple(columns), label

    @classmethod
    def open(
        cls,
        spark: "SparkSession",
        table: str,
        columns: Sequence[str],
        label: str,
        split: Fractions | str,
        *,
        group: str | None = None,
        seed: int = 0,
        emit: Emit = ignore,
    ) -> Self:
        """Read a table, and put its rows on sides.

        Args:
            spark: The session.
            table: CSV with a header, or Parquet, wherever Spark reads.
            columns: The features: columns of numbers, vectors or arrays. Those of CSV are read as numbers.
            label: Column of the classes.
            split: Fractions of train, validation and test rows, by a hash of what a row holds; or a column of sides.
            group: Column of what fractions must not divide.
            seed: Of fractions.
            emit: Hears of classes that lack rows on a side.

        Raises:
            NotFoundError: There is no such table.
            ColumnError: A column is missing.
        """
        rows = _sided(_read(spark, table, (*columns,), label, group), split, label, group, seed, emit)
        return cls(rows, columns, label)

    def describe(self, emit: Emit) -> dict[str, Any]:
        del emit
        counts = splits.split_counts(self.rows, self.label)
        return {"rows": {side: found for side, found in counts.items() if side is not None}}

    def _score(self, test: "DataFrame", model: Model, channel: Address) -> "DataFrame":
        return ModelTransformer(model=model, inputCols=list(self.columns), maxErrorRate=1.0)._score(test, channel)

    def _keep_examples(self, run: Run, predictions: "DataFrame", classes: Sequence[str]) -> None:
        del run, predictions, classes  # rows of numbers are nothing to look at


def _read(spark: "SparkSession", table: str, columns: Sequence[str], label: str, group: str | None) -> "DataFrame":
    """Return a table's rows, numbers of CSV as numbers."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name
    from pyspark.sql.types import BooleanType

    if not columns:
        raise ColumnError("No column of features is named.")
    # What is no number in CSV becomes null, which the training counts and refuses.
    rows = read_numbers(spark, table, columns, [label, *([] if group is None else [group])])
    if isinstance(rows.schema[label].dataType, BooleanType):
        rows = rows.withColumn(label, F.col(f"`{label}`").cast("string"))
    return rows


def _sided(
    rows: "DataFrame", split: Fractions | str, label: str, group: str | None, seed: int, emit: Emit
) -> "DataFrame":
    """Put the rows on sides, in the column `split`."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    if isinstance(split, str):
        if split not in rows.columns:
            raise ColumnError(
                f"--split must be three fractions, or a column of {rows.columns}; it is `{split}`."
                f"{did_you_mean(split, rows.columns)}"
            )
        return rows.withColumn("split", F.col(f"`{split}`"))
    whole = F.sha2(F.to_json(F.struct(*(F.col(f"`{name}`") for name in rows.columns))), 256)
    keyed, key = rows.withColumn("sparkwright_key", whole), "sparkwright_key"
    return splits.split(keyed, split, seed=seed, key=key, label=label, group=group, emit=emit).drop(key)
