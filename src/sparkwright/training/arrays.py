"""Train on a table or arrays, in this process, without Spark: the same code, and the same bits."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from sparkwright.data.local import column_names, to_arrow
from sparkwright.errors import InputError
from sparkwright.events import Emit, Warned, ignore
from sparkwright.models import Model
from sparkwright.training.checkpoints import CHECKPOINT_S, Checkpoints, newest, training_fingerprint
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import train_rows
from sparkwright.training.initial import Initial
from sparkwright.training.recorded import asked_for, recorded
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.columns import Columns, LabelColumn, check_columns, label_kinds
from sparkwright.training.rows.encoding import Encoding
from sparkwright.training.rows.population import Invalid, examine, invalid_problems, left_out
from sparkwright.training.rows.store import Store
from sparkwright.training.subject import Head, Subject, allowed_classes
from sparkwright.training.transports.in_process import InProcess

if TYPE_CHECKING:
    from sparkwright.data.local import LocalTable

__all__ = ["fit_arrays", "fit_table"]

_AT_ONCE = 8192  # rows encoded at a time


def fit_table(
    table: "LocalTable",
    config: TrainingConfig | None = None,
    *,
    features: str | Sequence[str] = "features",
    label: LabelColumn = "label",
    weight: str | None = None,
    split: str | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    invalid: Invalid = "error",
    initial: Model | None = None,
    subject: Subject | None = None,
    run: str | None = None,
    checkpoints: str | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    emit: Emit = ignore,
) -> TrainingResult:
    """Train a head on a table that this process holds; the weights are those of `train` on the same rows, bit for bit.

    Args:
        table: A DataFrame of pandas, a table of Arrow, or a mapping from names to arrays of NumPy, of shape (rows,) or
            (rows, features).
        config: How; by default a `TrainingConfig()`.
        features: Column of arrays of numbers, all of one length; or several columns, of numbers too, which together
            are a row's features, in this order.
        label: Column of labels (text or whole numbers), or of numbers for a regression. Of several outputs
            (`TrainingConfig.outputs`): output → column; those that are not named have the column of their own name. A
            label that is null, or NaN, is not there: the row trains the other outputs.
        weight: Column of rows' weights; None weighs all alike.
        split: Column of ``train``, ``validation`` and ``test``; test rows are left alone. None trains on all rows.
        classes: Labels that are allowed, in the order of the scores; None takes those that there are, sorted. Of
            several outputs: output → labels.
        invalid: ``"skip"`` leaves out rows that cannot be trained on, ``"error"`` refuses them.
        initial: A model whose head has the same layers, to go on from; its classes are those that are allowed.
        subject: What is trained; None: a head on the features, from `initial` on if that is given.
        run: A run's folder (path or URI), as `train` has it; None keeps nothing.
        checkpoints: As `train` has it.
        checkpoint_s: Seconds between two checkpoints.
        emit: What takes the events.

    Raises:
        ColumnError: A column is missing or of another type; rows that cannot be trained on, counted by what is wrong.
        InputError: Fewer rows than replicas, fewer than two classes, a loss that is not finite; checkpoints of another
            configuration or other data in the run folder.
        ExistsError: Another process trains in the run folder, or it holds something else than a training's run.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> table = {"width": rng.normal(size=200), "height": rng.normal(size=200)}
        >>> table["shape"] = np.where(table["width"] > table["height"], "wide", "high")
        >>> fit_table(table, features=["width", "height"], label="shape").classes
        ('high', 'wide')
    """
    started = time.perf_counter()
    config = config or TrainingConfig()
    columns = Columns.of(features, label, weight, split, tuple(config.outputs or ()))
    rows = to_arrow(table, columns.names)
    if subject is None:
        subject = Head(None if initial is None else Initial.of(initial, config))
    subject.check(config)
    subject = subject.for_column(rows.schema, columns)
    check_columns(columns, rows.schema, column_names(table), config.tasks, subject.reader.payload)
    if split is not None:
        rows = rows.filter(pc.fill_null(pc.not_equal(rows[split], "test"), True))
    allowed = allowed_classes(classes, subject)

    def fit(folder: str | None, told: Emit) -> TrainingResult:
        kept = None if folder is None else Checkpoints(folder, newest(folder), checkpoint_s)
        return _fit([rows], config, columns, allowed, invalid, told, started, subject, kept)

    return recorded(fit, asked_for(config, columns, allowed, invalid, subject), run, checkpoints, emit)


def fit_arrays(
    x: ArrayLike,
    y: ArrayLike | Mapping[str, ArrayLike],
    config: TrainingConfig | None = None,
    *,
    validation: tuple[ArrayLike, ArrayLike | Mapping[str, ArrayLike]] | None = None,
    weight: ArrayLike | None = None,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    invalid: Invalid = "error",
    emit: Emit = ignore,
) -> TrainingResult:
    """Train a head on arrays; the weights are those of `train` on a table of the same rows, bit for bit.

    Args:
        x: Features of the training rows, of shape (rows, features); taken as float32.
        y: Their labels (text or whole numbers; lists of them for any number of labels a row), or targets. Of several
            outputs: output → its labels.
        config: How; by default a `TrainingConfig()`.
        validation: Features and labels of the validation rows.
        weight: Weights of the training rows.
        classes: As in `fit_table`.
        invalid: ``"skip"`` leaves out rows that cannot be trained on, ``"error"`` refuses them.
        emit: What takes the events.

    Raises:
        InputError: Arrays of other shapes; see also `fit_table`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(200, 5))
        >>> result = fit_arrays(x, np.where(x[:, 0] > 0, "right", "left"))
        >>> result.classes
        ('left', 'right')
    """
    started = time.perf_counter()
    config = config or TrainingConfig()
    outputs = tuple(config.outputs or ())
    for each in (y, *(validation or ())[1:]):
        if isinstance(each, Mapping) != bool(outputs):
            what = f"must map each output to its labels: {', '.join(outputs)}" if outputs else "must be one array"
            raise InputError(f"`y` {what}; got a {type(each).__name__}. What several outputs learn is in `outputs`.")
    named = {name: _column(name) for name in (*outputs, *y)} if isinstance(y, Mapping) else "y"
    columns = Columns.of("x", named, "weight", "split", outputs)
    tables = [_table(x, y, weight, "train")]
    if validation is not None:
        tables.append(_table(*validation, None, "validation"))
    for table in tables:
        check_columns(columns, table.schema, table.column_names, config.tasks)
    if tables[0].num_rows and len({table.schema.field("x").type for table in tables}) > 1:
        raise InputError("Training and validation rows must have the same number of features.")
    return _fit(tables, config, columns, classes, invalid, emit, started)


def _fit(
    tables: Sequence[pa.Table],
    config: TrainingConfig,
    columns: Columns,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None,
    invalid: Invalid,
    emit: Emit,
    started: float,
    subject: Subject | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Train on the rows of tables, all replicas in this process."""
    problems = invalid_problems(invalid)
    if problems:
        raise InputError.listing("The training cannot be done like this", problems)
    subject, transport = subject or Head(), InProcess(config.replicas)
    reader, workers = subject.reader, (0,) * config.replicas
    encoding = Encoding.of(config, columns, workers, reader.payload)
    store = Store(transport.hosted, limit_bytes=1 << 62, folder=Path(tempfile.gettempdir()), reader=reader)
    for table in tables:
        for batch in encoding(iter(table.to_batches(_AT_ONCE))):
            store.add(batch)
    kind = label_kinds(tables[0].schema, columns)
    allowed = allowed_classes(classes, subject)
    population = examine(store.census, config, columns, kind, allowed, invalid)
    if checkpoints is not None:
        data = population.fingerprint() | subject.fingerprint()
        checkpoints.fingerprint = training_fingerprint(config, data)
    seconds = {"rows": time.perf_counter() - started}
    if store.census.problems:
        emit(Warned(left_out(store.census.problems.total(), store.census.listed())))
    outcome = train_rows(config, population, store.finish(population.width), transport, emit, checkpoints, subject)
    return TrainingResult.build(
        config,
        subject,
        kind,
        population.named_classes,
        outcome.weights,
        history=outcome.history,
        best_epoch=outcome.best_epoch,
        temperature=outcome.temperature,
        sync_every=outcome.sync_every,
        thresholds=outcome.thresholds,
        rows=dict(store.census.rows),
        skipped=store.census.problems.total(),
        seconds=seconds | outcome.seconds,
    )


def _table(x: ArrayLike, y: ArrayLike | Mapping[str, ArrayLike], weight: ArrayLike | None, split: str) -> pa.Table:
    features: NDArray[np.float32] = np.ascontiguousarray(x, np.float32)
    labels = {_column(name): _labels(own) for name, own in y.items()} if isinstance(y, Mapping) else {"y": _labels(y)}
    for own in labels.values():
        if features.ndim != 2 or len(features) != len(own):
            raise InputError(
                f"Features must be of shape (rows, features), with as many rows as labels; the {split} rows have "
                f"features of shape {features.shape} and {len(own)} labels."
            )
    weights = np.ones(len(features), np.float32) if weight is None else np.asarray(weight, np.float32)
    if weights.shape != (len(features),):
        raise InputError(
            f"`weight` must hold one number for each of {len(features)} rows; it has shape {weights.shape}."
        )
    return pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1]),
            **labels,
            "weight": weights,
            "split": pa.repeat(split, len(features)),
        }
    )


def _column(output: str) -> str:
    """Return the column of one of several outputs."""
    return f"y[{output!r}]"


def _labels(y: ArrayLike) -> pa.Array:
    several = isinstance(y, Sequence) and any(isinstance(each, list | tuple) for each in y)
    return pa.array(y if several else np.asarray(y))
