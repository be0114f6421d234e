"""The rows of the replicas that a process hosts: in memory, or mapped from files of a local disk."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparkwright.training.rows.columns import SIDES
from sparkwright.training.rows.encoding import label_of
from sparkwright.training.rows.kept import Kept, Raw
from sparkwright.training.rows.readers import NUMBERS, Reader

__all__ = ["Census", "Rows", "Store", "features_file", "kept_shape", "local_folder"]

_READ_AT_ONCE = 256  # rows


@dataclass(frozen=True)
class Rows:
    """All rows of one replica, in the order of their arrival.

    Attributes:
        x: What the reader keeps of each.
        label: Each row's labels as text: one in a classification, null in a regression; of several outputs as
            `sparkwright.training.rows.encoding.label_of` has them.
        target: Targets of a regression, float64; of several outputs of shape (rows, outputs), NaN where a row lacks
            the output's label.
        weight: Float32.
        key: Hash of each row's content.
        side: Index into `SIDES`.
    """

    x: Kept
    label: pa.Array
    target: NDArray[np.float64]
    weight: NDArray[np.float32]
    key: NDArray[np.int64]
    side: NDArray[np.int8]

    def order(self, sides: Iterable[int]) -> NDArray[np.int64]:
        """Return the indices of the rows of some sides, sorted by key: the same whatever order they came in."""
        wanted = np.flatnonzero(np.isin(self.side, list(sides)))
        return wanted[np.argsort(self.key[wanted], kind="stable")]

    def labelled(self, place: int) -> NDArray[np.bool_]:
        """Return which rows have a label of one of several outputs."""
        target = self.target[:, place] if self.target.ndim > 1 else self.target  # where there are no rows
        there: NDArray[np.bool_] = ~np.isnan(target)
        return there

    def of_output(self, place: int, name: str) -> "Rows":
        """Return the rows that have a label of one of several outputs, as if it was the only one.

        They are without what is kept of them: targets and sums over targets alone are made of them.
        """
        there = np.flatnonzero(self.labelled(place))
        target = self.target.reshape(len(self.target), -1)[there, place] if len(there) else np.empty(0)
        numbers = {own: getattr(self, own)[there] for own in ("weight", "key", "side")}
        label = _without(label_of(name, ""), self.label.take(pa.array(there)))
        return Rows(Kept(np.empty((len(there), 0), np.float32)), label, target, **numbers)


def _without(prefix: str, label: pa.ListArray) -> pa.ListArray:
    """Return those of each row's labels that have a prefix, without it."""
    values = label.flatten()
    mine = pc.starts_with(values, prefix)
    counts = np.bincount(pc.list_parent_indices(label).filter(mine).to_numpy(), minlength=len(label))
    offsets = pa.array(np.concatenate([[0], counts.cumsum()]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pc.utf8_slice_codeunits(values.filter(mine), len(prefix)))


@dataclass
class Census:
    """Counts over rows, as small as JSON: what all workers must know of one another's rows.

    Attributes:
        rows: Side → rows that can be trained on.
        widths: Number of features → rows.
        labels: Side → label → rows.
        problems: What is wrong → rows.
        examples: What is wrong → what is wrong with one of them: the same one whatever their order.
        keys: Side → sum of the rows' keys, whatever their order.
        remarks: What is to be told of rows that can be trained on → rows.
    """

    rows: Counter[str] = field(default_factory=Counter)
    widths: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    keys: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Census") -> None:
        """Add another's counts."""
        self.rows.update(other.rows)
        self.widths.update(other.widths)
        self.problems.update(other.problems)
        self.remarks.update(other.remarks)
        for problem, example in other.examples.items():
            self._keep(problem, example)
        self.keys.update(other.keys)
        for side, counts in other.labels.items():
            self.labels.setdefault(side, Counter()).update(counts)

    def note(self, problem: str, example: str) -> None:
        """Count a row that cannot be trained on."""
        self.problems[problem] += 1
        self._keep(problem, example)

    def _keep(self, problem: str, example: str) -> None:
        self.examples[problem] = min(self.examples.get(problem, example), example)

    def listed(self) -> str:
        """Return what is wrong with how many rows, the most frequent first."""

        def told(problem: str, count: int) -> str:
            example = self.examples.get(problem, "").rstrip(".")
            return f"{count:,} where {problem}" + (f", for example {example}" if example else "")

        return "; ".join(told(*entry) for entry in self.problems.most_common(10))

    def of_output(self, name: str) -> "Census":
        """Return the counts over the rows with a label of one of several outputs."""
        own = label_of(name, "")
        labels = {
            side: Counter({label.removeprefix(own): n for label, n in counts.items() if label.startswith(own)})
            for side, counts in self.labels.items()
        }
        rows = Counter({side: counts[label_of(name)] for side, counts in self.labels.items()})
        return replace(self, rows=rows, labels=labels)

    def to_json(self) -> str:
        """Return the counts as JSON."""
        return json.dumps(vars(self))

    @staticmethod
    def from_json(text: str) -> "Census":
        """Rebuild from `to_json`."""
        data = json.loads(text)
        labels = {side: Counter(counts) for side, counts in data["labels"].items()}
        plain = {name: Counter(data[name]) for name in ("rows", "widths", "problems", "keys", "remarks")}
        return Census(labels=labels, examples=data["examples"], **plain)


class Store:
    """Takes encoded rows as they come and gives each hosted replica its own.

    Beyond `limit_bytes` what is kept of rows goes to files in `folder`. They have no name and vanish with this process,
    unless they are to be kept for others (see `row_files`).

    Args:
        hosted: The replicas of this process.
        limit_bytes: Of rows kept in memory, at most; those of one batch more while it is handled.
        folder: Where files may lie: a local disk.
        reader: What reads the rows.
        named: Whether files keep a name, that of `features_file`.
    """

    def __init__(
        self, hosted: range, limit_bytes: int, folder: Path, reader: Reader | None = None, *, named: bool = False
    ) -> None:
        self.census = Census()
        self._reader = reader or NUMBERS
        self._limit_bytes = limit_bytes
        self._in_memory = 0
        self._folder = folder
        self._parts = {
            replica: _Parts(self._reader, features_file(folder, replica) if named else None) for replica in hosted
        }

    def add(self, batch: pa.RecordBatch) -> None:
        """Take a batch of the schema `ENCODED`, with rows of hosted replicas only."""
        # What is read of a row may be many times its payload: no more at once than memory has room for.
        most = batch.num_rows if self._reader.payload == "numbers" else _READ_AT_ONCE
        for start in range(0, batch.num_rows, most or 1):
            self._add(batch.slice(start, most))

    def _add(self, batch: pa.RecordBatch) -> None:
        good = batch.filter(batch["problem"].is_null())
        bad = batch.filter(batch["problem"].is_valid())
        for problem, example in zip(bad["problem"].to_pylist(), bad["example"].to_pylist(), strict=True):
            self.census.note(problem, example)
        if not good.num_rows:
            return
        x: Raw
        if self._reader.payload == "numbers" and self._reader.item_shape is None:
            numbers = self._numbers(good["features"])
            if numbers is None:
                return
            x = numbers
        else:
            rows, problems, remarks = self._reader.read_all(good["features"])
            self.census.remarks.update(remarks)
            for problem, example in problems:
                self.census.note(problem, example)
            if problems:
                good = good.filter(pa.array([row is not None for row in rows]))
            x = [row for row in rows if row is not None]
        rest, replica = good.drop_columns(["features", "problem", "example"]), good["replica"].to_numpy()
        for number in np.unique(replica).tolist():
            mine = np.flatnonzero(replica == number)
            own = x[mine] if isinstance(x, np.ndarray) else [x[row] for row in mine.tolist()]
            self._parts[number].add(own, rest.take(pa.array(mine)))
        self._in_memory += x.nbytes if isinstance(x, np.ndarray) else sum(row.nbytes for row in x)
        self._count(good)
        if self._in_memory > self._limit_bytes:
            for parts in self._parts.values():
                parts.spill(self._folder)
            self._in_memory = 0

    def _numbers(self, features: pa.BinaryArray) -> NDArray[np.float32] | None:
        """Return rows of numbers, of shape (rows, width); None as soon as they have several widths."""
        offsets = np.frombuffer(features.buffers()[1], np.int32)[features.offset :][: len(features) + 1]
        widths = np.diff(offsets) // np.dtype(np.float32).itemsize
        self.census.widths.update({str(width): int(n) for width, n in zip(*np.unique(widths, return_counts=True))})  # noqa: B905
        if len(self.census.widths) > 1:  # the training will be refused; the counts are what is still wanted
            return None
        return np.frombuffer(features.buffers()[2], np.float32, widths.sum(), offsets[0]).reshape(len(features), -1)

    def finish(self, width: int) -> dict[int, Rows]:
        """Return the rows of each hosted replica; empties the store.

        Args:
            width: Of rows of numbers, also where there are none.
        """
        limit_bytes = self._limit_bytes // len(self._parts)
        return {replica: parts.finish(width, limit_bytes) for replica, parts in self._parts.items()}

    def _count(self, good: pa.RecordBatch) -> None:
        side, key = good["side"].to_numpy(), good["key"].to_numpy().view(np.uint64)
        for number in np.unique(side).tolist():
            name, mine = SIDES[number], pa.array(side == number)
            self.census.keys[name] = (self.census.keys[name] + int(key[side == number].sum())) % 2**64
            self.census.rows[name] += int(np.count_nonzero(side == number))
            counts = good["label"].filter(mine).flatten().value_counts()
            counter = self.census.labels.setdefault(name, Counter())
            counter.update({entry["values"].as_py(): entry["counts"].as_py() for entry in counts})


class _Parts:
    """What has come for one replica."""

    def __init__(self, reader: Reader, path: Path | None) -> None:
        self._reader = reader
        self._path = path
        self._x: list[NDArray[Any]] = []
        self._lengths: list[int] = []
        self._rest: list[pa.RecordBatch] = []
        self._file: IO[bytes] | None = None

    def add(self, x: Raw, rest: pa.RecordBatch) -> None:
        if self._reader.item_shape is not None:
            self._lengths += [len(row) for row in x]
        self._x += [x] if isinstance(x, np.ndarray) else x
        self._rest.append(rest)

    def spill(self, folder: Path) -> None:
        if self._file is None:
            self._file = self._path.open("w+b") if self._path else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        for x in self._x:
            self._file.write(x.tobytes())
        self._x.clear()

    def finish(self, width: int, limit_bytes: int) -> Rows:
        x = self._kept(kept_shape(self._reader, width), limit_bytes)
        self._x.clear()
        if not self._rest:
            label, none = pa.array([], pa.list_(pa.string())), np.empty(0, np.float32)
            return Rows(x, label, none.astype(float), none, none.astype(int), none.astype("i1"))
        rest = pa.Table.from_batches(self._rest).combine_chunks()
        numbers = {name: rest[name].to_numpy().copy() for name in ("target", "weight", "key", "side")}
        if not rest["targets"].null_count:  # several outputs
            numbers["target"] = np.frombuffer(b"".join(rest["targets"].to_pylist())).reshape(rest.num_rows, -1).copy()
        return Rows(x=x, label=rest["label"].combine_chunks(), **numbers)

    def _kept(self, shape: tuple[int, ...], limit_bytes: int) -> Kept:
        dtype = self._reader.dtype
        lengths = None if self._reader.item_shape is None else np.array(self._lengths, np.int64)
        if self._file is not None and self._file.tell() + sum(x.nbytes for x in self._x):
            self.spill(Path())
            self._file.flush()
            kept = Kept.of_file(self._file, dtype, shape, lengths, limit_bytes)
            self._file.close()  # what maps it stays
            return kept
        # Of a reader's own memory as few copies as can be: photos come one by one, numbers in blocks.
        parts = [x.reshape(-1, *shape) for x in self._x]
        return Kept(np.concatenate(parts) if parts else np.empty((0, *shape), dtype), lengths)


def kept_shape(reader: Reader, width: int) -> tuple[int, ...]:
    """Return the shape of a kept row, or of a ragged row's item; `width` is that of rows of numbers."""
    if reader.item_shape is not None:
        return reader.item_shape
    return (width,) if reader.row_shape is None else reader.row_shape


def features_file(folder: Path, replica: int) -> Path:
    """Return where what is kept of a replica's rows lies, if the file has a name."""
    return folder / f"features-{replica}.bin"


def local_folder() -> Path:
    """Return the folder for files of this process that Spark clears when the application ends. Runs on executors."""
    named = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    return Path(named) if named and Path(named).is_dir() else Path(tempfile.gettempdir())
