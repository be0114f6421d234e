"""What one assignment does: rows of its fold, a training up to an epoch, and what that measured.

A trial trains as `fit_table` does with its configuration, on the same rows, to the same bits. Where it is paused it is
kept in the run as any training is, so that any worker may go on with it:

    RUN/tuning/trials/00012/             checkpoints of trial 12, until it ends
    RUN/tuning/trials/00012-fold-1/      those of its second fold
"""

import os
import socket
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from sparkwright import storage
from sparkwright.errors import InputError, WorkerError
from sparkwright.events import EpochEnded, Event
from sparkwright.training.checkpoints import CHECKPOINT_S, Checkpoints, Paused, newest, training_fingerprint
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import train_rows
from sparkwright.training.loop import cpu_threads
from sparkwright.training.rows.encoding import TRAIN
from sparkwright.training.rows.moments import Moments
from sparkwright.training.rows.population import Population
from sparkwright.training.rows.readers import forward
from sparkwright.training.rows.store import Rows
from sparkwright.training.subject import Subject, WholeNetwork
from sparkwright.training.tasks import make_factors, make_task
from sparkwright.training.transports.in_process import InProcess
from sparkwright.tuning.space import configure
from sparkwright.tuning.trial_rows import TrialRows
from sparkwright.tuning.trials import Assignment, Measurement

__all__ = ["TRIALS", "TrialSetting", "count_parameters", "train_trial", "train_trials"]

TRIALS = "trials"
"""Folder of the trials' checkpoints in that of the search."""

_TIMED = 5  # passes, of which the median counts


@dataclass(frozen=True)
class TrialSetting:
    """What all trials of a search have in common; small enough to travel in every job.

    Args:
        base: What holds where a trial's values say nothing.
        folder: Of the trials' checkpoints, which driver and workers share.
        costs: What is measured besides the metrics: ``"parameters"``, ``"seconds_per_row"``.
        checkpoint_s: Seconds between two checkpoints of a trial on its way.
    """

    base: TrainingConfig
    folder: str
    costs: tuple[str, ...] = ()
    checkpoint_s: float = CHECKPOINT_S

    def config(self, values: Mapping[str, Any], epochs: int | None = None, seed: int | None = None) -> TrainingConfig:
        """Return how a trial of some values trains: without what comes after the best epoch is chosen.

        Raises:
            InputError: A training cannot be configured like this.
        """
        length = {} if epochs is None else {"epochs": epochs}
        own = configure(self.base.replace(**length, refit=False, calibrate=False, threshold_metric=None), values)
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
    assignments: Sequence[Assignment], rows: TrialRows, setting: TrialSetting, subject: Subject
) -> list[Measurement]:
    """Do the assignments of a job; what each measured, in their order. See `train_trial`."""
    return [train_trial(assignment, rows, setting, subject) for assignment in assignments]


def train_trial(assignment: Assignment, rows: TrialRows, setting: TrialSetting, subject: Subject) -> Measurement:
    """Do an assignment, in this process; what is the trial's own fault is in the measurement.

    With a seed of its own, weights, order and dropout are other ones; rows stay with their fold and replica.

    Raises:
        WorkerError: The trial's last checkpoint is damaged, and was given up.
        OSError: What is kept of it cannot be read or written.
    """
    begin = _Stopwatch()
    told: list[EpochEnded] = []
    try:
        ended, history, best_epoch, costs = _train(assignment, rows, setting, subject, told)
    except (WorkerError, OSError):
        raise
    except Exception as error:  # all else would come again
        storage.remove(setting.checkpoints(assignment))
        reason, epoch = f"{_kind(error)}: {error}", told[-1].epoch if told else 0
        return Measurement(assignment.trial, assignment.fold, epoch, history=told, failure=reason, **begin.times())
    values = {**(history[best_epoch - 1].validation if best_epoch else {}), **costs}
    if ended:
        storage.remove(setting.checkpoints(assignment))
    return Measurement(
        assignment.trial, assignment.fold, len(history), ended, history, best_epoch, values, **begin.times()
    )


def _train(
    assignment: Assignment, rows: TrialRows, setting: TrialSetting, subject: Subject, told: list[EpochEnded]
) -> tuple[bool, list[EpochEnded], int, dict[str, float]]:
    """Return whether the trial has ended, its epochs, the best of them, and what it costs; `told` gets new epochs."""
    config = setting.config(assignment.values, assignment.epochs, assignment.seed)
    subject = augmented(subject, assignment.values)
    population, own = rows.trial(config, assignment.fold)
    costs = _costs(setting.costs, config, population, own, subject)
    uri = setting.checkpoints(assignment)
    # Rows and first weights are the search's: the run's configuration has been compared already.
    fingerprint = training_fingerprint(config, {"values": assignment.values})
    kept = Checkpoints(uri, newest(uri), setting.checkpoint_s, fingerprint, pause_after=assignment.until)

    def emit(event: Event) -> None:
        if isinstance(event, EpochEnded):
            told.append(event)

    moments = None if kept.begin else rows.moments(config, subject, assignment.fold)
    try:
        outcome = train_rows(config, population, own, InProcess(config.replicas), emit, kept, subject, moments)
    except Paused as paused:
        return False, paused.history, paused.best_epoch, costs
    return True, outcome.history, outcome.best_epoch, costs


def count_parameters(config: TrainingConfig, population: Population, subject: Subject) -> int:
    """Return how many weights a network has, frozen ones included.

    Raises:
        InputError: The rows are of another shape than it takes, or have other classes.
    """
    return sum(parameter.numel() for parameter in _module(config, population, subject).parameters())


def _costs(
    wanted: Sequence[str], config: TrainingConfig, population: Population, rows: Mapping[int, Rows], subject: Subject
) -> dict[str, float]:
    """Return what the network costs, as far as it is asked."""
    found: dict[str, float] = {}
    if "parameters" in wanted:
        found["parameters"] = float(count_parameters(config, population, subject))
    if "seconds_per_row" in wanted:
        found["seconds_per_row"] = _seconds_per_row(config, population, rows, subject)
    return found


def _seconds_per_row(
    config: TrainingConfig, population: Population, rows: Mapping[int, Rows], subject: Subject
) -> float:
    """Return what a forward pass takes for a row of a batch, on the threads of a replica."""
    module, own, reader = _module(config, population, subject).eval(), rows[0], subject.reader
    index = own.order([TRAIN])[: reader.rows_at_once]
    inputs, seconds = reader.batch(own.x.take(index), own.key[index], None), []
    with cpu_threads(config.threads), torch.inference_mode():
        for _ in range(_TIMED + 1):  # the first warms up
            started = time.perf_counter()
            forward(module, inputs)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:]) / len(index)


def _module(config: TrainingConfig, population: Population, subject: Subject) -> torch.nn.Module:
    """Return the network before training, which standardises by nothing."""
    zeros, ones = np.zeros(population.width), np.ones(population.width)
    moments = Moments(1, 1.0, zeros, ones, 0.0, 1.0)
    factors = make_factors(config, population.classes, population.label_counts(("train",)), 1)
    config = subject.named(config)
    with cpu_threads(config.threads):  # which also keeps the process's random numbers
        return subject.module(config, population, make_task(config, factors, moments), moments)


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


@dataclass(frozen=True)
class _Stopwatch:
    """When and where an assignment began."""

    began: float = field(default_factory=time.perf_counter)
    started: float = field(default_factory=time.time)

    def times(self) -> dict[str, Any]:
        """Return what a measurement says of it."""
        seconds = time.perf_counter() - self.began
        where = f"{socket.gethostname()}/{os.getpid()}"
        return {"seconds": seconds, "where": where, "started": self.started, "stopped": self.started + seconds}
