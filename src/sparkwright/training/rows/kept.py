"""What a worker keeps of a replica's rows: one array, in memory or in a file of a local disk."""

import mmap
import os
import weakref
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kept", "Raw"]

Raw = NDArray[Any] | list[NDArray[Any]]
"""Some rows: an array of shape (rows, *row), or, if they are ragged, an array for each."""


class Kept:
    """Rows of one type: all of one shape, or ragged along their first axis.

    Args:
        values: Of shape (rows, *row); of ragged rows one behind the other: (sum of lengths, *item).
        lengths: Of ragged rows, int64; None where all have one shape.
        descriptor: Of the file that `values` maps, from which rows are read when they are wanted; None reads them
            through `values`.
    """

    def __init__(
        self, values: NDArray[Any], lengths: NDArray[np.int64] | None = None, descriptor: int | None = None
    ) -> None:
        self.values = values
        self.lengths = lengths
        self._starts = None if lengths is None else np.cumsum(lengths) - lengths
        self._descriptor = descriptor
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)

    @classmethod
    def of_file(
        cls,
        file: IO[bytes],
        dtype: np.dtype[Any],
        shape: Sequence[int],
        lengths: NDArray[np.int64] | None,
        limit_bytes: int,
    ) -> "Kept":
        """Return the rows in a file: mapped into memory within a limit, else read row by row when they are wanted.

        Reading through a map would leave pages in the process's memory, since Linux 6.18 up to 2 MiB for each row.

        Args:
            file: Not empty; may be closed afterwards.
            dtype: Of the values.
            shape: Of a row; of a ragged row's item.
            lengths: As of the class.
            limit_bytes: What may be in memory.
        """
        pages = mmap.mmap(file.fileno(), 0)
        values = np.frombuffer(pages, dtype).reshape(-1, *shape)
        return cls(values, lengths, os.dup(file.fileno()) if len(pages) > limit_bytes else None)

    def __len__(self) -> int:
        return len(self.values if self.lengths is None else self.lengths)

    @property
    def in_memory(self) -> bool:
        """Whether rows are read through `values`."""
        return self._descriptor is None

    def take(self, index: NDArray[np.int64]) -> Raw:
        """Return some rows: copies."""
        if self.lengths is not None and self._starts is not None:
            places = zip(self._starts[index].tolist(), self.lengths[index].tolist(), strict=True)
            return [self._part(start, length) for start, length in places]
        if self._descriptor is None:
            taken: NDArray[Any] = self.values[index]
            return taken
        taken = np.empty((len(index), *self.values.shape[1:]), self.values.dtype)
        for row, number in zip(taken, index.tolist(), strict=True):
            self._read_into(row, number)
        return taken

    def _part(self, start: int, length: int) -> NDArray[Any]:
        """Return items from `start` on: a copy."""
        if self._descriptor is None:
            return self.values[start : start + length].copy()
        taken = np.empty((length, *self.values.shape[1:]), self.values.dtype)
        self._read_into(taken, start)
        return taken

    def _read_into(self, room: NDArray[Any], start: int) -> None:
        """Fill `room` from the file; `start` counts in elements along the first axis of `values`."""
        if self._descriptor is None or not room.nbytes:
            return
        at = start * self.values.strides[0]
        if os.preadv(self._descriptor, [room.reshape(-1).view(np.uint8).data], at) != room.nbytes:
            raise OSError(f"Row {start} of a file of rows cannot be read: the file is too short.")
