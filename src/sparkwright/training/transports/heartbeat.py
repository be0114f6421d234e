"""How the workers of a gang see that all of them live and get on, so that none waits for ever.

Each worker has a thread that tells rank 0 every second how often it got on (steps, messages, batches of rows)
and whether it waits for another. Rank 0 judges: a worker that is silent, or that neither gets on nor waits, has failed,
and so has a gang whose workers all wait. One that is slow has not: the others wait as long as it steps. A process that
dies, or an error that a worker leaves with, is noticed at once by the end of its connection. The verdict goes to all.

The connections are these threads' own: gloo's would be silent exactly when it matters.
"""

import contextlib
import hmac
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["GRACE_S", "Address", "Heartbeat", "Judge", "Pulse", "Watch"]

GRACE_S = 15.0
"""How long a worker may take to leave after a verdict; then its process ends."""

_LINE_BYTES = 1 << 16  # at most: who sends more is no worker
_PARTING_S = 2.0  # how long rank 0 waits for the others to close their connections
_SAID_LETTERS = 2000  # of an error, to the others


@dataclass(frozen=True)
class Pulse:
    """What a worker tells of itself.

    Attributes:
        beats: Changes whenever it gets on.
        waits: For whom or what it waits; None if it works.
        place: Where it is, for messages.
    """

    beats: int = 0
    waits: str | None = None
    place: str = "before its first step"


@dataclass(frozen=True)
class Address:
    """Where rank 0 listens, and what a worker must know to be heard."""

    host: str
    port: int
    token: str


class Judge:
    """Decides from the workers' pulses whether one has failed; the clock is the caller's and starts at 0.

    Args:
        names: What each rank is called in messages.
        limit_s: How long a worker may be silent, or neither get on nor wait.
    """

    def __init__(self, names: Sequence[str], limit_s: float) -> None:
        self._names = names
        self._limit_s = limit_s
        self._pulses: dict[int, Pulse] = {}
        self._heard: dict[int, float] = {}
        self._since: dict[int, float] = {}  # when the pulse became what it is
        self._left: set[int] = set()

    def hear(self, rank: int, pulse: Pulse, now: float) -> None:
        """Take what a worker tells."""
        self._heard[rank] = now
        if pulse != self._pulses.get(rank):
            self._pulses[rank], self._since[rank] = pulse, now

    def leave(self, rank: int) -> None:
        """Take a worker's goodbye: it is done."""
        self._left.add(rank)

    def lost(self, rank: int) -> str | None:
        """Return the verdict when a worker's connection ends; None if it had said goodbye."""
        if rank in self._left:
            return None
        return f"{self._names[rank]} is gone: its process or its machine ended, last heard of {self._place(rank)}."

    def failed(self, rank: int, error: str) -> str:
        """Return the verdict when a worker leaves with an error."""
        return f"{self._names[rank]} failed {self._place(rank)}: {error}"

    def verdict(self, now: float) -> str | None:
        """Return what is wrong, or None. Workers that have not come yet are waited for elsewhere."""
        there = [rank for rank in sorted(self._heard) if rank not in self._left]
        for rank in there:
            if now - self._heard[rank] > self._limit_s:
                return (
                    f"{self._names[rank]} has been silent for {self._limit_s:g} s, last heard of {self._place(rank)}: "
                    "its process is stopped, or its machine cannot be reached."
                )
        still = [rank for rank in there if self._heard[rank] - self._since[rank] > self._limit_s]
        for rank in still:
            if self._pulses[rank].waits is None:
                return (
                    f"{self._names[rank]} has neither got on nor waited for another for {self._limit_s:g} s; it is "
                    f"{self._place(rank)}. If a step may take that long, raise the limit (`stall_limit_s`)."
                )
        if still and len(still) == len(self._names) - len(self._left):
            whom = "; ".join(f"{self._names[rank]} for {self._pulses[rank].waits}" for rank in there)
            return f"All workers have waited for one another for {self._limit_s:g} s: {whom}."
        return None

    def _place(self, rank: int) -> str:
        return self._pulses.get(rank, Pulse()).place


class Awake:
    """A clock that stands still while this process is stopped, or its machine asleep: others were not silent then.

    Args:
        most_s: What may pass between two looks at it, at most.
    """

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._looked = time.monotonic()
        self._now = 0.0

    def now(self) -> float:
        """Return the seconds so far."""
        looked = time.monotonic()
        self._now += min(looked - self._looked, self._most_s)
        self._looked = looked
        return self._now


class Watch:
    """Rank 0's end: hears all workers, judges, and tells the verdict to all. Runs in a thread.

    Args:
        host: Name or address of this machine, under which the others know it.
        names: What each rank is called in messages.
        limit_s: As in `Judge`.
    """

    def __init__(self, host: str, names: Sequence[str], limit_s: float) -> None:
        self._server = socket.create_server((host, 0), backlog=max(128, len(names)))
        self._server.setblocking(False)
        self.address = Address(host, self._server.getsockname()[1], os.urandom(16).hex())
        self._beat_s = beat_s(limit_s)
        self._clock = Awake(2 * self._beat_s)
        self._judge = Judge(names, limit_s)
        self._verdict: str | None = None
        self._ranks: dict[socket.socket, int | None] = {}
        self._received: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._wake, woken = socket.socketpair()
        self._selector.register(woken, selectors.EVENT_READ)
        self._woken = woken
        self._thread = threading.Thread(target=self._run, daemon=True, name="sparkwright-watch")
        self._thread.start()

    def connections(self) -> set[int]:
        """Return the file descriptors of the workers' connections."""
        return {sock.fileno() for sock in list(self._ranks)}

    def close(self) -> None:
        """Send all workers that are still there away, in peace, and stop listening."""
        self._wake.close()
        self._thread.join(5)

    def _run(self) -> None:
        try:
            while True:
                ready = [key.fileobj for key, _ in self._selector.select(self._beat_s)]
                # All that has come is heard before anything is judged: this process may have been stopped itself.
                for sock in ready:
                    if sock is self._server:
                        self._accept()
                    elif isinstance(sock, socket.socket) and sock is not self._woken:
                        self._hear(sock)
                self._judged(self._judge.verdict(self._clock.now()))
                if self._woken in ready:
                    return
        finally:
            self._part()
            self._selector.close()
            for sock in (self._server, self._woken, self._wake):
                sock.close()

    def _part(self) -> None:
        """Close all connections, once the others have: what is sent to one that closes too early is never read."""
        self._selector.unregister(self._server)
        self._selector.unregister(self._woken)
        for sock in self._ranks:
            self._say(sock, {"bye": True})
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _PARTING_S
        while self._ranks and time.monotonic() < deadline:
            for key, _ in self._selector.select(0.1):
                with contextlib.suppress(OSError):
                    if isinstance(key.fileobj, socket.socket) and key.fileobj.recv(_LINE_BYTES):
                        continue
                self._drop(key.fileobj)  # type: ignore[arg-type]
        for sock in list(self._ranks):
            self._drop(sock)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._server.accept()
            sock.setblocking(False)
            self._ranks[sock], self._received[sock] = None, b""
            self._selector.register(sock, selectors.EVENT_READ)

    def _hear(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, rest = (self._received[sock] + data).split(b"\n")
        self._received[sock] = rest
        for line in lines:
            if not self._understood(sock, line):
                self._drop(sock)
                return
        if not data or len(rest) > _LINE_BYTES:
            rank = self._drop(sock)
            if rank is not None:
                self._judged(self._judge.lost(rank))

    def _understood(self, sock: socket.socket, line: bytes) -> bool:
        """Take one line; return whether the worker stays."""
        try:
            said = json.loads(line)
        except ValueError:
            return False
        rank = self._ranks[sock]
        if not isinstance(said, dict):
            return False
        if rank is None:
            if not hmac.compare_digest(str(said.get("token")).encode(), self.address.token.encode()):
                return False
            self._ranks[sock] = int(said["rank"])
            return True
        if "bye" in said:
            self._judge.leave(rank)
            if said["bye"]:
                self._judged(self._judge.failed(rank, said["bye"]), speaks=True)
            return False
        self._judge.hear(rank, Pulse(**said), self._clock.now())
        self._say(sock, {"verdict": self._verdict})
        return True

    def _judged(self, verdict: str | None, *, speaks: bool = False) -> None:
        """Tell the first verdict to all; those after it are its consequences."""
        if verdict is None or self._verdict is not None:
            return
        self._verdict = verdict
        for sock, rank in self._ranks.items():
            if rank is not None:
                self._say(sock, {"verdict": verdict, "speaks": speaks})

    def _say(self, sock: socket.socket, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # one that is gone, or stopped with full buffers, is noticed elsewhere
            sock.send(json.dumps(what).encode() + b"\n")

    def _drop(self, sock: socket.socket) -> int | None:
        self._selector.unregister(sock)
        del self._received[sock]
        sock.close()
        return self._ranks.pop(sock)


class Heartbeat:
    """A worker's end: tells rank 0 how it is, and hears the verdict. Runs in a thread.

    Args:
        rank: This worker's.
        names: What each rank is called in messages.
        address: Where rank 0 listens.
        pulse: Tells how this worker is; called in the thread.
        stop: Called in the thread, once, when there is a verdict: it must end all waits of this worker.
        limit_s: How long rank 0 may be silent.

    Attributes:
        verdict: What ended the gang, or None.
        speaks: Whether the worker that failed tells its error itself.
    """

    def __init__(
        self,
        rank: int,
        names: Sequence[str],
        address: Address,
        pulse: Callable[[], Pulse],
        stop: Callable[[], None],
        limit_s: float,
    ) -> None:
        self.verdict: str | None = None
        self.speaks = False
        self._names, self._pulse, self._stop, self._limit_s = names, pulse, stop, limit_s
        self._beat_s = beat_s(limit_s)
        self._left = threading.Event()
        self._parent = os.getppid()
        self._lock = threading.Lock()
        self._socket = socket.create_connection((address.host, address.port), timeout=limit_s)
        self._socket.settimeout(self._beat_s)
        self._say({"rank": rank, "token": address.token})
        self._thread = threading.Thread(target=self._run, daemon=True, name="sparkwright-heartbeat")
        self._thread.start()

    def wait(self, seconds: float) -> str | None:
        """Return the verdict as soon as there is one, or None after some seconds."""
        self._thread.join(seconds) if self.verdict is None else None
        return self.verdict

    def close(self, error: BaseException | None = None) -> None:
        """Leave: in peace, or with an error that the others are told."""
        self._left.set()
        said = f"{type(error).__name__}: {error}"[:_SAID_LETTERS] if error is not None else ""
        with contextlib.suppress(OSError):
            self._say(asdict(self._pulse()))  # where it failed
            self._say({"bye": said})
        self._thread.join(5)  # until rank 0 has taken it and closed the connection
        self._socket.close()

    def _run(self) -> None:
        verdict = self._listened()
        if verdict is None or self._left.is_set():
            return
        self.verdict = verdict
        self._stop()
        threading.Thread(target=self._end, daemon=True, name="sparkwright-end").start()

    def _listened(self) -> str | None:
        """Return the verdict that ends the gang, or None at a goodbye."""
        clock, heard, told, received = Awake(2 * self._beat_s), 0.0, -self._beat_s, b""
        while not self._left.is_set():
            if os.getppid() != self._parent:  # nobody would take this worker's result
                os._exit(1)
            if clock.now() - told >= self._beat_s:
                told = clock.now()
                with contextlib.suppress(OSError):  # the connection has ended: what was said before is still read
                    self._say(asdict(self._pulse()))
            try:
                data = self._socket.recv(_LINE_BYTES)
            except TimeoutError:
                if clock.now() - heard > self._limit_s:
                    return (
                        f"{self._names[0]} has been silent for {self._limit_s:g} s: its process is stopped, or its "
                        "machine cannot be reached."
                    )
                continue
            except OSError:
                data = b""
            heard = clock.now()
            if not data:
                return f"{self._names[0]} is gone: its process or its machine ended."
            *lines, received = (received + data).split(b"\n")
            for said in map(json.loads, lines):
                if "bye" in said:
                    return None
                if said["verdict"] is not None:
                    self.speaks = bool(said.get("speaks"))
                    return str(said["verdict"])
            # Answers come at once: what is left of the beat is slept in the next `recv`.
        return None

    def _end(self) -> None:
        """End the process of a worker that does not leave: it may be in a step that never ends."""
        if not self._left.wait(GRACE_S):
            sys.stderr.write(f"sparkwright: this worker ends, because it did not stop by itself. {self.verdict}\n")
            sys.stderr.flush()
            os._exit(1)

    def _say(self, what: dict[str, Any]) -> None:
        with self._lock:
            self._socket.sendall(json.dumps(what).encode() + b"\n")


def beat_s(limit_s: float) -> float:
    """Return the seconds between two beats."""
    return max(0.05, min(1.0, limit_s / 8))
