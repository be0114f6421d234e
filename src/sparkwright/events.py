"""What happens in a job, as typed events, and their way from executors to the driver.

A part of the library emits events by calling an `Emit` (any function of one event). The driver's `Bus` stamps them and
hands them to sinks: a progress bar, a JSONL file, what else listens. On executors a `Sender` emits over TCP to the
driver's `Channel`: the same way on classic Spark, Spark Connect and YARN, because it needs nothing of Spark. Events
inform; no result depends on one, so a sender that cannot reach the driver drops them and the job goes on.

Example:
    >>> seen = []
    >>> bus = Bus([lambda stamped: seen.append(stamped.event)])
    >>> with Channel(bus.emit) as channel:          # driver
    ...     with Sender(channel.address) as sender:     # executor; the address is small and picklable
    ...         sender.emit(Progress(stage="features", task="0", done=32))
    >>> seen
    [Progress(stage='features', task='0', done=32, errors=0)]
"""

import contextlib
import dataclasses
import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

__all__ = [
    "Address",
    "Bus",
    "Channel",
    "Emit",
    "EpochAdvanced",
    "EpochEnded",
    "Event",
    "EventFile",
    "LayersMeasured",
    "PhotosAugmented",
    "Progress",
    "RunEnded",
    "RunStarted",
    "SearchAdvanced",
    "Sender",
    "Sink",
    "StageEnded",
    "StageStarted",
    "Stamped",
    "SyncIntervalChosen",
    "TaskTimed",
    "TrainingRefused",
    "TrialEnded",
    "TrialMeasured",
    "TrialStarted",
    "Warned",
    "WorkerLost",
    "ignore",
    "read_events",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Base of all events: plain data that JSON can hold."""

    kinds: ClassVar[dict[str, type["Event"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Event.kinds[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and, under ``kind``, the name of the class."""
        return {"kind": type(self).__name__, **dataclasses.asdict(self)}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "Event":
        """Rebuild an event; unknown kinds and fields (of another version) raise `KeyError` or `TypeError`."""
        fields = dict(data)
        return Event.kinds[fields.pop("kind")](**fields)


@dataclass(frozen=True)
class RunStarted(Event):
    """A run began; `config` is what ``config.json`` holds."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunEnded(Event):
    """A run ended; `metrics` is what ``metrics.json`` holds, empty if it failed."""

    ok: bool
    message: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageStarted(Event):
    """A stage (``"features"``, ``"training"`` …) began; `total` is in `unit`, 0 if unknown."""

    stage: str
    total: int = 0
    unit: str = "rows"


@dataclass(frozen=True)
class Progress(Event):
    """How far one task of a stage is.

    `done` and `errors` count from the task's beginning, so that a task that runs again replaces its counts instead of
    adding to them: a stage's progress is the sum over tasks of the last event of each.
    """

    stage: str
    task: str
    done: int
    errors: int = 0


@dataclass(frozen=True)
class TaskTimed(Event):
    """Where the time of a task of a stage went: the seconds of each step, over all its threads, for `rows` rows.

    ``read`` and ``write`` are waiting for Spark, which reads and writes meanwhile; the rest is work.
    """

    stage: str
    task: str
    rows: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class StageEnded(Event):
    """A stage ended after `seconds`; `rows` of which `errors` failed."""

    stage: str
    seconds: float
    rows: int = 0
    errors: int = 0


@dataclass(frozen=True)
class EpochEnded(Event):
    """One epoch of training is over.

    `replica_losses` are the mean training losses of all replicas in their order; `train_loss` is their mean weighted by
    rows. `training` maps a metric's name (``"accuracy"``) to its value over the training rows, each as it was when it
    was trained on; `validation` (``"loss"``, ``"accuracy"``) to that over the validation rows, empty without such rows.
    `sync_share` is the share of the epoch's time that combining replicas took. All workers together sent `sent_bytes`
    for it, and `saved_bytes` less than they would have without compression.
    """

    epoch: int
    epochs: int
    train_loss: float
    replica_losses: list[float]
    validation: dict[str, float] = field(default_factory=dict)
    learning_rate: float = 0.0
    rows: int = 0
    seconds: float = 0.0
    sync_share: float = 0.0
    best: bool = False
    training: dict[str, float] = field(default_factory=dict)
    sent_bytes: int = 0
    saved_bytes: int = 0


@dataclass(frozen=True)
class SyncIntervalChosen(Event):
    """Replicas will combine `every` so many steps, because a step takes `step_s` and a sync `sync_s` seconds.

    Syncs then take `share` of the time, by that measurement; `wanted` was the limit.
    """

    every: int
    step_s: float
    sync_s: float
    share: float
    wanted: float


@dataclass(frozen=True)
class EpochAdvanced(Event):
    """How far an epoch of training is; told by rank 0, at most once a second.

    `batches` of the epoch are done, `of` how many. `train_loss` is the mean loss of the epoch's rows so far, of the
    replicas that rank 0 hosts. `rows_per_s` counts the rows of all replicas. `seconds_left` are those to the last
    epoch; a training that stops early needs fewer. `phase` is ``"selection"`` or ``"refit"``.
    """

    phase: str
    epoch: int
    epochs: int
    batches: int
    of: int
    train_loss: float
    rows_per_s: float
    sync_share: float
    seconds_left: float


@dataclass(frozen=True)
class LayersMeasured(Event):
    """How the layers of one replica learn, at one step of a training; told every some hundred steps.

    A layer has a ``name``; an ``update_ratio`` (the length of the step's change beside that of the weights), a
    ``gradient_norm``, the share of its units that are ``dead`` (the same for the whole batch) and the ``spread`` (the
    standard deviation) of its outputs; the last two are None where they cannot be told. `step` counts over all epochs;
    `phase` is ``"selection"`` or ``"refit"``.
    """

    phase: str
    epoch: int
    step: int
    layers: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class PhotosAugmented(Event):
    """Some training photos as augmentation changes them, side by side; told when a training begins.

    `sheet` is a JPEG in base64, of about a hundred kilobytes.
    """

    sheet: str = field(repr=False)


@dataclass(frozen=True)
class WorkerLost(Event):
    """Why workers that train together had to stop, as each of those that are left tells it."""

    message: str


@dataclass(frozen=True)
class TrainingRefused(Event):
    """A worker met what would come again, such as rows that cannot be trained on: a class of `errors`, its message."""

    error: str
    message: str


@dataclass(frozen=True)
class Warned(Event):
    """Something that the user should know and that stops nothing.

    `about` is the section of the report that it stands in (``"layers"``); empty: in none of its own.
    """

    message: str
    about: str = ""


@dataclass(frozen=True)
class TrialStarted(Event):
    """A search tries one more configuration: trial `trial`, counted from 0, which sets `values`."""

    trial: int
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialMeasured(Event):
    """A trial has reached `epoch`: `value` is what a search compares, `best` the best of all trials so far.

    `seconds` is what the search has taken; `epochs` what all trials together have trained.
    """

    trial: int
    epoch: int
    value: float
    best: float
    seconds: float = 0.0
    epochs: int = 0


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial is ``"complete"``, ``"stopped"``, ``"failed"`` or ``"rejected"``, for that `reason`.

    `value` is what the search compares, `metrics` all that was measured; None and empty if nothing was.
    """

    trial: int
    state: str
    value: float | None = None
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SearchAdvanced(Event):
    """How far a search is: of `slots` for its jobs, `working` train one.

    `seconds_left` are those to the end of its last trial, about: by the epochs a second so far, and those that trials
    of which one in so many goes on need. None before the first is measured.
    """

    working: int
    slots: int
    seconds_left: float | None = None


@dataclass(frozen=True)
class Stamped:
    """An event with the driver's clocks: `time` (UTC, ISO 8601) to show, `elapsed_s` (monotonic) to compute with."""

    event: Event
    time: str
    elapsed_s: float


Emit = Callable[[Event], None]
Sink = Callable[[Stamped], None]


def ignore(event: Event) -> None:
    """Emit to nobody."""


class Bus:
    """Stamps events with the driver's clocks and hands them to every sink, one at a time.

    Thread-safe. A sink that raises is logged and stays; it never stops the job.
    """

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        self._sinks = list(sinks)
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        """Stamp `event` and pass it on."""
        with self._lock:
            stamped = Stamped(
                event,
                datetime.now(UTC).isoformat(timespec="milliseconds"),
                round(time.monotonic() - self._start, 3),
            )
            for sink in self._sinks:
                try:
                    sink(stamped)
                except Exception:
                    log.exception("The sink %r failed on %r", sink, event)


class EventFile:
    """A sink that appends each event as a line of JSON to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, stamped: Stamped) -> None:
        line = {"time": stamped.time, "elapsed_s": stamped.elapsed_s, **stamped.event.to_dict()}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; a later event is an error."""
        self._file.close()


def read_events(lines: Iterable[str]) -> list[Stamped]:
    """Read a JSONL file's lines; lines of kinds that this version does not know, or cut short, are left out."""
    read = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            data = dict(json.loads(line))
            stamp, elapsed_s = data.pop("time"), data.pop("elapsed_s")
            read.append(Stamped(Event.from_dict(data), stamp, elapsed_s))
    return read


@dataclass(frozen=True)
class Address:
    """Where a channel listens; small and picklable, so that it travels inside a Spark function."""

    hosts: tuple[str, ...]
    port: int
    token: str = field(repr=False)


class Channel:
    """The driver's end: listens on a free port for the senders that know its token.

    Args:
        emit: What each arriving event is handed to, from a thread of the channel.
        hosts: Names under which executors may reach the driver, tried in turn (``spark.driver.host``, say); the
            machine's own name and loopback are always added.
    """

    def __init__(self, emit: Emit, hosts: Iterable[str] = ()) -> None:
        self._emit = emit
        self._server = socket.create_server(("", 0), backlog=256)
        port = self._server.getsockname()[1]
        names = dict.fromkeys([*hosts, socket.gethostname(), "127.0.0.1"])
        self.address = Address(tuple(names), port, secrets.token_urlsafe(16))
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._acceptor = threading.Thread(target=self._accept, name="sparkwright-channel", daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            thread = threading.Thread(target=self._receive, args=(connection,), daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def _receive(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)  # for the token alone: a sender may be silent for hours afterwards
            with connection.makefile("r", encoding="utf-8", errors="replace") as lines:
                token = lines.readline(256).rstrip("\n")
                if not secrets.compare_digest(token.encode(), self.address.token.encode()):
                    return
                connection.settimeout(None)
                for line in lines:
                    try:
                        event = Event.from_dict(json.loads(line))
                    except (ValueError, KeyError, TypeError):
                        log.warning("An event that is not understood was left out: %.200s", line)
                    else:
                        self._emit(event)
        with self._lock:
            self._connections.pop(connection, None)

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop listening; what senders have sent already is delivered first, for `timeout_s` at most."""
        # A connection that the kernel has completed but `accept` has not seen yet would be lost without this pause.
        time.sleep(0.02)
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        deadline = time.monotonic() + timeout_s
        with self._lock:
            open_now = dict(self._connections)
        for connection, thread in open_now.items():
            thread.join(max(0.0, min(0.5, deadline - time.monotonic())))
            if thread.is_alive():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                thread.join(max(0.0, deadline - time.monotonic()))
        self._acceptor.join(max(0.0, deadline - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_DEAF_S = 60.0
"""How long a host of a channel that could not be reached is not tried again, by senders of the same process."""

_deaf: dict[tuple[Address, str], float] = {}
"""Channel and host → when trying them was in vain, on the monotonic clock."""


class Sender:
    """An executor's end: emits events to the driver, or drops them where it cannot be reached.

    Args:
        address: The channel's address; None sends nothing.
        connect_timeout_s: How long each of the address's hosts is tried.
    """

    def __init__(self, address: Address | None, connect_timeout_s: float = 2.0) -> None:
        self._socket: socket.socket | None = None
        if address is None:
            return
        now = time.monotonic()
        for known, since in list(_deaf.items()):
            if now - since > _DEAF_S:
                _deaf.pop(known, None)
        hosts = [host for host in address.hosts if (address, host) not in _deaf]
        for host in hosts:
            try:
                self._socket = socket.create_connection((host, address.port), timeout=connect_timeout_s)
                self._socket.sendall(f"{address.token}\n".encode())
                return
            except OSError:
                self.close()
                _deaf[address, host] = now
        if hosts:
            log.warning("The driver's event channel cannot be reached at %s:%d", hosts, address.port)

    def emit(self, event: Event) -> None:
        """Send `event`; never raises and never blocks longer than the connection's time limit."""
        if self._socket is not None:
            try:
                self._socket.sendall((json.dumps(event.to_dict()) + "\n").encode())
            except OSError:
                self.close()

    def close(self) -> None:
        """Close the connection; later events are dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
