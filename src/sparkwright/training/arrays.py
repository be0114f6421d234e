"""Train on arrays, in this process, without Spark: the same code, and the same bits."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from sparkwright.errors import InputError
from sparkwright.events import Emit, ignore
from sparkwright.training.columns import Columns, check_columns, label_kind
from sparkwright.training.config import TrainingConfig
from sparkwright.training.encoding import Encoding
from sparkwright.training.head import train_head
from sparkwright.training.population import Invalid, examine
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows import Store
from sparkwright.training.transports.in_process import InProcess

__all__ = ["fit_arrays"]

_COLUMNS = Columns(("x",), "y", "weight", "split")
_AT_ONCE = 8192  # rows encoded at a time


def fit_arrays(
    x: ArrayLike,
    y: ArrayLike,
    config: TrainingConfig | None = None,
    *,
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    weight: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    invalid: Invalid = "error",
    emit: Emit = ignore,
) -> TrainingResult:
    """Train a head on arrays; the weights are those of `train` on a table of the same rows, bit for bit.

    Args:
        x: Features of the training rows, of shape (rows, features); taken as float32.
        y: Their labels (text or whole numbers), or targets.
        config: How; by default a `TrainingConfig()`.
        validation: Features and labels of the validation rows.
        weight: Weights of the training rows.
        classes: Labels that are allowed, in the order of the scores; None takes those that there are, sorted.
        invalid: ``"skip"`` leaves out rows that cannot be trained on, ``"error"`` refuses them.
        emit: What takes the events.

    Raises:
        InputError: Arrays of other shapes; see also `examine`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(200, 5))
        >>> result = fit_arrays(x, np.where(x[:, 0] > 0, "right", "left"))
        >>> result.classes
        ('left', 'right')
    """
    started = time.perf_counter()
    config = config or TrainingConfig()
    tables = [_table(x, y, weight, "train")]
    if validation is not None:
        tables.append(_table(*validation, None, "validation"))
    for table in tables:
        check_columns(_COLUMNS, table.schema, table.column_names, config.task)
    if tables[0].num_rows and len({table.schema.field("x").type for table in tables}) > 1:
        raise InputError("Training and validation rows must have the same number of features.")
    transport = InProcess(config.replicas)
    encoding = Encoding(_COLUMNS, config.task, config.seed, (0,) * config.replicas, config.validation_fraction)
    store = Store(transport.hosted, limit_bytes=1 << 62, folder=Path(tempfile.gettempdir()))
    for table in tables:
        for batch in encoding(iter(table.to_batches(_AT_ONCE))):
            store.add(batch)
    kind = label_kind(tables[0].schema.field("y").type)
    allowed = None if classes is None else tuple(map(str, classes))
    population = examine(store.census, config, _COLUMNS, kind, allowed, invalid)
    seconds = {"rows": time.perf_counter() - started}
    outcome = train_head(config, population, store.finish(population.width), transport, emit)
    return TrainingResult.build(
        config,
        kind,
        population.classes,
        outcome.weights,
        history=outcome.history,
        best_epoch=outcome.best_epoch,
        temperature=outcome.temperature,
        rows=dict(store.census.rows),
        skipped=store.census.problems.total(),
        seconds=seconds | outcome.seconds,
    )


def _table(x: ArrayLike, y: ArrayLike, weight: ArrayLike | None, split: str) -> pa.Table:
    features: NDArray[np.float32] = np.ascontiguousarray(x, np.float32)
    labels = pa.array(np.asarray(y))
    if features.ndim != 2 or len(features) != len(labels):
        raise InputError(
            f"Features must be of shape (rows, features), with as many rows as labels; the {split} rows have features "
            f"of shape {features.shape} and {len(labels)} labels."
        )
    weights = np.ones(len(labels), np.float32) if weight is None else np.asarray(weight, np.float32)
    if weights.shape != (len(labels),):
        raise InputError(f"`weight` must hold one number for each of {len(labels)} rows; it has shape {weights.shape}.")
    return pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1]),
            "y": labels,
            "weight": weights,
            "split": pa.repeat(split, len(labels)),
        }
    )
