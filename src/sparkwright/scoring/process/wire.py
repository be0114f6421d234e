"""Messages between a scoring process and its supervisor, over a socket that they share."""

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from sparkwright.scoring.process.arrow import ScoringPlan, Tally

__all__ = ["DONE", "END", "ERROR", "FLUSH", "ROWS", "TASK", "Task", "from_bytes", "receive", "send", "to_bytes"]

TASK, ROWS, FLUSH, END = b"T", b"R", b"F", b"E"
"""To the scoring process: a task begins; rows; answer what you have; these were all."""

DONE, ERROR = b"D", b"X"
"""From it, beside ``ROWS`` (answers): the task is done; it failed."""

_HEAD = struct.Struct("<cQ")


@dataclass(frozen=True)
class Task:
    """What a scoring process is told of a task, or of the rest of one whose process died.

    Attributes:
        plan: What to do; rows come and go without columns that are only kept.
        network: The ONNX file, on this machine.
        name: Of the Spark task.
        tally: Of rows that were answered before.
    """

    plan: ScoringPlan
    network: Path
    name: str
    tally: Tally = field(default_factory=Tally)


def send(sock: socket.socket, kind: bytes, payload: object = b"", waiting: Callable[[], None] | None = None) -> None:
    """Send a message.

    Args:
        sock: With a timeout, if there is `waiting`.
        kind: One of this module's kinds.
        payload: Bytes, or something like them.
        waiting: Called whenever the other side has taken nothing for the socket's timeout; may raise.

    Raises:
        OSError: the other side has gone.
    """
    body = memoryview(payload)  # type: ignore[arg-type]  # no type says "has a buffer" before Python 3.12
    for data in (memoryview(_HEAD.pack(kind, body.nbytes)), body):
        while data.nbytes:
            try:
                data = data[sock.send(data) :]
            except TimeoutError:
                if waiting is not None:
                    waiting()


def receive(sock: socket.socket, waiting: Callable[[], None] | None = None) -> tuple[bytes, memoryview]:
    """Wait for a message; return its kind and payload.

    Raises:
        EOFError: the other side has gone.
        OSError: the same.
    """
    kind, size = _HEAD.unpack(_receive(sock, _HEAD.size, waiting))
    return kind, _receive(sock, size, waiting)


def _receive(sock: socket.socket, size: int, waiting: Callable[[], None] | None) -> memoryview:
    whole = memoryview(bytearray(size))
    left = whole
    while left.nbytes:
        try:
            got = sock.recv_into(left)
        except TimeoutError:
            if waiting is not None:
                waiting()
            continue
        if not got:
            raise EOFError
        left = left[got:]
    return whole


def to_bytes(batch: pa.RecordBatch) -> pa.Buffer:
    """Return rows as bytes; of a slice, no more than the slice."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def from_bytes(data: memoryview) -> pa.RecordBatch:
    """Return the rows that `to_bytes` wrote, without copying them."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_next_batch()
