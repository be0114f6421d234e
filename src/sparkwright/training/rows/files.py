"""Rows of replicas in files on an executor's local disk, so that the next task on it need not read them again.

::

    rows-<key>-<worker>/            in Spark's local folder, which Spark clears when the application ends
      features-0.bin …              what the reader keeps of them, in the order of arrival, to be mapped
      rest-0.arrow …                all else of the rows: label, target, weight, key, side; lengths of ragged rows
      whole.json                    the number of features; the folder gets its name when all is written
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkwright.training.rows.kept import Kept
from sparkwright.training.rows.readers import NUMBERS, Reader
from sparkwright.training.rows.store import Rows, Store, features_file, kept_shape, local_folder

__all__ = ["RowFiles"]

_SUMMARY = "whole.json"


class RowFiles:
    """The files of one worker's replicas.

    Args:
        key: Of the rows: whoever asks for the same key gets the same rows.
        worker: Whose they are.
        root: Folder of a local disk; by default Spark's.
        reader: What reads the rows.
    """

    def __init__(self, key: str, worker: int, root: Path | None = None, reader: Reader | None = None) -> None:
        self._reader = reader or NUMBERS
        self.folder = (root or local_folder()) / f"rows-{key}-{worker}"

    def keep(self, batches: Iterable[pa.RecordBatch], hosted: range) -> Store:
        """Write encoded rows into files; return the store that they went through, for its counts."""
        attempt = self.folder.with_name(f"{self.folder.name}.{uuid.uuid4().hex}")
        attempt.mkdir()
        try:
            store = Store(hosted, 0, attempt, self._reader, named=True)
            for batch in batches:
                store.add(batch)
            width = int(next(iter(store.census.widths), 0))
            for replica, rows in store.finish(width).items() if len(store.census.widths) < 2 else ():
                _write_rest(attempt / f"rest-{replica}.arrow", rows)
            (attempt / _SUMMARY).write_text(json.dumps({"width": width}))
            with contextlib.suppress(OSError):  # another attempt was first, with the same rows
                os.rename(attempt, self.folder)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
        return store

    def load(self, hosted: range, width: int, limit_bytes: int) -> dict[int, Rows] | None:
        """Return the rows of each replica, or None if they are not here.

        Args:
            hosted: The worker's replicas.
            width: Of rows of numbers.
            limit_bytes: Of what is kept no more stays in memory, about.
        """
        if not (self.folder / _SUMMARY).exists():
            return None
        return {replica: self._rows(replica, width, limit_bytes // len(hosted)) for replica in hosted}

    def remove(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _rows(self, replica: int, width: int, limit_bytes: int) -> Rows:
        with pa.memory_map(str(self.folder / f"rest-{replica}.arrow")) as file:
            rest = pa.ipc.open_file(file).read_all()
        numbers = {name: _numbers(rest[name]) for name in _NUMBERS}
        label, lengths, shape = rest["label"].combine_chunks(), None, kept_shape(self._reader, width)
        if self._reader.item_shape is not None:
            lengths = rest["length"].to_numpy().copy()
        path = features_file(self.folder, replica)
        if not len(label) or not path.stat().st_size:
            none = Kept(np.empty((0, *shape), self._reader.dtype), lengths)
            return Rows(x=none, label=label, **numbers)
        with path.open("r+b") as file:
            x = Kept.of_file(file, self._reader.dtype, shape, lengths, limit_bytes)
        return Rows(x=x, label=label, **numbers)


_NUMBERS = ("target", "weight", "key", "side")


def _column(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy().copy()  # type: ignore[no-any-return]
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1).copy()  # type: ignore[no-any-return]


def _write_rest(path: Path, rows: Rows) -> None:
    table = pa.table({"label": rows.label, **{name: _column(getattr(rows, name)) for name in _NUMBERS}})
    if rows.x.lengths is not None:
        table = table.append_column("length", pa.array(rows.x.lengths))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
