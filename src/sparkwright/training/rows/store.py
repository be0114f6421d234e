"""The rows of the replicas that a process hosts: in memory, or mapped from files of a local disk."""

import json
import mmap
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkwright.training.rows.columns import SIDES

__all__ = ["Census", "FeatureFile", "Rows", "Store", "features_file", "local_folder"]


@dataclass(frozen=True)
class Rows:
    """All rows of one replica, in the order of their arrival.

    Attributes:
        x_NF: Features, float32.
        label: Labels as text; nulls in a regression.
        target: Targets of a regression, float64.
        weight: Float32.
        key: Hash of each row's content.
        side: Index into `SIDES`.
        file: The file that `x_NF` lies in; None in memory.
    """

    x_NF: NDArray[np.float32]
    label: pa.Array
    target: NDArray[np.float64]
    weight: NDArray[np.float32]
    key: NDArray[np.int64]
    side: NDArray[np.int8]
    file: "FeatureFile | None" = None

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the features of some rows: a copy."""
        return self.x_NF[index] if self.file is None else self.file.take(index)

    def order(self, sides: Iterable[int]) -> NDArray[np.int64]:
        """Return the indices of the rows of some sides, sorted by key: the same whatever order they came in."""
        wanted = np.flatnonzero(np.isin(self.side, list(sides)))
        return wanted[np.argsort(self.key[wanted], kind="stable")]


class FeatureFile:
    """Features in a file: mapped into memory if they are within a limit, else read row by row when they are wanted.

    Reading through a map would leave pages in the process's memory, since Linux 6.18 up to 2 MiB for each row.

    Args:
        file: Float32; may be closed afterwards.
        width: Features of a row.
        limit_bytes: What may be in memory.
    """

    def __init__(self, file: IO[bytes], width: int, limit_bytes: int) -> None:
        pages = mmap.mmap(file.fileno(), 0)
        self.x_NF: NDArray[np.float32] = np.frombuffer(pages, np.float32).reshape(-1, width)
        self._descriptor: int | None = None
        if len(pages) > limit_bytes:
            self._descriptor = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._descriptor)

    def take(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows: a copy."""
        if self._descriptor is None:
            return self.x_NF[index]
        taken = np.empty((len(index), self.x_NF.shape[1]), np.float32)
        size = taken[:1].nbytes
        for row, number in zip(taken, index.tolist(), strict=True):
            if os.preadv(self._descriptor, [row.data], number * size) != size:
                raise OSError(f"Row {number} of a file of features cannot be read: the file is too short.")
        return taken


@dataclass
class Census:
    """Counts over rows, as small as JSON: what all workers must know of one another's rows.

    Attributes:
        rows: Side → rows that can be trained on.
        widths: Number of features → rows.
        labels: Side → label → rows.
        problems: What is wrong → rows.
        keys: Side → sum of the rows' keys, whatever their order.
    """

    rows: Counter[str] = field(default_factory=Counter)
    widths: Counter[str] = field(default_factory=Counter)
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    problems: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Census") -> None:
        """Add another's counts."""
        self.rows.update(other.rows)
        self.widths.update(other.widths)
        self.problems.update(other.problems)
        self.keys.update(other.keys)
        for side, counts in other.labels.items():
            self.labels.setdefault(side, Counter()).update(counts)

    def to_json(self) -> str:
        """Return the counts as JSON."""
        return json.dumps(vars(self))

    @staticmethod
    def from_json(text: str) -> "Census":
        """Rebuild from `to_json`."""
        data = json.loads(text)
        labels = {side: Counter(counts) for side, counts in data["labels"].items()}
        plain = {name: Counter(data[name]) for name in ("rows", "widths", "problems", "keys")}
        return Census(labels=labels, **plain)


class Store:
    """Takes encoded rows as they come and gives each hosted replica its own.

    Beyond `limit_bytes` features go to files in `folder`. They have no name and vanish with this process, unless they
    are to be kept for others (see `row_files`).

    Args:
        hosted: The replicas of this process.
        limit_bytes: Features kept in memory, at most; those of one batch more while it is handled.
        folder: Where files may lie: a local disk.
        named: Whether files keep a name, that of `features_file`.
    """

    def __init__(self, hosted: range, limit_bytes: int, folder: Path, *, named: bool = False) -> None:
        self.census = Census()
        self._limit_bytes = limit_bytes
        self._in_memory = 0
        self._folder = folder
        self._parts = {replica: _Parts(features_file(folder, replica) if named else None) for replica in hosted}

    def add(self, batch: pa.RecordBatch) -> None:
        """Take a batch of the schema `ENCODED`, with rows of hosted replicas only."""
        good = batch.filter(batch["problem"].is_null())
        self.census.problems.update(text for text in batch["problem"].drop_null().to_pylist())
        if not good.num_rows:
            return
        features = good["features"]
        offsets = np.frombuffer(features.buffers()[1], np.int32)[features.offset :][: good.num_rows + 1]
        widths = np.diff(offsets) // np.dtype(np.float32).itemsize
        self.census.widths.update({str(width): int(n) for width, n in zip(*np.unique(widths, return_counts=True))})  # noqa: B905
        if len(self.census.widths) > 1:  # the training will be refused; the counts are what is still wanted
            return
        x = np.frombuffer(features.buffers()[2], np.float32, widths.sum(), offsets[0]).reshape(good.num_rows, -1)
        replica = good["replica"].to_numpy()
        for number in np.unique(replica).tolist():
            mine = np.flatnonzero(replica == number)
            self._parts[number].add(x[mine], good.take(pa.array(mine)).drop_columns(["features"]))
        self._in_memory += x.nbytes
        self._count(good)
        if self._in_memory > self._limit_bytes:
            for parts in self._parts.values():
                parts.spill(self._folder)
            self._in_memory = 0

    def finish(self, width: int) -> dict[int, Rows]:
        """Return the rows of each hosted replica, of `width` features also where there are none; empties the store."""
        limit_bytes = self._limit_bytes // len(self._parts)
        return {replica: parts.finish(width, limit_bytes) for replica, parts in self._parts.items()}

    def _count(self, good: pa.RecordBatch) -> None:
        side, key = good["side"].to_numpy(), good["key"].to_numpy().view(np.uint64)
        for number in np.unique(side).tolist():
            name, mine = SIDES[number], pa.array(side == number)
            self.census.keys[name] = (self.census.keys[name] + int(key[side == number].sum())) % 2**64
            self.census.rows[name] += int(np.count_nonzero(side == number))
            counts = good["label"].filter(mine).drop_null().value_counts()
            counter = self.census.labels.setdefault(name, Counter())
            counter.update({entry["values"].as_py(): entry["counts"].as_py() for entry in counts})


class _Parts:
    """What has come for one replica."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._x: list[NDArray[np.float32]] = []
        self._rest: list[pa.RecordBatch] = []
        self._file: IO[bytes] | None = None

    def add(self, x_NF: NDArray[np.float32], rest: pa.RecordBatch) -> None:
        self._x.append(x_NF)
        self._rest.append(rest)

    def spill(self, folder: Path) -> None:
        if self._file is None:
            self._file = self._path.open("w+b") if self._path else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        for x_NF in self._x:
            self._file.write(x_NF.tobytes())
        self._x.clear()

    def finish(self, width: int, limit_bytes: int) -> Rows:
        file = None
        if self._file is not None and self._file.tell() + len(self._x):
            self.spill(Path())
            self._file.flush()
            file = FeatureFile(self._file, width, limit_bytes)
            self._file.close()  # what maps it stays
            x_NF = file.x_NF
        else:
            x_NF = np.concatenate(self._x) if self._x else np.empty((0, width), np.float32)
        self._x.clear()
        if not self._rest:
            none = np.empty(0, np.float32)
            return Rows(x_NF, pa.array([], pa.string()), none.astype(float), none, none.astype(int), none.astype("i1"))
        rest = pa.Table.from_batches(self._rest).combine_chunks()
        numbers = {name: rest[name].to_numpy().copy() for name in ("target", "weight", "key", "side")}
        return Rows(x_NF=x_NF, label=rest["label"].combine_chunks(), file=file, **numbers)


def features_file(folder: Path, replica: int) -> Path:
    """Return where the features of a replica lie, if their file has a name."""
    return folder / f"features-{replica}.f32"


def local_folder() -> Path:
    """Return the folder for files of this process that Spark clears when the application ends. Runs on executors."""
    named = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    return Path(named) if named and Path(named).is_dir() else Path(tempfile.gettempdir())
