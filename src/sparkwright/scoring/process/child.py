"""A scoring process: runs the engine for its supervisor, which outlives what a photo does to it.

Started by `sparkwright.scoring.process.supervisor` as a fresh Python. It keeps networks and threads' libraries from
task to task and ends with its supervisor.
"""

import faulthandler
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator

import pyarrow as pa

from sparkwright.errors import WorkerError
from sparkwright.events import Sender
from sparkwright.scoring.forward import runtime
from sparkwright.scoring.process import wire
from sparkwright.scoring.process.arrow import run
from sparkwright.scoring.process.marks import Marks

__all__ = ["main"]

_Inbox = queue.SimpleQueue[tuple[bytes, memoryview]]


def main(channel: int, page: int, supervisor: int) -> None:
    """Score tasks until the supervisor closes its end of the channel.

    Args:
        channel: File descriptor of the socket to the supervisor.
        page: File descriptor of the page of marks.
        supervisor: Its process id, if this process may be told by the kernel that it died; else 0.
    """
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the supervisor decides
    if supervisor:
        _end_with(supervisor)
    sock = socket.socket(fileno=channel)
    inbox: _Inbox = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sock, inbox), name="sparkwright-inbox", daemon=True).start()
    while True:
        kind, payload = inbox.get()
        assert kind == wire.TASK
        try:
            for answer in _score(pickle.loads(payload), inbox, page):
                wire.send(sock, wire.ROWS, wire.to_bytes(answer))
        except BaseException as error:
            wire.send(sock, wire.ERROR, _pack(error))
            os._exit(1)  # without waiting for threads, and without telling it twice
        wire.send(sock, wire.DONE)


def _score(task: wire.Task, inbox: _Inbox, page: int) -> Iterator[pa.RecordBatch]:
    plan = task.plan
    # Photos: each of the engine's threads runs the network on its own micro-batch.
    threads = plan.threads if plan.preprocessing is None else 1
    network = runtime.load(task.network, plan.sha256, threads, plan.device)
    with Sender(plan.channel) as sender:
        yield from run(
            _rows(inbox),
            plan,
            network,
            task.name,
            sender.emit,
            folder=task.network.parent,
            tally=task.tally,
            marks=Marks(page),
        )


def _rows(inbox: _Inbox) -> Iterator[pa.RecordBatch | None]:
    while True:
        kind, payload = inbox.get()
        if kind == wire.END:
            return
        yield None if kind == wire.FLUSH else wire.from_bytes(payload)


def _listen(sock: socket.socket, inbox: _Inbox) -> None:
    """Take messages as they come, so that the supervisor, who sends no more than it may, never waits."""
    try:
        while True:
            inbox.put(wire.receive(sock))
    except (EOFError, OSError):
        os._exit(0)  # the supervisor has gone, or needs this process no more


def _pack(error: BaseException) -> bytes:
    """Return an exception with its traceback, as bytes."""
    text = "".join(traceback.format_exception(error))
    try:
        data = pickle.dumps((error, text))
        pickle.loads(data)  # not every exception survives it
    except Exception:
        data = pickle.dumps((WorkerError(f"{type(error).__name__}: {error}"), text))
    return data


def _end_with(supervisor: int) -> None:
    """Have the kernel end this process when the supervisor dies, even in the midst of a decoder's endless loop."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != supervisor:
            os._exit(0)
