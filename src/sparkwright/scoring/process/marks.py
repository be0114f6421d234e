"""What the threads of a scoring process work on, kept where it outlives the process.

Its supervisor reads it after a crash, or when a row does not end. A page of memory that both processes map: each
thread has a place in it, and writes there before it reads a row and before it runs the network. That takes a few
microseconds a row, and no message.
"""

import mmap
import os
import struct
import tempfile
import threading
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparkwright.scoring.process.engine import Block, Forward

__all__ = ["IDLE", "NETWORK", "READING", "Mark", "MarkedBlock", "Marks", "make_page", "read_marks"]

IDLE, READING, NETWORK = range(1, 4)

_PLACE = struct.Struct("<QQQQ")  # changes, doing, part, row
_PLACES = 512
_SIZE = _PLACES * _PLACE.size


@dataclass(frozen=True)
class Mark:
    """What a thread does, or did last.

    Attributes:
        thread: Its place.
        changes: How often it has written: as long as the mark stays equal, the thread is at one and the same thing.
        doing: `READING` a row, running the `NETWORK`, or `IDLE`.
        part: Number of the part that holds the row which it read last.
        row: In that part.
    """

    thread: int
    changes: int
    doing: int
    part: int
    row: int


def make_page() -> int:
    """Return the file descriptor of a page that a scoring process inherits; no file system has a name for it."""
    if hasattr(os, "memfd_create"):
        page = os.memfd_create("sparkwright-marks")
    else:
        with tempfile.TemporaryFile() as file:
            page = os.dup(file.fileno())
    os.ftruncate(page, _SIZE)
    return page


def clear_marks(page: int) -> None:
    """Forget all marks: before a task begins."""
    os.pwrite(page, bytes(_SIZE), 0)


def read_marks(page: int) -> list[Mark]:
    """Return the marks of all threads that have begun something since the page was cleared."""
    places = enumerate(_PLACE.iter_unpack(os.pread(page, _SIZE, 0)))
    return [Mark(thread, *place) for thread, place in places if place[0]]


class Marks:
    """The page as the scoring process's threads write it, in one task; several at once.

    Args:
        page: From `make_page`.
    """

    def __init__(self, page: int) -> None:
        self._page = mmap.mmap(page, _SIZE)
        self._places: dict[int, list[int]] = {}  # thread → its place, changes, part, row
        self._lock = threading.Lock()

    def write(self, doing: int, part: int | None = None, row: int = 0) -> None:
        """Mark what this thread does from now on; `part` and `row` stay as they are if they are not given."""
        thread = threading.get_ident()
        if thread not in self._places:
            with self._lock:
                self._places[thread] = [len(self._places) % _PLACES, 0, 0, 0]
        place = self._places[thread]
        place[1] += 1
        if part is not None:
            place[2:] = part, row
        _PLACE.pack_into(self._page, place[0] * _PLACE.size, place[1], doing, *place[2:])

    def watch(self, network: Forward) -> Forward:
        """Return `network`, which marks while it runs."""

        def forward(x: NDArray[np.float32]) -> NDArray[np.float32]:
            self.write(NETWORK)
            try:
                return network(x)
            finally:
                self.write(IDLE)

        return forward


class Photos(Block, Protocol):
    """A block whose rows are read in two steps."""

    def photo(self, row: int) -> Any:
        """Return a row's photo."""

    def decode(self, row: int, photo: Any, out: NDArray[np.float32]) -> None:
        """Write the network's input for a photo into `out`."""


@dataclass(frozen=True)
class MarkedBlock:
    """A block that marks which of its rows is read."""

    block: Photos
    part: int
    marks: Marks

    def __len__(self) -> int:
        return len(self.block)

    def read(self, row: int, out: NDArray[np.float32]) -> None:
        photo = self.block.photo(row)  # waits for a server, say, which has time limits of its own
        self.marks.write(READING, self.part, row)
        try:
            self.block.decode(row, photo, out)
        finally:
            self.marks.write(IDLE)
