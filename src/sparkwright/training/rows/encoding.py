"""Rows of a table → rows for training: checked, and placed by their content.

A row's hash says which replica trains on it and when, so that neither partitions nor their order matter. The same code
runs with Spark, on executors, and without.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparkwright.data.local import join_numbers, numbers_of
from sparkwright.training.config import REGRESSION, TrainingConfig, label_text
from sparkwright.training.rows.columns import SIDES, Columns, Payload, label_kind

__all__ = ["ENCODED", "ENCODED_DDL", "TRAIN", "VALIDATION", "Encoding", "label_of"]

TRAIN, VALIDATION = 0, 1

ENCODED_DDL = (
    "worker int, replica int, key bigint, side tinyint, features binary, label array<string>, target double, "
    "targets binary, weight float, problem string, example string"
)
"""What `Encoding` gives, as Spark writes it. Features are a row's payload: numbers as float32, because Spark moves
arrays number by number; or the bytes of a file or a text as they are. Of several outputs the labels are as `label_of`
has them, and `targets` holds a float64 each: the target of a regression, NaN where the row lacks the output's label;
else null."""

ENCODED = pa.schema(
    [
        pa.field("worker", pa.int32()),
        pa.field("replica", pa.int32()),
        pa.field("key", pa.int64()),
        pa.field("side", pa.int8()),
        pa.field("features", pa.binary()),
        pa.field("label", pa.list_(pa.string())),
        pa.field("target", pa.float64()),
        pa.field("targets", pa.binary()),
        pa.field("weight", pa.float32()),
        pa.field("problem", pa.string()),
        pa.field("example", pa.string()),
    ]
)

_LABELS = ENCODED.field("label").type
_NULL = pa.scalar(None, pa.binary())
_COLUMNS_SHOWN = 3  # of a row that cannot be trained on
_ITEMS_SHOWN = 4  # of an array
_HALF_SHOWN = 30  # characters at either end of a text


@dataclass(frozen=True)
class Encoding:
    """Encodes batches; small and picklable, so that Spark takes it as the function of a stage.

    A row that cannot be trained on keeps its place, without features, with a `problem` in words that all such rows
    share, and as an `example` the values that tell it from others.

    Args:
        columns: Where to find what.
        task: ``"classification"``, ``"multilabel"`` or ``"regression"``.
        seed: Other seeds place rows otherwise.
        workers: Worker of each replica.
        validation_fraction: Share of the training rows that validate instead; a row's hash chooses.
        payload: What the columns of features hold.
        counts: Whether the targets of a regression must be 0 at least.
        outputs: Of several outputs: name, and what encodes its labels.
    """

    columns: Columns
    task: str
    seed: int
    workers: tuple[int, ...]
    validation_fraction: float = 0.0
    payload: Payload = "numbers"
    counts: bool = False
    outputs: "tuple[tuple[str, Encoding], ...]" = ()

    @staticmethod
    def of(
        config: TrainingConfig, columns: Columns, workers: tuple[int, ...], payload: Payload = "numbers"
    ) -> "Encoding":
        """Return the encoding of a training's rows."""
        counts = config.objective == "poisson"
        outputs = tuple(
            (name, Encoding.of(own, columns.of_output(name), workers, payload)) for name, own in config.parts.items()
        )
        fraction = config.validation_fraction
        return Encoding(columns, config.task, config.seed, workers, fraction, payload, counts, outputs)

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                yield self.encode(batch)

    def encode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch's rows, in their order, in the columns of `ENCODED`."""
        problems = _Problems(batch, self.columns.names)
        side = self._sides(batch, problems)
        labels, targets = self._labels_of_outputs(batch, problems) if self.outputs else self._labels(batch, problems)
        weight = self._weights(batch, problems)
        features = self._bytes(batch, problems) if self.payload == "bytes" else self._numbers(batch, problems)
        replica, key = self._places(features, labels, targets, weight)
        if self.validation_fraction:
            # A row's replica is the rest of its key by their number; what decides here are the key's highest bits.
            low = key.view(np.uint64) < np.uint64(self.validation_fraction * 2**64)
            side[low & (side == TRAIN)] = VALIDATION
        problem, example = problems.arrays()
        good = pc.is_null(problem)
        replica[~good.to_numpy(zero_copy_only=False)] = 0
        return pa.record_batch(
            [
                pa.array(np.array(self.workers, np.int32)[replica]),
                pa.array(replica),
                pa.array(key),
                pa.array(side),
                features if problem.null_count == len(problem) else pc.if_else(good, features, _NULL),
                labels,
                pa.array(np.zeros(len(targets)) if self.outputs else targets),
                _packed(targets) if self.outputs else pa.nulls(len(targets), pa.binary()),
                pa.array(weight),
                problem,
                example,
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
        null = names.is_null().to_numpy(zero_copy_only=False)
        problems.add(np.flatnonzero(null), "is null", self.columns.split)
        problems.add(np.flatnonzero((side < 0) & ~null), f"is none of {', '.join(SIDES)}", self.columns.split)
        return side

    def _labels(self, batch: pa.RecordBatch, problems: "_Problems") -> tuple[pa.ListArray, NDArray[np.float64]]:
        """Return each row's labels as text: one in a classification, null in a regression; and the targets."""
        name, column = self.columns.label, batch.column(self.columns.label)
        problems.add(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)), "is null", name)
        return self._read_labels(column, problems)

    def _labels_of_outputs(
        self, batch: pa.RecordBatch, problems: "_Problems"
    ) -> tuple[pa.ListArray, NDArray[np.float64]]:
        """Return each row's labels of all outputs, and a number for each output, of shape (rows, outputs).

        A label that is null, or NaN, is not there; a row without any cannot be trained on.
        """
        own = [list[str]() for _ in range(batch.num_rows)]
        targets = np.full((batch.num_rows, len(self.outputs)), np.nan)
        for place, (name, encoding) in enumerate(self.outputs):
            column = batch.column(encoding.columns.label)
            if pa.types.is_floating(column.type):
                column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
            there = column.is_valid().to_numpy(zero_copy_only=False)
            labels, numbers = encoding._read_labels(column, problems)
            targets[there, place] = numbers[there]
            found = labels.to_pylist()
            for row in np.flatnonzero(there).tolist():
                own[row] += [label_of(name), *(label_of(name, label) for label in found[row] or ())]
        without = np.flatnonzero(np.isnan(targets).all(1))
        problems.add(without, "are null: no output has a label", *self.columns.labels)
        return pa.array(own, _LABELS), targets

    def _read_labels(self, column: pa.Array, problems: "_Problems") -> tuple[pa.ListArray, NDArray[np.float64]]:
        """Return what `_labels` does, of a column whose nulls are known."""
        name, nothing = self.columns.label, np.zeros(len(column))
        if self.task == "multilabel":
            return self._label_sets(column, problems), nothing
        if self.task == "classification" and label_kind(column.type) != "float":
            return _one_each(column.cast(pa.string())), nothing
        numbers = np.array(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
        missing = column.is_null().to_numpy(zero_copy_only=False)
        problems.add(np.flatnonzero(~np.isfinite(numbers) & ~missing), "is NaN or infinite", name)
        finite = np.isfinite(numbers)
        numbers[~finite] = 0
        if self.task == "regression":
            if self.counts:
                problems.add(np.flatnonzero(numbers < 0), "is negative, and a Poisson loss takes counts", name)
            return pa.nulls(len(column), _LABELS), numbers
        broken = finite & (numbers != np.round(numbers))
        problems.add(np.flatnonzero(broken), f"is no whole number (for regression use {REGRESSION})", name)
        return _one_each(pa.array([str(int(number)) for number in numbers], pa.string())), nothing

    def _label_sets(self, column: pa.Array, problems: "_Problems") -> pa.ListArray:
        """Return each row's labels as text: each once, and sorted, so that equal sets have equal hashes."""
        name, sets = self.columns.label, list[list[str] | None]()
        for row, labels in enumerate(column.to_pylist()):
            wrong = {"null" for label in labels or () if label is None}
            wrong |= {"no whole number" for label in labels or () if isinstance(label, float) and label % 1 != 0}
            problems.add([row] if wrong else [], f"holds {' and '.join(sorted(wrong))}", name)
            sets.append(None if labels is None or wrong else sorted({label_text(label) for label in labels}))
        return pa.array(sets, _LABELS)

    def _weights(self, batch: pa.RecordBatch, problems: "_Problems") -> NDArray[np.float32]:
        if self.columns.weight is None:
            return np.ones(batch.num_rows, np.float32)
        column = batch.column(self.columns.weight).cast(pa.float32())
        weight = np.array(column.to_numpy(zero_copy_only=False), np.float32)
        wrong = ~np.isfinite(weight) | (weight < 0)
        problems.add(np.flatnonzero(wrong), "is null, negative, NaN or infinite", self.columns.weight)
        weight[wrong] = 0
        return weight

    def _bytes(self, batch: pa.RecordBatch, problems: "_Problems") -> pa.BinaryArray:
        """Return the bytes of the column, without nulls."""
        (name,) = self.columns.features
        column = batch.column(name).cast(pa.binary())
        null = column.is_null().to_numpy(zero_copy_only=False)
        column = pc.fill_null(column, b"") if null.any() else column
        empty = pc.equal(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
        problems.add(np.flatnonzero(null), "is null", name)
        problems.add(np.flatnonzero(empty & ~null), "is empty", name)
        return column

    def _numbers(self, batch: pa.RecordBatch, problems: "_Problems") -> pa.BinaryArray:
        """Return each row's features, those of several columns one after the other, as float32."""
        parts = []
        for name in self.columns.features:
            column = batch.column(name)
            parts.append(numbers_of(column))
            _check_numbers(column, name, *parts[-1], problems)
        lengths, values = join_numbers(parts)
        offsets = np.concatenate([[0], np.cumsum(lengths) * values.itemsize]).astype(np.int32)
        return pa.Array.from_buffers(pa.binary(), batch.num_rows, [None, pa.py_buffer(offsets), pa.py_buffer(values)])

    def _places(
        self,
        features: pa.BinaryArray,
        labels: pa.Array,
        targets: NDArray[np.float64],
        weight: NDArray[np.float32],
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return each row's replica and key, from the hash of its content and the seed."""
        seed, (_, offsets, values) = self.seed.to_bytes(8), features.buffers()
        bounds = np.frombuffer(offsets, np.int32)[features.offset :][: len(features) + 1].tolist()
        content = memoryview(values or b"")
        names = [None] * len(features) if labels.null_count == len(labels) else labels.to_pylist()
        key = np.empty(len(features), np.int64)
        start = bounds[0]
        for row, (end, name) in enumerate(zip(bounds[1:], names, strict=True)):
            digest = blake2b(content[start:end], digest_size=8, key=seed)
            digest.update("\0".join(name or ()).encode() + targets[row].tobytes() + weight[row].tobytes())
            key[row] = int.from_bytes(digest.digest(), signed=True)
            start = end
        return (key.view(np.uint64) % len(self.workers)).astype(np.int32), key


def label_of(output: str, label: str | None = None) -> str:
    """Return how a row's labels tell one of several outputs: that the row has a label of it, or which (one of them)."""
    return output if label is None else f"{output}={label}"


def _packed(targets_NK: NDArray[np.float64]) -> pa.BinaryArray:
    """Return the bytes of each row."""
    rows, width = targets_NK.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width * targets_NK.itemsize)
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(targets_NK)])


def _one_each(labels: pa.StringArray) -> pa.ListArray:
    """Return lists of one label; null where there is none."""
    offsets = pa.array(np.arange(len(labels) + 1, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, labels, type=_LABELS, mask=labels.is_null())


def _check_numbers(
    column: pa.Array, name: str, lengths: NDArray[np.int64], values: NDArray[np.float32], problems: "_Problems"
) -> None:
    """Note the rows in which a column does not hold what features must be."""
    bad = np.flatnonzero(~np.isfinite(values))
    if not pa.types.is_nested(column.type):
        problems.add(bad, "is null, NaN or infinite", name)
        return
    missing = column.is_null().to_numpy(zero_copy_only=False)
    problems.add(np.flatnonzero(missing), "is null", name)
    problems.add(np.flatnonzero(~missing & (lengths == 0)), "is empty", name)
    if len(bad):
        rows = np.unique(np.searchsorted(np.cumsum(lengths), bad, side="right"))
        problems.add(rows, "holds NaN, infinity or null", name)


class _Problems:
    """The first problem of each row of a batch, and what tells the row from others."""

    def __init__(self, batch: pa.RecordBatch, names: Sequence[str]) -> None:
        self._batch, self._names = batch, names
        self._texts: list[str | None] = [None] * batch.num_rows
        self._examples: list[str | None] = [None] * batch.num_rows

    def add(self, rows: Iterable[int], what: str, *named: str) -> None:
        """Note what some columns are, or hold, in some rows."""
        text = f"{', '.join(f'`{name}`' for name in named)} {what}"
        for row in rows:
            if self._texts[row] is None:
                self._texts[row], self._examples[row] = text, self._example(row, named)

    def arrays(self) -> tuple[pa.Array, pa.Array]:
        """Return problems and examples, null for rows that can be trained on."""
        return pa.array(self._texts, pa.string()), pa.array(self._examples, pa.string())

    def _example(self, row: int, named: Sequence[str]) -> str:
        """Return the row's first values that are not null, of the columns at fault before others."""
        values = ((name, self._batch.column(name)[row]) for name in dict.fromkeys((*named, *self._names)))
        there = (f"`{name}` {_shown(value)}" for name, value in values if value.is_valid)
        return ", ".join(islice(there, _COLUMNS_SHOWN))


def _shown(value: pa.Scalar) -> str:
    """Return a value for a message: the beginning of an array, beginning and end of a text, the size of a file."""
    if isinstance(value, pa.ListScalar):
        items = [_shown(item) if item.is_valid else "null" for item in value.values[:_ITEMS_SHOWN]]
        return f"[{', '.join([*items, '…'] if len(value.values) > _ITEMS_SHOWN else items)}]"
    plain = value.as_py()
    if isinstance(plain, bytes):
        return f"{len(plain):,} bytes"
    if isinstance(plain, str) and len(plain) > 2 * _HALF_SHOWN:  # a path is told by its end
        plain = f"{plain[:_HALF_SHOWN]}…{plain[-_HALF_SHOWN:]}"
    return repr(plain) if isinstance(plain, str) else f"{plain:.6g}" if isinstance(plain, float) else str(plain)
