"""What one assignment does: rows of its fold, a training up to an epoch, and what that measured.

A trial trains as `fit_table` does with its configuration, on the same rows, to the same bits. Where it is paused it is
kept in the run as any training is, so that any worker may go on with it:

    RUN/tuning/trials/00012/             checkpoints of trial 12, until it ends
    RUN/tuning/trials/00012-fold-1/      those of its second fold
"""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from threading import Event
from typing import Any, cast

from sparkwright import events, storage
from sparkwright.errors import InputError, WorkerError
from sparkwright.events import EpochEnded
from sparkwright.training.checkpoints import CHECKPOINT_S, Checkpoints, Paused, newest, training_fingerprint
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import Outcome, training_steps
from sparkwright.training.loop import cpu_threads, finished
from sparkwright.training.replica.allocation import freed_memory_kept
from sparkwright.training.replica.replica import Replica
from sparkwright.training.rows.population import Population
from sparkwright.training.rows.store import Rows
from sparkwright.training.subject import Head, Subject, WholeNetwork
from sparkwright.training.transports.in_process import InProcess
from sparkwright.tuning.costs import measure_costs
from sparkwright.tuning.shared_pass import structure_key, train_together
from sparkwright.tuning.space import configure
from sparkwright.tuning.time_limit import limited
from sparkwright.tuning.trial_rows import TrialRows
from sparkwright.tuning.trials import Assignment, Measurement

__all__ = ["TRIALS", "TrialSetting", "augmented", "train_trials"]

TRIALS = "trials"
"""Folder of the trials' checkpoints in that of the search."""


@dataclass(frozen=True)
class TrialSetting:
    """What all trials of a search have in common; small enough to travel in every job.

    Args:
        base: What holds where a trial's values say nothing.
        folder: Of the trials' checkpoints, which driver and workers share.
        costs: What is measured besides the metrics: ``"parameters"``, ``"seconds_per_row"``.
        shared: Whether heads train over one stream of batches, where they can.
        checkpoint_s: Seconds between two checkpoints of a trial on its way.
    """

    base: TrainingConfig
    folder: str
    costs: tuple[str, ...] = ()
    shared: bool = False
    checkpoint_s: float = CHECKPOINT_S

    def config(self, values: Mapping[str, Any], epochs: int | None = None, seed: int | None = None) -> TrainingConfig:
        """Return how a trial of some values trains: without what comes after the best epoch is chosen.

        Raises:
            InputError: A training cannot be configured like this.
        """
        length = {} if epochs is None else {"epochs": epochs}
        own = configure(self.base.replace(**length), values)
        own = own.replace(monitor=own.monitored, refit=False, calibrate=False, threshold_metric=None)
        return own if seed is None else own.replace(seed=seed)

    def checkpoints(self, assignment: Assignment) -> str:
        """Return where a trial is kept; of several folds or seeds each has its own."""
        name = f"{assignment.trial:05d}" + (f"-fold-{assignment.fold}" if assignment.fold else "")
        return storage.join(self.folder, name + (f"-seed-{assignment.seed}" if assignment.seed is not None else ""))

    def drop(self, trial: int) -> None:
        """Remove what is kept of a trial."""
        for name in storage.list_files(self.folder):
            if name.split("-")[0] == f"{trial:05d}":
                storage.remove(storage.join(self.folder, name))


def train_trials(
    assignments: Sequence[Assignment],
    rows: TrialRows,
    setting: TrialSetting,
    subject: Subject,
    over: Event | None = None,
) -> list[Measurement]:
    """Do the assignments of a job, in this process; return what each measured, in their order.

    What is a trial's own fault is in its measurement. With a seed of its own, weights, order and dropout are other
    ones; rows stay with their fold and replica. After the epoch in which the search is `over` nothing is trained.

    Raises:
        CancelledError: The search is over.
        WorkerError: A trial's last checkpoint is damaged, and was given up.
        OSError: What is kept of a trial cannot be read or written.
    """
    tasks = [_Task(assignment, setting, over or Event()) for assignment in assignments]
    passes: dict[tuple[str | None, int], list[_Task]] = {}
    for task in tasks:
        try:
            task.prepare(rows, subject)
        except Exception as error:
            task.fail(error)
            continue
        # How a trial's sums round must not depend on which others there are: it may also have a pass to itself.
        key = structure_key(task.config) if setting.shared and isinstance(task.subject, Head) else None
        if key is None:
            task.train(rows)
        else:
            passes.setdefault((key, task.assignment.fold), []).append(task)
    for sharing in passes.values():
        _train_shared(sharing, rows)
    return [task.measured() for task in tasks]


def _train_shared(tasks: Sequence["_Task"], rows: TrialRows) -> None:
    """Train heads over one stream of batches."""
    first = tasks[0]
    ended = train_together(
        [task.config for task in tasks],
        first.population,
        first.rows,
        [task.emit for task in tasks],
        [task.kept for task in tasks],
        cast(Head, first.subject),
        rows.moments(first.config, first.subject, first.assignment.fold),
        [task.assignment.limit_s for task in tasks],
    )
    for task, each in zip(tasks, ended, strict=True):
        task.seconds += each.seconds
        task.end(each.outcome)


class _Task:
    """One assignment on its way to a measurement.

    Args:
        assignment: What to do.
        setting: Of the search.
        over: Set when nobody waits for it any more.
    """

    config: TrainingConfig
    subject: Subject
    population: Population
    rows: dict[int, Rows]
    kept: Checkpoints

    def __init__(self, assignment: Assignment, setting: TrialSetting, over: Event) -> None:
        self.assignment = assignment
        self._over = over
        self.seconds = 0.0
        self._setting = setting
        self._uri = setting.checkpoints(assignment)
        self._told: list[EpochEnded] = []
        self._best_epoch = 0
        self._ended = False
        self._failure = ""
        self._costs: dict[str, float] = {}

    def prepare(self, rows: TrialRows, subject: Subject) -> None:
        """Find out what is trained on what, and where it goes on.

        Raises:
            InputError: It cannot be trained like this.
        """
        began, values, setting = time.perf_counter(), self.assignment.values, self._setting
        self.config = setting.config(values, self.assignment.epochs, self.assignment.seed)
        self.subject = augmented(subject, values)
        self.population, self.rows = rows.trial(self.config, self.assignment.fold)
        costs = setting.costs if self.assignment.costs else ()
        self._costs = measure_costs(costs, self.config, self.population, self.rows, self.subject)
        # Rows and first weights are the search's, whose configuration has been compared already.
        fingerprint = training_fingerprint(self.config, {"values": values})
        begin = newest(self._uri)
        self.kept = Checkpoints(self._uri, begin, setting.checkpoint_s, fingerprint, self.assignment.until)
        self.seconds = time.perf_counter() - began

    def train(self, rows: TrialRows) -> None:
        """Train until the pause or the end; what goes wrong is noted."""
        began = time.perf_counter()
        try:
            moments = None if self.kept.begin else rows.moments(self.config, self.subject, self.assignment.fold)
            transport = InProcess(self.config.replicas)
            own = (self.population, self.rows, transport, self.emit, self.kept, self.subject, Replica, moments)
            steps = limited(training_steps(self.config, *own), self.assignment.limit_s, time.perf_counter)
            with cpu_threads(self.config.threads), freed_memory_kept():
                self.end(finished(steps))
        except (Paused, Exception) as end:
            self.end(end)
        self.seconds += time.perf_counter() - began

    def emit(self, event: events.Event) -> None:
        """Note an epoch."""
        if self._over.is_set():
            raise CancelledError("The search is over.")
        if isinstance(event, EpochEnded):
            self._told.append(event)

    def end(self, outcome: Outcome | Paused | Exception) -> None:
        """Take what the training ended with."""
        if isinstance(outcome, Exception):
            self.fail(outcome)
            return
        self._told, self._best_epoch = outcome.history, outcome.best_epoch
        self._ended = isinstance(outcome, Outcome)

    def fail(self, error: Exception) -> None:
        """Take what went wrong, if it would do so again; else raise it."""
        if isinstance(error, WorkerError | OSError | CancelledError):
            raise error
        self._failure = f"{_kind(error)}: {error}"

    def measured(self) -> Measurement:
        """Return what came of it; a trial that will not go on is no longer kept."""
        if self._ended or self._failure:
            storage.remove(self._uri)
        best = self._told[self._best_epoch - 1].validation if self._best_epoch else {}
        return Measurement(
            self.assignment.trial,
            self.assignment.fold,
            self._told[-1].epoch if self._told else 0,
            self._ended,
            self._told,
            self._best_epoch,
            {} if self._failure else {**best, **self._costs},
            self.seconds,
            self._failure,
            f"{socket.gethostname()}/{os.getpid()}",
        )


def augmented(subject: Subject, values: Mapping[str, Any]) -> Subject:
    """Return the subject with a trial's augmentation.

    Raises:
        InputError: It takes no photos.
    """
    if "augmentation" not in values:
        return subject
    if not isinstance(subject, WholeNetwork):
        raise InputError(
            "`augmentation` changes photos while a whole network trains on them; here a head trains on features. Leave "
            "it out of the space."
        )
    return replace(subject, body=subject.body.with_augmentation(values["augmentation"]))


def _kind(error: Exception) -> str:
    """Return the name of what went wrong; torch's errors of too little memory are called as Python's."""
    told = str(error)
    if isinstance(error, RuntimeError) and ("out of memory" in told or "allocate memory" in told):
        return "MemoryError"
    return "MemoryError" if isinstance(error, MemoryError) else type(error).__name__
