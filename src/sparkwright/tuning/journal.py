"""A search as Optuna's tools read it: its trials in a file of `optuna.storages.JournalStorage`.

::

    optuna-dashboard RUN/tuning/journal.log

It is written from the events of the search and made anew when a search goes on: it shows the search and decides
nothing. Away from this machine's disk it is a copy, brought up to date now and then and at the end.

This module loads Optuna.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from sparkwright import storage
from sparkwright.events import Event, TrialEnded, TrialMeasured, TrialStarted
from sparkwright.tuning.study import Study, quiet

__all__ = ["JOURNAL", "Journal"]

JOURNAL = "journal.log"
"""The file's name."""

_COPY_S = 30.0  # between two copies


class Journal:
    """Takes the events of a search; a context manager. Runs on the driver.

    Args:
        folder: Where the file is to lie.
        study: What the search asks.
    """

    def __init__(self, folder: str, study: Study) -> None:
        self._study = study
        self._uri = storage.join(storage.to_uri(folder), JOURNAL)
        self._staging = None if storage.is_local(folder) else Path(tempfile.mkdtemp(prefix="sparkwright-journal-"))
        self._copied = time.monotonic()
        self._path = (self._staging or Path(storage.to_uri(folder).removeprefix("file://"))) / JOURNAL
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._trials: dict[int, optuna.Trial] = {}
        with quiet():
            self._file = optuna.create_study(
                storage=optuna.storages.JournalStorage(_Lines(self._path)),
                study_name="sparkwright",
                directions=study.directions(),
                sampler=optuna.samplers.RandomSampler(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(self, event: Event) -> None:
        """Write an event of a search into the file; those of other kinds are none of its business."""
        if isinstance(event, TrialStarted):
            self._start(event)
        elif isinstance(event, TrialMeasured):
            self._measure(event)
        elif isinstance(event, TrialEnded):
            self._end(event)
            if self._staging is not None and time.monotonic() - self._copied > _COPY_S:
                self._copy()

    def close(self) -> None:
        """Write what is left."""
        if self._staging is not None:
            self._copy()
            shutil.rmtree(self._staging, ignore_errors=True)

    def _start(self, event: TrialStarted) -> None:
        space = self._study.space
        parameters, distributions = space.parameters(event.values), space.distributions()
        self._file.enqueue_trial(parameters, user_attrs={"values": event.values})
        self._trials[event.trial] = self._file.ask({name: distributions[name] for name in parameters})

    def _measure(self, event: TrialMeasured) -> None:
        if len(self._study.objectives) == 1:  # Optuna takes no course of several
            self._trials[event.trial].report(event.value, event.epoch)

    def _end(self, event: TrialEnded) -> None:
        trial = self._trials.pop(event.trial)
        for name, value in {"state": event.state, "reason": event.reason, **event.metrics}.items():
            trial.set_user_attr(name, value)
        for name, value in self._study.constraints(event.metrics).items():
            trial.set_constraint(name, value)
        if event.state == "complete":
            self._file.tell(trial, [event.metrics[name] for name in self._study.objectives])
        else:
            self._file.tell(trial, state=TrialState.PRUNED if event.state == "stopped" else TrialState.FAIL)

    def _copy(self) -> None:
        self._copied = time.monotonic()
        storage.upload(self._path, self._uri)


class _Lines(BaseJournalBackend):
    """A journal that one process writes, without locks and without waiting for the disk.

    Its format is that of `optuna.storages.journal.JournalFileBackend`: an operation a line.
    """

    def __init__(self, path: Path) -> None:
        self._operations: list[dict[str, Any]] = []
        self._path = path
        path.write_bytes(b"")

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self._operations[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(operation, separators=(",", ":")) for operation in logs]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self._operations += [json.loads(line) for line in lines]
