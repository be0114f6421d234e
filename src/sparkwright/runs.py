"""A run: the folder in which one job keeps its configuration, events, results and report.

::

    run/
      config.json     what was asked for; written first
      events.jsonl    what happened, a line an event
      metrics.json    what came out
      report.html, model/, features/, predictions/
      wrong.json      of photos: those that the model was most sure of, and wrong about, made small
      checkpoints/    of the training, until the run has ended well
      tuning/         of a search: what it goes on from, and Optuna's journal
      trials.json     of a search: all that it tried
      space.json      of a search: what it searched
      importance.json of a search: how much each parameter matters, for its report

One process at a time works in it. The folder may lie anywhere `sparkwright.storage` writes. Events of a run that
is not on this machine's disk are kept in a temporary file and copied every half minute, and at the end of every stage.
The report is written from what the folder holds, however the run ended: no Spark, so that it can be written again
anywhere.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sparkwright import storage
from sparkwright.errors import ExistsError, InputError, NotFiniteError, NotFoundError, differences
from sparkwright.evaluation.report import RunRecord, Thumbnail, write_report
from sparkwright.evaluation.report.tuning import SearchRecord, measure_importance
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
    "CHECKPOINTS",
    "CONFIG",
    "FIT",
    "IMPORTANCE",
    "METRICS",
    "SEARCH",
    "SPACE",
    "THUMBNAILS",
    "TRIALS",
    "TUNING",
    "Run",
    "check_folder",
    "opened",
    "read_run",
    "write_run_report",
]

log = logging.getLogger(__name__)

CONFIG, EVENTS, METRICS, CHECKPOINTS = "config.json", "events.jsonl", "metrics.json", "checkpoints"
TUNING, TRIALS, SPACE, IMPORTANCE = "tuning", "trials.json", "space.json", "importance.json"
THUMBNAILS, REPORT = "wrong.json", "report.html"

FIT, SEARCH = "fit", "search"
"""What runs where Python asked for a training, or a search, alone. A model in the folder is the user's, not theirs."""

_ALONE = {FIT: "the run of a training", SEARCH: "the run of a search"}

_MADE = (EVENTS, METRICS, REPORT, CHECKPOINTS, TUNING, TRIALS, SPACE, IMPORTANCE, THUMBNAILS)
_FLUSH_S = 30.0


class Run:
    """An open run; a context manager that records how it ended, and writes the report.

    Args:
        uri: The folder; it is made.
        command: What runs (``"transfer"``).
        config: What was asked for, as JSON can hold it.
        shell: The shell command that repeats it; empty where there is none.
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
        shell: str = "",
        overwrite: bool = False,
        resume: bool = False,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.uri = storage.to_uri(uri)
        self.seconds: dict[str, float] = {}
        self.metrics: dict[str, Any] = {}
        document = {"command": command, "shell": shell, "config": dict(config), "versions": library_versions()}
        document = json.loads(json.dumps(document))  # tuples become lists, so that it compares with what is on disk
        check_folder(uri, overwrite=overwrite, resume=resume)
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.uri))
            self._prepare(document, overwrite=overwrite, resume=resume)
            storage.write_bytes(self.path(CONFIG), json.dumps(document, indent=2, ensure_ascii=False).encode())
            self._lock = stack.pop_all()
        self._staging = None if storage.is_local(self.uri) else Path(tempfile.mkdtemp(prefix="sparkwright-run-"))
        self._event_path = (self._staging or Path(self.uri.removeprefix("file://"))) / EVENTS
        self._flushed = time.monotonic()
        if self._staging is not None and storage.exists(self.path(EVENTS)):  # of the attempts before this one
            self._event_path.write_bytes(storage.read_bytes(self.path(EVENTS)))
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
            self._flushed = time.monotonic()

    def _prepare(self, document: dict[str, Any], *, overwrite: bool, resume: bool) -> None:
        """Make the folder ready for this run."""
        if resume and storage.exists(self.path(CONFIG)):
            differences = _differences(json.loads(storage.read_bytes(self.path(CONFIG))), document)
            if differences:
                anew = "remove it" if document["command"] in _ALONE else "pass overwrite=True (--overwrite)"
                raise InputError(
                    f"{self.uri} holds a run of another configuration, which cannot be resumed. Differences (there → "
                    f"now): {'; '.join(differences)}. Choose another folder, or {anew}."
                )
        elif overwrite:
            for name in (*_MADE, *(() if document["command"] in _ALONE else ("model", "predictions"))):
                storage.remove(self.path(name))

    def _copy_events(self, stamped: Stamped) -> None:
        late = time.monotonic() - self._flushed > _FLUSH_S
        if late or isinstance(stamped.event, StageEnded | RunEnded):
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
        # Input that was refused before anything was made must not stand in the way of the corrected command.
        refused = isinstance(error, InputError) and not isinstance(error, NotFiniteError)
        try:
            refused = refused and set(storage.list_files(self.uri)) <= {CONFIG, EVENTS, LOCK}
            if not refused:
                self._report(failed=error is not None)
        finally:
            self._lock.close()
        if refused:
            storage.remove(self.uri)

    def _report(self, *, failed: bool) -> None:
        try:
            write_run_report(self.uri)
        except Exception:
            if not failed:
                raise
            log.exception("The report of %s, which failed, cannot be written", self.uri)  # why it did is to be told


def opened(run: str, command: str, asked: Mapping[str, Any], interrupted: Callable[[], bool]) -> Run:
    """Open the run of what Python asked for: one that was interrupted goes on, one that has ended is replaced.

    Args:
        run: The folder.
        command: `FIT` or `SEARCH`.
        asked: The configuration.
        interrupted: Whether it was; asked where the folder holds a run of the same command.

    Raises:
        ExistsError: The folder holds another run, or something else; or another process works there.
        InputError: What was interrupted there has another configuration; the message lists the differences.
    """
    check_folder(run, resume=True)
    path, goes_on = storage.join(run, CONFIG), False
    if storage.exists(path):
        there = json.loads(storage.read_bytes(path))["command"]
        if there != command:
            what = _ALONE.get(there, f"a run of `sparkwright {there}`")
            raise ExistsError(f"{run} holds {what}, which is left alone. Choose another folder.")
        goes_on = interrupted()
    return Run(run, command, asked, overwrite=not goes_on, resume=goes_on)


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


def write_run_report(run: str) -> str:
    """Write ``report.html`` of a run from what its folder holds, without Spark; return its URI.

    A run that failed, or has not ended, has the sections for which there is something.

    Raises:
        NotFoundError: there is no run.
    """
    document, metrics, events = read_run(run)
    wrong = storage.join(run, THUMBNAILS)
    thumbnails = json.loads(storage.read_bytes(wrong)) if storage.exists(wrong) else []
    record = RunRecord(
        title=run.rstrip("/").rsplit("/", 1)[-1],
        config=document["config"],
        metrics=metrics,
        events=events,
        versions=document["versions"],
        command=document.get("shell", ""),
        thumbnails=[Thumbnail.from_dict(data) for data in thumbnails],
        search=_searched(run, metrics),
        created=events[-1].time if events else "",
    )
    path = storage.join(run, REPORT)
    storage.write_bytes(path, write_report(record).encode())
    return path


def _searched(run: str, metrics: Mapping[str, Any]) -> SearchRecord | None:
    """Return the search that the run did, with its parameters' importance, which the run's folder keeps."""
    trials, kept = storage.join(run, TRIALS), storage.join(run, IMPORTANCE)
    if not storage.exists(trials):
        return None
    content = storage.read_bytes(trials)
    optimism = (metrics.get("search") or {}).get("optimism")
    search = SearchRecord.from_dict({**json.loads(content), "optimism": optimism})
    digest = hashlib.sha256(content).hexdigest()
    known = json.loads(storage.read_bytes(kept)) if storage.exists(kept) else {}
    if known.get("trials") != digest:  # a search that went on has other trials
        known = {"trials": digest, "importance": measure_importance(search)}
        storage.write_bytes(kept, json.dumps(known, indent=2, ensure_ascii=False).encode())
    return dataclasses.replace(search, importance=known["importance"])
