"""What a stage adds to its rows: columns made of a network's outputs, on executors, without a loop per row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkwright.models import Label, outputs_in
from sparkwright.scoring.labels import choose, choose_labels, to_probabilities, to_values, top
from sparkwright.scoring.process.engine import RowError

if TYPE_CHECKING:
    from pyspark.sql.types import DataType, StructField

__all__ = [
    "Classification",
    "Features",
    "MultiLabel",
    "Output",
    "Regression",
    "Section",
    "error_array",
    "error_field",
    "make_output",
    "make_outputs",
    "vectors",
]

_ERROR = pa.struct([("kind", pa.string()), ("message", pa.string())])


class Output(Protocol):
    """Columns that are added; small and picklable, since it travels inside a Spark function."""

    def fields(self) -> "list[StructField]":
        """Return the columns' names and Spark types (driver)."""

    def arrays(self, outputs: NDArray[np.float32], failed: NDArray[np.bool_]) -> list[pa.Array]:
        """Return the columns, null where `failed`, for outputs of shape (rows, …) (executor)."""


@dataclass(frozen=True)
class Features:
    """The outputs themselves, flattened, as ``array<float>``.

    Attributes:
        column: Its name.
        metadata: Spark metadata of the column: which network and layer made the features.
    """

    column: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def fields(self) -> "list[StructField]":
        from pyspark.sql.types import ArrayType, FloatType

        return [_field(self.column, ArrayType(FloatType(), containsNull=False), dict(self.metadata))]

    def arrays(self, outputs: NDArray[np.float32], failed: NDArray[np.bool_]) -> list[pa.Array]:
        return [vectors(outputs.reshape(len(outputs), -1), failed)]


@dataclass(frozen=True)
class Classification:
    """Label, its probability, all probabilities, the best labels: those that have a column's name.

    Attributes:
        classes: Labels in the order of the scores.
        prediction: Column of the best label; None for none.
        probability: Column of its probability; None for none.
        probabilities: Column of all probabilities in the order of `classes`, ``array<float>``; None for none.
        top_labels: Column of the `k` best, ``array<struct<label,probability>>``, best first; None for none.
        k: How many those are.
        link: How scores become probabilities: see `labels.to_probabilities`.
        thresholds: Of two classes: the second's least probability to be predicted; else none.
    """

    classes: tuple[Label, ...]
    prediction: str | None = None
    probability: str | None = None
    probabilities: str | None = None
    top_labels: str | None = None
    k: int = 5
    link: str = "softmax"
    thresholds: tuple[float, ...] = ()

    def fields(self) -> "list[StructField]":
        from pyspark.sql.types import ArrayType, FloatType

        label, number = _label_type(self.classes), FloatType()
        fields = []
        if self.prediction:
            fields.append(_field(self.prediction, label))
        if self.probability:
            fields.append(_field(self.probability, number))
        if self.probabilities:
            fields.append(_field(self.probabilities, ArrayType(number, containsNull=False)))
        if self.top_labels:
            fields.append(_field(self.top_labels, _pairs_type(label)))
        return fields

    def arrays(self, outputs: NDArray[np.float32], failed: NDArray[np.bool_]) -> list[pa.Array]:
        probabilities = to_probabilities(outputs, self.link, len(self.classes))
        chosen = choose(probabilities, self.thresholds)
        labels = _label_array(self.classes)
        arrays = []
        if self.prediction:
            arrays.append(labels.take(pa.array(chosen, mask=failed)))
        if self.probability:
            confidence = np.take_along_axis(probabilities, chosen[:, None], axis=1)
            arrays.append(pa.array(confidence[:, 0], pa.float32(), mask=failed))
        if self.probabilities:
            arrays.append(vectors(probabilities, failed))
        if self.top_labels:
            arrays.append(_best(probabilities, labels, self.k, failed))
        return arrays


@dataclass(frozen=True)
class MultiLabel:
    """The labels of a row, all probabilities, the most probable labels: those that have a column's name.

    Attributes:
        classes: Labels in the order of the scores.
        thresholds: Each label's least probability to be predicted; empty: one half.
        prediction: Column of the labels, an array in the order of `classes`; None for none.
        probabilities: Column of all probabilities in the order of `classes`, ``array<float>``; None for none.
        top_labels: Column of the `k` most probable, ``array<struct<label,probability>>``, best first; None for none.
        k: How many those are.
    """

    classes: tuple[Label, ...]
    thresholds: tuple[float, ...] = ()
    prediction: str | None = None
    probabilities: str | None = None
    top_labels: str | None = None
    k: int = 5

    def fields(self) -> "list[StructField]":
        from pyspark.sql.types import ArrayType, FloatType

        label, fields = _label_type(self.classes), []
        if self.prediction:
            fields.append(_field(self.prediction, ArrayType(label, containsNull=False)))
        if self.probabilities:
            fields.append(_field(self.probabilities, ArrayType(FloatType(), containsNull=False)))
        if self.top_labels:
            fields.append(_field(self.top_labels, _pairs_type(label)))
        return fields

    def arrays(self, outputs: NDArray[np.float32], failed: NDArray[np.bool_]) -> list[pa.Array]:
        probabilities = to_probabilities(outputs, "sigmoid", len(self.classes))
        labels = _label_array(self.classes)
        arrays = []
        if self.prediction:
            has = choose_labels(probabilities, self.thresholds) & ~failed[:, None]
            offsets = np.concatenate([[0], has.sum(axis=1).cumsum()]).astype(np.int32)
            type_ = pa.list_(pa.field("element", labels.type, False))
            values = labels.take(pa.array(np.nonzero(has)[1]))
            arrays.append(pa.ListArray.from_arrays(pa.array(offsets), values, type=type_, mask=pa.array(failed)))
        if self.probabilities:
            arrays.append(vectors(probabilities, failed))
        if self.top_labels:
            arrays.append(_best(probabilities, labels, self.k, failed))
        return arrays


@dataclass(frozen=True)
class Regression:
    """One number a row (``double``), or several (``array<float>``).

    Attributes:
        prediction: The column.
        targets: How many numbers the network gives.
        link: How outputs become values: see `labels.to_values`.
    """

    prediction: str
    targets: int = 1
    link: str = "identity"

    def fields(self) -> "list[StructField]":
        from pyspark.sql.types import ArrayType, DoubleType, FloatType

        return [_field(self.prediction, DoubleType() if self.targets == 1 else ArrayType(FloatType(), False))]

    def arrays(self, outputs: NDArray[np.float32], failed: NDArray[np.bool_]) -> list[pa.Array]:
        flat = to_values(outputs.reshape(len(outputs), -1), self.link)
        if self.targets == 1:
            return [pa.array(flat[:, 0].astype(np.float64), mask=failed)]
        return [vectors(flat, failed)]


@dataclass(frozen=True)
class Section:
    """An output made of a part of each row: one of several layers that leave the network behind one another.

    Attributes:
        output: What is made of it.
        start: Index of the part's first value in a flattened row.
        stop: Index behind its last.
    """

    output: Output
    start: int
    stop: int

    def fields(self) -> "list[StructField]":
        return self.output.fields()

    def arrays(self, outputs: NDArray[np.float32], failed: NDArray[np.bool_]) -> list[pa.Array]:
        return self.output.arrays(outputs.reshape(len(outputs), -1)[:, self.start : self.stop], failed)


def make_output(
    task: str,
    classes: Sequence[Label],
    link: str,
    thresholds: Sequence[float],
    *,
    targets: int,
    prediction: str | None,
    probability: str | None = None,
    probabilities: str | None = None,
    top_labels: str | None = None,
    k: int = 5,
) -> Output:
    """Return what is made of a model's outputs.

    Args:
        task: Of the model, as are `classes`, `link` and `thresholds`.
        classes: Labels in the order of the scores.
        link: How outputs become probabilities or values.
        thresholds: Least probabilities to be predicted; none: as usual.
        targets: How many outputs there are.
        prediction: Column of the label, the labels or the value.
        probability: Column of the label's probability.
        probabilities: Column of all probabilities.
        top_labels: Column of the `k` best labels.
        k: How many those are.
    """
    if task == "regression":
        return Regression(prediction or "", targets, link)
    columns = {"prediction": prediction, "probabilities": probabilities, "top_labels": top_labels, "k": k}
    if task == "multilabel":
        return MultiLabel(tuple(classes), tuple(thresholds), **columns)  # type: ignore[arg-type]
    return Classification(
        tuple(classes),
        probability=probability,
        link=link,
        thresholds=tuple(thresholds),
        **columns,  # type: ignore[arg-type]
    )


def make_outputs(
    manifest: Mapping[str, Any],
    *,
    prediction: str,
    value: str | None = None,
    probability: str | None = None,
    probabilities: str | None = None,
    top_labels: str | None = None,
    k: int = 5,
) -> list[Output]:
    """Return what is made of a model's outputs; of several each has columns that begin with its name, ``kind_…``.

    Args:
        manifest: The model's.
        prediction: Column of the label or the labels.
        value: Column of a regression's value; None: as `prediction`.
        probability: Column of the label's probability.
        probabilities: Column of all probabilities.
        top_labels: Column of the `k` best labels.
        k: How many those are.
    """
    columns = {
        "prediction": prediction,
        "probability": probability,
        "probabilities": probabilities,
        "top_labels": top_labels,
    }

    def of(task: str) -> dict[str, str | None]:
        return columns | ({"prediction": value or prediction} if task == "regression" else {})

    several = outputs_in(manifest)
    if not several:
        whole = (manifest[name] for name in ("task", "classes", "link", "thresholds"))
        targets = int(manifest["output_shape"][0])
        return [make_output(*whole, targets=targets, k=k, **of(manifest["task"]))]  # type: ignore[arg-type]
    made, start = list[Output](), 0
    for output in several:
        own = {what: f"{output.name}_{column}" if column else None for what, column in of(output.task).items()}
        told = (output.task, output.classes, output.link, output.thresholds)
        answer = make_output(*told, targets=output.width, k=k, **own)  # type: ignore[arg-type]
        made.append(Section(answer, start, start + output.width))
        start += output.width
    return made


def _label_type(classes: Sequence[Label]) -> "DataType":
    from pyspark.sql.types import DoubleType, LongType, StringType

    arrow = _label_array(classes).type
    return StringType() if arrow == pa.string() else LongType() if arrow == pa.int64() else DoubleType()


def _label_array(classes: Sequence[Label]) -> pa.Array:
    if all(isinstance(label, int) for label in classes):
        return pa.array(classes, pa.int64())
    if any(isinstance(label, str) for label in classes):
        return pa.array(map(str, classes), pa.string())
    return pa.array(classes, pa.float64())


def _pairs_type(label: "DataType") -> "DataType":
    from pyspark.sql.types import ArrayType, FloatType, StructField, StructType

    pair = StructType([StructField("label", label, False), StructField("probability", FloatType(), False)])
    return ArrayType(pair, containsNull=False)


def _best(probabilities: NDArray[np.float32], labels: pa.Array, k: int, failed: NDArray[np.bool_]) -> pa.ListArray:
    """Return the `k` most probable labels of each row with their probabilities."""
    best = top(probabilities, k)  # (rows, k)
    confidence = np.take_along_axis(probabilities, best, axis=1)
    fields = [pa.field("label", labels.type, False), pa.field("probability", pa.float32(), False)]
    pairs = pa.StructArray.from_arrays(
        [labels.take(pa.array(best.ravel())), pa.array(confidence.ravel(), pa.float32())], fields=fields
    )
    return _lists(pairs, best.shape, failed)


def vectors(values: NDArray[np.float32], failed: NDArray[np.bool_]) -> pa.ListArray:
    """Return ``list<float>``, null where `failed`, for values of shape (rows, width).

    The numbers are not copied where they lie in one piece.
    """
    return _lists(pa.array(np.ascontiguousarray(values).reshape(-1), pa.float32()), values.shape, failed)


def _lists(items: pa.Array, shape: tuple[int, ...], failed: NDArray[np.bool_]) -> pa.ListArray:
    """Return lists of equal length, null where `failed`, over items that lie behind one another."""
    rows, width = shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(width))
    item = pa.field("element", items.type, False)
    return pa.ListArray.from_arrays(offsets, items, type=pa.list_(item), mask=pa.array(failed))


def error_field(column: str) -> "StructField":
    """Return the error column's name and Spark type: null for rows that succeeded."""
    from pyspark.sql.types import StringType, StructField, StructType

    return _field(column, StructType([StructField("kind", StringType()), StructField("message", StringType())]))


def error_array(errors: Mapping[int, RowError], rows: int) -> pa.StructArray:
    """Return the error column of `rows` rows, of which those in `errors` failed."""
    failed = sorted(errors)
    told = pa.array([{"kind": errors[row].kind, "message": errors[row].message} for row in failed], _ERROR)
    places = np.zeros(rows, np.int64)
    places[failed] = np.arange(len(failed))
    succeeded = np.ones(rows, np.bool_)
    succeeded[failed] = False
    return told.take(pa.array(places, mask=succeeded))


def _field(name: str, type_: "DataType", metadata: dict[str, Any] | None = None) -> "StructField":
    from pyspark.sql.types import StructField

    return StructField(name, type_, nullable=True, metadata=metadata)
