"""A scoring process as its supervisor holds it: started, spoken to, watched, and kept for the next task."""

import atexit
import contextlib
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from typing import IO, NoReturn

import pyarrow as pa

from sparkwright.errors import WorkerError
from sparkwright.scoring.process import wire
from sparkwright.scoring.process.engine import RowError
from sparkwright.scoring.process.marks import NETWORK, READING, Mark, clear_marks, make_page, read_marks

__all__ = ["Died", "Scorer", "give_back", "take"]

# Not a fork: this process may have threads. The import path is this one's, with the library as Spark shipped it.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from sparkwright.scoring.process.child import main; main(*map(int, sys.argv[2:]))"
)
_LOOK_S = 1.0  # between two looks at a process that says nothing
_WORDS = 4000  # characters
_MOST_IDLE = 2

# What people and systems send, seldom what a photo causes; SIGKILL is both, where memory runs out.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


class Died(Exception):  # noqa: N818  an event that is dealt with, not an error that anybody sees
    """A scoring process has died, or was killed because it did not go on.

    Attributes:
        how: As part of a sentence.
        kind: Of the error of a row that did it.
        marks: What its threads did last.
        status: What it returned, if it ended by itself; None if a signal did it.
        words: The end of what it wrote on its standard streams.
        outside: Whether somebody else may have killed it, by its signal.
    """

    def __init__(self, how: str, kind: str, marks: list[Mark], status: int | None, words: str) -> None:
        super().__init__(how)
        self.how, self.kind, self.marks, self.status, self.words = how, kind, marks, status, words
        self.outside = False

    def row_error(self) -> RowError:
        """Return the error of a row that did it twice, the second time alone."""
        return RowError(self.kind, f"The scoring process {self.how} while it worked on this row and nothing else.")


class Scorer:
    """A scoring process; it starts in the background."""

    def __init__(self) -> None:
        self.path = tuple(map(str, sys.path))
        self.idle = True
        self._page = make_page()
        self._socket, theirs = socket.socketpair()
        # The kernel tells of the death of the thread that started a process, not of the process that did.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        numbers = map(str, (theirs.fileno(), self._page, parent))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(self.path), *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(), self._page),
            )
        self._words: deque[str] = deque(maxlen=50)
        assert self._process.stdout is not None
        self._ear = threading.Thread(target=self._hear, args=(self._process.stdout,), daemon=True)
        self._ear.start()
        self._timeouts_s: dict[int, float] = {}  # of what a thread may be doing
        self._seen: dict[int, tuple[Mark, float]] = {}

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def begin(self, task: wire.Task) -> None:
        """Tell of a task.

        Raises:
            Died: as all methods that speak to the process.
        """
        self.idle = False
        clear_marks(self._page)
        self._seen.clear()
        self._timeouts_s = {READING: task.plan.row_timeout_s, NETWORK: task.plan.forward_timeout_s}
        self._socket.settimeout(min(_LOOK_S, *(seconds / 4 for seconds in self._timeouts_s.values())))
        self._send(wire.TASK, pickle.dumps(task))

    def send(self, rows: pa.RecordBatch) -> None:
        """Give it rows."""
        self._send(wire.ROWS, wire.to_bytes(rows))

    def flush(self) -> None:
        """Ask for the answers to all rows that it has."""
        self._send(wire.FLUSH)

    def end(self) -> None:
        """Tell that these were all rows."""
        self._send(wire.END)

    def receive(self) -> pa.RecordBatch:
        """Wait for the answer to the oldest rows that have none.

        Raises:
            SparkwrightError: the engine failed; the task is over, and the process too.
        """
        return wire.from_bytes(self._receive(wire.ROWS))

    def done(self) -> None:
        """Wait until the task is done."""
        self._receive(wire.DONE)
        self.idle = True

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        self._ear.join()
        self._socket.close()
        with contextlib.suppress(OSError):
            os.close(self._page)
        self._page = -1

    def _send(self, kind: bytes, payload: object = b"") -> None:
        try:
            wire.send(self._socket, kind, payload, self._look)
        except OSError:
            while True:  # it may have said why before it went
                self._receive(b"")

    def _receive(self, expected: bytes) -> memoryview:
        try:
            kind, payload = wire.receive(self._socket, self._look)
        except (OSError, EOFError):
            self._lost()
        if kind == wire.ERROR:
            error, text = pickle.loads(payload)
            raise error from WorkerError(f"In the scoring process:\n{text}")
        assert kind == expected or not expected
        return payload

    def _lost(self) -> NoReturn:
        """Say how the process ended."""
        status = self._process.wait()
        self._ear.join()
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
            hint = " (as the system does when memory runs out)" if name == "SIGKILL" else ""
            how = f"was killed by {name}{hint}"
        else:
            how = f"ended itself with status {status}"
        death = Died(how, "crashed", read_marks(self._page), None if status < 0 else status, self._last_words())
        death.outside = -status in _FROM_OUTSIDE
        raise death

    def _look(self) -> None:
        """Kill the process if a thread reads one and the same row, or runs the network once, for too long."""
        now = time.monotonic()
        marks = read_marks(self._page)
        for mark in marks:
            limit_s = self._timeouts_s.get(mark.doing, math.inf)
            if self._seen.get(mark.thread, (None, 0))[0] != mark:
                self._seen[mark.thread] = mark, now
            elif now - self._seen[mark.thread][1] > limit_s:
                self._process.kill()
                self._process.wait()
                where = " in the network" if mark.doing == NETWORK else ""
                raise Died(f"was stopped after {limit_s:g} s{where}", "timeout", marks, None, "")

    def _hear(self, stream: IO[bytes]) -> None:
        """Pass on what it writes, and remember the end."""
        with stream:
            for line in stream:
                text = line.decode(errors="replace")
                self._words.append(text)
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.write(text)

    def _last_words(self) -> str:
        return "".join(self._words)[-_WORDS:].strip() or "none"


_idle: list[Scorer] = []


def take() -> Scorer:
    """Return a process that an earlier task of this one left, or a new one."""
    while _idle:
        scorer = _idle.pop()
        if scorer.alive and scorer.path == tuple(map(str, sys.path)):
            return scorer
        scorer.kill()
    return Scorer()


def give_back(scorer: Scorer) -> None:
    """Keep a process for the next task; one in the midst of a task ends."""
    if scorer.idle and scorer.alive and len(_idle) < _MOST_IDLE:
        _idle.append(scorer)
    else:
        scorer.kill()


@atexit.register
def _end() -> None:
    while _idle:
        _idle.pop().kill()
