"""Rows of a table → rows for training: checked, and placed by their content.

A row's hash says which replica trains on it and when, so that neither partitions nor their order matter. The same code
runs with Spark, on executors, and without.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparkwright.errors import ColumnError

__all__ = ["ENCODED", "ENCODED_DDL", "SIDES", "TRAIN", "VALIDATION", "Columns", "Encoding", "check_types", "label_kind"]

SIDES = ("train", "validation", "test")
TRAIN, VALIDATION = 0, 1

ENCODED_DDL = (
    "worker int, replica int, key bigint, side tinyint, features binary, label string, target double, "
    "weight float, problem string"
)
"""What `Encoding` gives: as Spark writes it. Features are float32 as bytes: Spark moves arrays number by number."""

ENCODED = pa.schema(
    [
        pa.field("worker", pa.int32()),
        pa.field("replica", pa.int32()),
        pa.field("key", pa.int64()),
        pa.field("side", pa.int8()),
        pa.field("features", pa.binary()),
        pa.field("label", pa.string()),
        pa.field("target", pa.float64()),
        pa.field("weight", pa.float32()),
        pa.field("problem", pa.string()),
    ]
)

LabelKind = Literal["text", "int", "float"]

_NULL = pa.scalar(None, pa.binary())


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns; those that are None are not there."""

    features: str = "features"
    label: str = "label"
    weight: str | None = None
    split: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns that are there."""
        return [name for name in (self.features, self.label, self.weight, self.split) if name is not None]


def label_kind(type_: pa.DataType) -> LabelKind:
    """Return what classes are made of, given the label column's type."""
    if pa.types.is_integer(type_):
        return "int"
    return "float" if pa.types.is_floating(type_) or pa.types.is_decimal(type_) else "text"


@dataclass(frozen=True)
class Encoding:
    """Encodes batches; small and picklable, so that Spark takes it as the function of a stage.

    A row that cannot be trained on keeps its place, without features and with a `problem`.

    Args:
        columns: Where to find what.
        task: ``"classification"`` or ``"regression"``.
        seed: Other seeds place rows otherwise.
        workers: Worker of each replica.
    """

    columns: Columns
    task: str
    seed: int
    workers: tuple[int, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                yield self.encode(batch)

    def encode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch's rows, in their order, in the columns of `ENCODED`."""
        problems = _Problems(batch.num_rows)
        side = self._sides(batch, problems)
        labels, targets = self._labels(batch, problems)
        weight = self._weights(batch, problems)
        lengths, values = self._features(batch, problems)
        replica, key = self._places(lengths, values, labels, targets, weight)
        problem = problems.array()
        good = pc.is_null(problem)
        replica[~good.to_numpy(zero_copy_only=False)] = 0
        offsets = np.concatenate([[0], np.cumsum(lengths) * values.itemsize]).astype(np.int32)
        features = pa.Array.from_buffers(
            pa.binary(), batch.num_rows, [None, pa.py_buffer(offsets), pa.py_buffer(values)]
        )
        return pa.record_batch(
            [
                pa.array(np.array(self.workers, np.int32)[replica]),
                pa.array(replica),
                pa.array(key),
                pa.array(side),
                features if problem.null_count == len(problem) else pc.if_else(good, features, _NULL),
                labels,
                pa.array(targets),
                pa.array(weight),
                problem,
            ],
            schema=ENCODED,
        )

    def _sides(self, batch: pa.RecordBatch, problems: "_Problems") -> NDArray[np.int8]:
        if self.columns.split is None:
            return np.zeros(batch.num_rows, np.int8)
        names = batch.column(self.columns.split).cast(pa.string())
        side: NDArray[np.int8] = (
            pc.fill_null(pc.index_in(names, pa.array(SIDES)), -1).to_numpy(zero_copy_only=False).astype(np.int8)
        )
        for row in np.flatnonzero(side < 0):
            value = names[row].as_py()
            problems.add([row], f"`{self.columns.split}` is {value!r}, not one of {', '.join(SIDES)}")
        return side

    def _labels(self, batch: pa.RecordBatch, problems: "_Problems") -> tuple[pa.Array, NDArray[np.float64]]:
        name, column = self.columns.label, batch.column(self.columns.label)
        problems.add(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)), f"`{name}` is null")
        nothing = np.zeros(batch.num_rows)
        if self.task == "classification" and label_kind(column.type) != "float":
            return column.cast(pa.string()), nothing
        numbers = np.nan_to_num(column.cast(pa.float64()).to_numpy(zero_copy_only=False), nan=np.nan)
        missing = column.is_null().to_numpy(zero_copy_only=False)
        problems.add(np.flatnonzero(~np.isfinite(numbers) & ~missing), f"`{name}` is NaN or infinite")
        finite = np.isfinite(numbers)
        numbers[~finite] = 0
        if self.task == "regression":
            return pa.nulls(batch.num_rows, pa.string()), numbers
        broken = finite & (numbers != np.round(numbers))
        problems.add(np.flatnonzero(broken), f"`{name}` is no whole number (for regression use MLPRegressor)")
        return pa.array([str(int(number)) for number in numbers], pa.string()), nothing

    def _weights(self, batch: pa.RecordBatch, problems: "_Problems") -> NDArray[np.float32]:
        if self.columns.weight is None:
            return np.ones(batch.num_rows, np.float32)
        column = batch.column(self.columns.weight).cast(pa.float32())
        weight = np.array(column.to_numpy(zero_copy_only=False), np.float32)
        wrong = ~np.isfinite(weight) | (weight < 0)
        problems.add(np.flatnonzero(wrong), f"`{self.columns.weight}` is null, negative, NaN or infinite")
        weight[wrong] = 0
        return weight

    def _features(self, batch: pa.RecordBatch, problems: "_Problems") -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        name = self.columns.features
        column = batch.column(name).cast(pa.list_(pa.float32()), safe=False)
        missing = column.is_null().to_numpy(zero_copy_only=False)
        lengths = np.array(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False), np.int64)
        # Nulls inside become NaN. A copy, because the buffer is read as bytes from its beginning.
        values = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
        problems.add(np.flatnonzero(missing), f"`{name}` is null")
        problems.add(np.flatnonzero(~missing & (lengths == 0)), f"`{name}` is empty")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            rows = np.unique(np.searchsorted(np.cumsum(lengths), bad, side="right"))
            problems.add(rows, f"`{name}` holds NaN, infinity or null")
        return lengths, values

    def _places(
        self,
        lengths: NDArray[np.int64],
        values: NDArray[np.float32],
        labels: pa.Array,
        targets: NDArray[np.float64],
        weight: NDArray[np.float32],
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return each row's replica and key, from the hash of its content and the seed."""
        seed, ends = self.seed.to_bytes(8), np.cumsum(lengths) * 4
        content = memoryview(values).cast("B")  # type: ignore[arg-type]
        names = [None] * len(lengths) if labels.null_count == len(labels) else labels.to_pylist()
        key = np.empty(len(lengths), np.int64)
        start = 0
        for row, (end, name) in enumerate(zip(ends.tolist(), names, strict=True)):
            digest = blake2b(content[start:end], digest_size=8, key=seed)
            digest.update((name or "").encode() + targets[row].tobytes() + weight[row].tobytes())
            key[row] = int.from_bytes(digest.digest(), signed=True)
            start = end
        return (key.view(np.uint64) % len(self.workers)).astype(np.int32), key


class _Problems:
    """The first problem of each row."""

    def __init__(self, rows: int) -> None:
        self._texts: list[str | None] = [None] * rows

    def add(self, rows: Any, text: str) -> None:
        for row in rows:
            self._texts[row] = self._texts[row] or text

    def array(self) -> pa.Array:
        return pa.array(self._texts, pa.string())


def check_types(columns: Columns, schema: pa.Schema, task: str) -> None:
    """Check that the columns are of types that `Encoding` takes.

    Raises:
        ColumnError: One is of another type.
    """
    features = schema.field(columns.features).type
    is_list = pa.types.is_list(features) or pa.types.is_large_list(features) or pa.types.is_fixed_size_list(features)
    if not is_list or not _is_number(features.value_type):
        raise ColumnError(
            f"Column `{columns.features}` must hold vectors or arrays of numbers; it holds {features}. "
            "`Featurizer` makes such a column of photos, `VectorAssembler` of number columns."
        )
    label = schema.field(columns.label).type
    if task == "regression" and not _is_number(label):
        raise ColumnError(f"Column `{columns.label}` must hold numbers for a regression; it holds {label}.")
    if task == "classification" and not (_is_number(label) or pa.types.is_boolean(label) or _is_text(label)):
        raise ColumnError(f"Column `{columns.label}` must hold text or whole numbers; it holds {label}.")
    if columns.weight is not None and not _is_number(schema.field(columns.weight).type):
        raise ColumnError(f"Column `{columns.weight}` must hold numbers; it holds {schema.field(columns.weight).type}.")
    if columns.split is not None and not _is_text(schema.field(columns.split).type):
        raise ColumnError(
            f"Column `{columns.split}` must hold one of {', '.join(SIDES)}; it holds "
            f"{schema.field(columns.split).type}."
        )


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))
