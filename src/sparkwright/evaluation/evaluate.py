"""Evaluation of predictions: one pass over a DataFrame, counted on the executors.

`Evaluation.to_dict` is one side's entry (``"validation"``, ``"test"``) of a run's ``metrics.json``. For both tasks::

    task               "classification", "multilabel" or "regression"
    rows               all rows seen = evaluated + errors + unlabelled + unknown labels
    evaluated          rows that the metrics are over
    errors             rows without a prediction, because they could not be read or scored
    error_kinds        {kind: rows}, the most frequent first
    unlabelled         rows that have a prediction and no label
    unknown_labels     {"rows": n, "examples": [...]}: labels that are none of the model's classes

For classification also (C: number of classes)::

    classes            [name] * C
    accuracy           share of evaluated rows whose most probable class is their label
    accuracy_interval  [low, high], 95 % (Wilson)
    balanced_accuracy  mean recall of the classes that occur as labels
    top_k, top_k_accuracy   k, and the share of rows whose label is among the k most probable classes
    log_loss           mean of -ln(probability of the label)
    calibration_error  mean over rows of |confidence - accuracy| of the row's bin, 15 bins
    mcc                Matthews' correlation
    roc_area, roc_area_bound, pr_area, pr_area_bound
                       areas known up to ± the bound; of 2 classes for the second, of more the mean over one-vs-rest
    macro, weighted    {"precision", "recall", "f1"}
    baseline           {"majority": {"class", "accuracy"}, "chance": {"accuracy"}}
    per_class          [{"class", "rows", "predicted", "correct", "precision", "recall", "f1", and the areas}] * C
    confusion          {"true": [index], "predicted": [index], "rows": [n]}: the pairs that occur
    calibration        {"rows": [n], "confidence": [mean], "accuracy": [share]} of 15 equal bins of confidence

For any number of labels a row also (a decision: whether a row has a label)::

    classes            [name] * C
    subset_accuracy    share of evaluated rows whose labels are all right
    hamming_loss       share of all decisions that are wrong
    log_loss           mean over rows of the mean over labels of -ln(probability of what is the case)
    roc_area, roc_area_bound, pr_area, pr_area_bound    means over the labels
    micro, macro, weighted   {"precision", "recall", "f1"}: of all decisions; of labels; of labels by their rows
    labels_per_row     {"true", "predicted"}
    baseline           {"none": {"hamming_loss"}}: never any label
    per_class          [{"class", "rows", "predicted", "correct", "precision", "recall", "f1", and the areas}] * C

For regression also::

    mae, rmse, r2, bias   bias: mean of prediction - label
    baseline              {"mean": {"prediction", "rmse"}}: always the training rows' mean

What is undefined (without rows, say) is None.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as T  # noqa: N812

from sparkwright.errors import ColumnError, InputError, did_you_mean
from sparkwright.evaluation.tally import (
    SCHEMA,
    ClassificationTally,
    CountRows,
    Counts,
    MergeStates,
    MultiLabelTally,
    RegressionTally,
    State,
    Tally,
)
from sparkwright.models import ModelOutput
from sparkwright.session import ship_library, worker_errors

__all__ = [
    "Evaluation",
    "evaluate",
    "evaluate_multilabel",
    "evaluate_outputs",
    "evaluate_regression",
    "most_confidently_wrong",
]


@dataclass(frozen=True)
class Evaluation:
    """How good predictions are.

    Attributes:
        task: What was predicted.
        counts: Of all rows, which were evaluated and why the others were not; keys in the module's docstring.
        metrics: The figures; keys in the module's docstring.
        classes: The classes in their order, empty for regression.
    """

    task: Literal["classification", "multilabel", "regression"]
    counts: dict[str, Any]
    metrics: dict[str, Any] = field(repr=False)
    classes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        """Return one figure by its key in `to_dict`."""
        return self.to_dict()[name]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; keys in the module's docstring."""
        classes = {"classes": list(self.classes)} if self.classes else {}
        return {"task": self.task, **self.counts, **classes, **self.metrics}


def evaluate(
    predictions: DataFrame,
    classes: Sequence[str],
    *,
    label: str = "label",
    probabilities: str = "probabilities",
    error: str | None = "error",
    top_k: int = 5,
    threshold: float | None = None,
    training_rows: Mapping[str, int] | None = None,
) -> Evaluation:
    """Evaluate class probabilities against labels.

    One Spark job: every task counts its rows, executors merge the counts, the driver receives one state (at most some
    16 MiB for 1,000 classes). Rows that failed or have no label are counted and left out of the metrics.

    Args:
        predictions: What `predict` gives, with labels.
        classes: The model's classes in the order of the probabilities.
        label: Column of class names (strings); or of numbers, which are class names if all of these are numbers, and
            indices into `classes` otherwise. Null and NaN: no label.
        probabilities: Column ``array<float>``, ``array<double>`` or a vector, as long as `classes`.
        error: Column that says why a row has no prediction, null where it has: a struct with a field ``kind``, or a
            string. It may be absent; rows with null probabilities count as errors anyway.
        top_k: k of the top-k accuracy.
        threshold: Of two classes: the second's least probability to be predicted (`Model.thresholds`); None takes the
            more probable one.
        training_rows: Rows of each class that the model learned from, for the baseline.

    Raises:
        ColumnError: a column is missing or of the wrong type.
        InputError: fewer than two classes, or one named twice; a threshold where they are not two; or a row whose
            number of probabilities is not the number of classes.
    """
    names = _check_classes(classes)
    if threshold is not None and len(names) != 2:
        raise InputError(f"A threshold decides between two classes; there are {len(names)}.")
    kind = _column_type(predictions, label)
    if not isinstance(kind, T.StringType | T.NumericType):
        raise ColumnError(f"Column `{label}` must hold strings or numbers, and is {kind.simpleString()}.")
    rows = predictions.select(
        F.col(_quoted(label)).alias("label"),
        _array(predictions, probabilities).alias("probabilities"),
        _error_kind(predictions, error).alias("error"),
    )
    counts, state = _count(rows, ClassificationTally(names, top_k, threshold))
    return Evaluation("classification", counts.to_dict(state.rows), state.result(names, training_rows), names)


def evaluate_multilabel(
    predictions: DataFrame,
    classes: Sequence[str],
    *,
    thresholds: Sequence[float] = (),
    label: str = "label",
    probabilities: str = "probabilities",
    error: str | None = "error",
) -> Evaluation:
    """Evaluate probabilities of labels where a row has any number of them; as `evaluate`.

    Args:
        predictions: What `predict` gives, with labels.
        classes: The model's labels in the order of the probabilities.
        thresholds: Each label's least probability to be predicted (`Model.thresholds`); none: one half.
        label: Column of arrays of labels (strings or numbers, as for `evaluate`). Null: not labelled; an empty array:
            a row that has none of the labels. Rows with a label that is none of `classes` are left out and counted.
        probabilities: Column ``array<float>``, ``array<double>`` or a vector, as long as `classes`.
        error: As for `evaluate`.

    Raises:
        ColumnError: a column is missing or of the wrong type.
        InputError: a label named twice; not as many thresholds as labels; or a row whose number of probabilities is
            not the number of labels.
    """
    names = _check_classes(classes, least=1)
    if len(thresholds) not in (0, len(names)):
        raise InputError(f"`thresholds` must hold one number for each of {len(names)} labels; got {len(thresholds)}.")
    kind = _column_type(predictions, label)
    if not (isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.StringType | T.NumericType)):
        raise ColumnError(f"Column `{label}` must hold arrays of strings or numbers, and is {kind.simpleString()}.")
    rows = predictions.select(
        F.col(_quoted(label)).alias("label"),
        _array(predictions, probabilities).alias("probabilities"),
        _error_kind(predictions, error).alias("error"),
    )
    counts, state = _count(rows, MultiLabelTally(names, tuple(thresholds)))
    return Evaluation("multilabel", counts.to_dict(state.rows), state.result(names), names)


def evaluate_regression(
    predictions: DataFrame,
    *,
    label: str = "label",
    prediction: str = "prediction",
    error: str | None = "error",
    training_mean: float | None = None,
) -> Evaluation:
    """Evaluate predicted numbers against labels; as `evaluate`, with `training_mean` for the baseline.

    Raises:
        ColumnError: a column is missing or no number.
    """
    for name in (label, prediction):
        kind = _column_type(predictions, name)
        if not isinstance(kind, T.NumericType):
            raise ColumnError(f"Column `{name}` must hold numbers, and is {kind.simpleString()}.")
    rows = predictions.select(
        F.col(_quoted(label)).cast("double").alias("label"),
        F.col(_quoted(prediction)).cast("double").alias("prediction"),
        _error_kind(predictions, error).alias("error"),
    )
    counts, state = _count(rows, RegressionTally())
    return Evaluation("regression", counts.to_dict(state.rows), state.result(training_mean))


def evaluate_outputs(
    predictions: DataFrame,
    outputs: Sequence[ModelOutput],
    *,
    label: Mapping[str, str] | None = None,
    error: str | None = "error",
) -> dict[str, Evaluation]:
    """Evaluate each of several outputs of a model by itself; as `evaluate`, one Spark job an output.

    Rows that lack an output's label are counted there as unlabelled. Write or cache predictions that are still to be
    computed: each job asks for them.

    Args:
        predictions: What `predict` gives, with labels: the columns ``kind_probabilities``, ``height_prediction`` ….
        outputs: Of the model (`Model.outputs`).
        label: Output → column of its labels; those that are not named have the column of their own name.
        error: As for `evaluate`.

    Returns:
        Output → how good its predictions are.

    Raises:
        ColumnError: a column is missing or of the wrong type.
        InputError: `label` names no output.
    """
    names, columns = [output.name for output in outputs], dict(label or {})
    unknown = [f"There is no output `{name}`.{did_you_mean(name, names)}" for name in columns if name not in names]
    if unknown:
        raise InputError.listing(f"`label` must map outputs ({', '.join(names)}) to columns", unknown)
    found = {}
    for output in outputs:
        told: dict[str, Any] = {"label": columns.get(output.name, output.name), "error": error}
        if output.task == "regression":
            found[output.name] = evaluate_regression(predictions, prediction=f"{output.name}_prediction", **told)
            continue
        told["probabilities"] = f"{output.name}_probabilities"
        classes = [str(name) for name in output.classes]
        if output.task == "multilabel":
            found[output.name] = evaluate_multilabel(predictions, classes, thresholds=output.thresholds, **told)
        else:
            found[output.name] = evaluate(predictions, classes, threshold=next(iter(output.thresholds), None), **told)
    return found


def most_confidently_wrong(
    predictions: DataFrame,
    classes: Sequence[str],
    count: int = 24,
    *,
    label: str = "label",
    probabilities: str = "probabilities",
    path: str = "path",
) -> list[dict[str, Any]]:
    """Return the rows whose wrong class has the highest probability, at most `count`, the most confident first.

    Each is ``{"path", "label", "predicted", "probability"}``. One Spark job without Python on the executors; the driver
    receives these rows alone. `label` holds class names.

    Raises:
        ColumnError: a column is missing or of the wrong type.
    """
    names = _check_classes(classes)
    array, highest = F.col("probabilities"), F.array_max("probabilities")
    rows = (
        predictions.select(
            F.col(_quoted(path)).cast("string").alias("path"),
            F.col(_quoted(label)).cast("string").alias("label"),
            _array(predictions, probabilities).alias("probabilities"),
        )
        .withColumn("probability", highest.cast("double"))
        .withColumn("predicted", F.element_at(F.lit(list(names)), F.array_position(array, highest).cast("int")))
        .where((F.col("label") != F.col("predicted")) & ~F.isnan("probability"))
        .orderBy(F.desc("probability"), "path")
        .select("path", "label", "predicted", "probability")
        .limit(count)
    )
    with worker_errors():
        return [row.asDict() for row in rows.collect()]


def _check_classes(classes: Sequence[str], least: int = 2) -> tuple[str, ...]:
    names = tuple(str(name) for name in classes)
    if len(names) < least:
        raise InputError(f"An evaluation needs at least {least} classes, and got {list(names)}.")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"Each class must be named once, and these are named twice: {twice[:5]}.")
    return names


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _column_type(rows: DataFrame, name: str) -> T.DataType:
    known = rows.schema.fieldNames()
    if name not in known:
        raise ColumnError(f"Column `{name}` not found in {known}.{did_you_mean(name, known)}")
    return rows.schema[name].dataType


def _array(rows: DataFrame, name: str) -> Column:
    kind = _column_type(rows, name)
    if kind.typeName() == "vectorudt":
        from pyspark.ml.functions import vector_to_array

        return vector_to_array(F.col(_quoted(name)))
    if isinstance(kind, T.ArrayType) and isinstance(kind.elementType, T.FloatType | T.DoubleType):
        return F.col(_quoted(name))
    raise ColumnError(f"Column `{name}` must be array<float>, array<double> or a vector, and is {kind.simpleString()}.")


def _error_kind(rows: DataFrame, name: str | None) -> Column:
    if name is None or name not in rows.columns:
        return F.lit(None).cast("string")
    kind, column = _column_type(rows, name), F.col(_quoted(name))
    if isinstance(kind, T.StructType) and "kind" in kind.fieldNames():
        return F.when(column.isNotNull(), F.coalesce(column["kind"], F.lit("unknown")))
    if isinstance(kind, T.StringType):
        return column
    raise ColumnError(f"Column `{name}` must be a string or struct<kind,…>, and is {kind.simpleString()}.")


def _count(rows: DataFrame, tally: Tally[State]) -> tuple[Counts, State]:
    """Count `rows` on the executors and return the one merged pair."""
    ship_library(rows.sparkSession)
    merge = MergeStates(tally)
    # Spark gives as many merging tasks as the states' size asks for (one, usually), and the last merges theirs.
    partial = rows.mapInArrow(CountRows(tally), SCHEMA).hint("rebalance").mapInArrow(merge, SCHEMA)
    with worker_errors():
        found = partial.repartition(1).mapInArrow(merge, SCHEMA).collect()
    if not found:  # not a single row
        return Counts(), tally.new_state()
    return Counts.from_json(found[0]["counts"]), tally.read_state(bytes(found[0]["state"]))
