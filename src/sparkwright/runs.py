"""A run: the folder in which one job keeps its configuration, events, results and report.

::

    run/
      config.json     what was asked for; written first
      events.jsonl    what happened, a line an event
      metrics.json    what came out
      report.html, model/, features/, predictions/
      wrong.json      of photos: those that the model was most sure of, and wrong about, made small
      augmented.jpg   of photos: some as augmentation changes them
      checkpoints/    of the training, until the run has ended well
      tuning/         of a search: what it goes on from, and Optuna's journal
      trials.json     of a search: all that it tried
      space.json      of a search: what it searched
      importance.json of a search: how much each parameter matters, for its report

One process at a time works in it. The folder may lie anywhere `sparkwright.storage` writes. Events of a run that
is not on this machine's disk are kept in a temporary file and copied at the end of every stage.
"""

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sparkwright import storage
from sparkwright.errors import ExistsError, InputError, NotFoundError, differences
from sparkwright.events import (
    Bus,
    Event,
    EventFile,
    RunEnded,
    RunStarted,
    Sink,
    StageEnded,
    StageStarted,
    Stamped,
    read_events,
)
from sparkwright.locks import LOCK, locked
from sparkwright.models import library_versions

__all__ = [
    "AUGMENTED",
    "CHECKPOINTS",
    "IMPORTANCE",
    "SPACE",
    "THUMBNAILS",
    "TRIALS",
    "TUNING",
    "Run",
    "check_folder",
    "read_run",
]

CONFIG, EVENTS, METRICS, CHECKPOINTS = "config.json", "events.jsonl", "metrics.json", "checkpoints"
TUNING, TRIALS, SPACE, IMPORTANCE = "tuning", "trials.json", "space.json", "importance.json"
THUMBNAILS, AUGMENTED = "wrong.json", "augmented.jpg"

_MADE = (EVENTS, METRICS, CHECKPOINTS, TUNING, TRIALS, SPACE, IMPORTANCE, THUMBNAILS, AUGMENTED)


class Run:
    """An open run; a context manager that records how it ended.

    Args:
        uri: The folder; it is made.
        command: What runs (``"transfer"``).
        config: What was asked for, as JSON can hold it.
        overwrite: Begin anew in a folder that holds a run; features are kept, because they are found by content.
        resume: Go on in a folder that holds a run of the same configuration.
        sinks: More listeners to the run's events, such as a progress bar.

    Raises:
        ExistsError: the folder is not empty, and neither `overwrite` nor `resume` was asked for; or it holds something
            else than a run, which nothing overwrites; or another process works there.
        InputError: `resume` of a run with another configuration; the message lists the differences.
    """

    def __init__(
        self,
        uri: str,
        command: str,
        config: Mapping[str, Any],
        *,
        overwrite: bool = False,
        resume: bool = False,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.uri = storage.to_uri(uri)
        self.seconds: dict[str, float] = {}
        self.metrics: dict[str, Any] = {}
        document = {"command": command, "config": dict(config), "versions": library_versions()}
        document = json.loads(json.dumps(document))  # tuples become lists, so that it compares with what is on disk
        check_folder(uri, overwrite=overwrite, resume=resume)
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.uri))
            self._prepare(document, overwrite=overwrite, resume=resume)
            storage.write_bytes(self.path(CONFIG), json.dumps(document, indent=2, ensure_ascii=False).encode())
            self._lock = stack.pop_all()
        self._staging = None if storage.is_local(self.uri) else Path(tempfile.mkdtemp(prefix="sparkwright-run-"))
        self._event_path = (self._staging or Path(self.uri.removeprefix("file://"))) / EVENTS
        self._file = EventFile(self._event_path)
        self._bus = Bus([self._file, *sinks, self._copy_events])
        self.emit(RunStarted(command, document["config"]))

    def path(self, *parts: str) -> str:
        """Return the URI of something in the run's folder."""
        return storage.join(self.uri, *parts)

    def emit(self, event: Event) -> None:
        """Record an event and show it to all sinks."""
        self._bus.emit(event)

    def write(self, name: str, content: str | bytes | Mapping[str, Any]) -> None:
        """Write a small file of the run; a mapping is written as JSON."""
        if isinstance(content, Mapping):
            content = json.dumps(content, indent=2, ensure_ascii=False)
        storage.write_bytes(self.path(name), content.encode() if isinstance(content, str) else content)

    @contextlib.contextmanager
    def stage(self, name: str, total: int = 0, unit: str = "rows") -> Iterator[None]:
        """Announce a stage of `total` photos or rows, and tell its seconds at the end."""
        self.emit(StageStarted(name, total, unit))
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)
        self.emit(StageEnded(name, self.seconds[name], rows=total))

    def flush(self) -> None:
        """Put the events so far where the run lies."""
        if self._staging is not None:
            storage.upload(self._event_path, self.path(EVENTS))

    def _prepare(self, document: dict[str, Any], *, overwrite: bool, resume: bool) -> None:
        """Make the folder ready for this run."""
        if resume and storage.exists(self.path(CONFIG)):
            differences = _differences(json.loads(storage.read_bytes(self.path(CONFIG))), document)
            if differences:
                raise InputError(
                    f"{self.uri} holds a run of another configuration, which cannot be resumed. Differences (there → "
                    f"now): {'; '.join(differences)}. Choose another folder, or pass overwrite=True (--overwrite)."
                )
        elif overwrite:
            for name in (*_MADE, "report.html", "model", "predictions"):
                storage.remove(self.path(name))

    def _copy_events(self, stamped: Stamped) -> None:
        if isinstance(stamped.event, StageEnded | RunEnded):
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        message = "" if error is None else f"{type(error).__name__}: {error}"
        self.emit(RunEnded(ok=error is None, message=message, metrics=self.metrics))
        self._file.close()
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
        if error is None:
            storage.remove(self.path(CHECKPOINTS))
        self._lock.close()
        # Input that was refused before anything was made must not stand in the way of the corrected command.
        if isinstance(error, InputError) and set(storage.list_files(self.uri)) <= {CONFIG, EVENTS}:
            storage.remove(self.uri)


def check_folder(uri: str, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse a folder that a run may not write to.

    Raises:
        ExistsError: it is not empty, and neither `overwrite` nor `resume` was asked for; or it holds something else
            than a run.
    """
    there = [name for name in storage.list_files(uri) if name != LOCK]
    if not there:
        return
    if CONFIG not in there:
        raise ExistsError(f"{uri} is not empty and holds no run, so it is left alone. Choose another folder.")
    if not overwrite and not resume:
        raise ExistsError(
            f"{uri} holds a run already. Choose another folder, pass overwrite=True (--overwrite) to begin anew, or "
            "resume=True (--resume) to go on."
        )


def _differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    if there.get("command") != now["command"]:
        return [f"command: {there.get('command')} → {now['command']}"]
    return differences(there["config"], now["config"])


def read_run(uri: str) -> tuple[dict[str, Any], dict[str, Any], list[Stamped]]:
    """Return a finished run's configuration document, metrics (empty if it has none) and events.

    Raises:
        NotFoundError: there is no run at `uri`.
    """
    names = storage.list_files(uri)
    if CONFIG not in names:
        raise NotFoundError(f"No run at {uri}: it has no {CONFIG}.")

    def read(name: str) -> str:
        return storage.read_bytes(storage.join(uri, name)).decode()

    metrics = json.loads(read(METRICS)) if METRICS in names else {}
    events = read_events(read(EVENTS).split("\n")) if EVENTS in names else []
    return json.loads(read(CONFIG)), metrics, events
