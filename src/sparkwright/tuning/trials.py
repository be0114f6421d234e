"""Values of a search: what a runner is asked for, what it gives back, and what is known of a trial.

A *trial* is one configuration tried. An *assignment* says: train trial n from where it is until an epoch, on one fold.
A *measurement* is what comes back. All of them are plain data that JSON can hold; none needs torch, Spark or Optuna.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, Self

from sparkwright.events import EpochEnded

__all__ = ["Assignment", "Job", "Measurement", "State", "Trial"]

State = Literal["running", "paused", "complete", "stopped", "failed", "rejected"]
"""Where a trial is: at work or waiting for it, at a rung, trained to its end, left at a rung for good, broken by a
fault of its own, or refused before its training."""


@dataclass(frozen=True)
class Assignment:
    """Train trial `trial` from where it is until `until` epochs are done.

    Attributes:
        trial: The trial's number.
        values: What the trial sets, by names of `TrainingConfig`'s fields; JSON can hold it.
        until: Epochs after which it pauses, or ends.
        epochs: The trial's whole length: what schedules stretch over.
        fold: Which of the folds validates.
        seed: Of the training; None: the search's.
        costs: Whether its network's costs are measured, if they are asked for: once for a trial is enough, and a limit
            that it has kept it keeps.
        attempt: How often this was assigned, from 1: more after a lost worker.
        limit_s: Seconds that training may take; one that takes longer fails. None: any time.
    """

    trial: int
    values: dict[str, Any]
    until: int
    epochs: int
    fold: int = 0
    seed: int | None = None
    costs: bool = True
    attempt: int = 1
    limit_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`."""
        return cls(**data)


@dataclass(frozen=True)
class Measurement:
    """What an assignment gave.

    Attributes:
        trial: The trial's number.
        fold: Which of the folds validated.
        epoch: Epochs that the trial has now done.
        ended: Whether nothing is left to train: all epochs are done, or the patience is at its end.
        history: All epochs so far, those of earlier assignments too.
        best_epoch: The best of them, from 1; 0 if there is none.
        values: The validation metrics at the best epoch; ``"parameters"`` and ``"seconds_per_row"`` too where they were
            asked for.
        seconds: What this assignment took.
        failure: Why the trial cannot be trained, as ``"NotFiniteError: …"``: a fault of its own, which would come
            again; empty if all is well.
        where: What trained it, such as ``"host/pid"``: one name for each slot.
        started: When its job began, in seconds of the search.
        stopped: When its job ended.
    """

    trial: int
    fold: int = 0
    epoch: int = 0
    ended: bool = False
    history: list[EpochEnded] = field(default_factory=list, repr=False)
    best_epoch: int = 0
    values: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""
    where: str = ""
    started: float = 0.0
    stopped: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`."""
        return cls(**{**data, "history": [EpochEnded(**epoch) for epoch in data["history"]]})


@dataclass(frozen=True)
class Job:
    """When and where an assignment ran: what a chart of the slots draws."""

    fold: int
    until: int
    where: str
    started: float
    stopped: float


@dataclass
class Trial:
    """One configuration tried, and what is known of it.

    Attributes:
        number: From 0, in the order in which trials began.
        values: What it sets, by names of `TrainingConfig`'s fields.
        state: See `State`.
        reason: Why it is failed, rejected or stopped.
        folds: The newest measurement of each fold, in the folds' order.
        value: The first objective: mean over the folds, each at its best epoch so far; None before it is measured.
        metrics: Metric → mean over the folds, likewise; and ``"parameters"``, the weights that it trains.
        rungs: Epoch → `value` there: what trials were compared by.
        seconds: What all its assignments took.
        attempts: Assignments that ran, those that a lost worker took along too.
        jobs: When and where they ran; those that were lost left no record.
    """

    number: int
    values: dict[str, Any]
    state: State = "running"
    reason: str = ""
    folds: list[Measurement] = field(default_factory=list, repr=False)
    value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    rungs: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: int = 0
    jobs: list[Job] = field(default_factory=list, repr=False)

    @property
    def epochs(self) -> int:
        """Epochs trained, those of all folds together."""
        return sum(fold.epoch for fold in self.folds)

    @property
    def best_epoch(self) -> int:
        """The best epoch, from 1; of several folds the mean; 0 before the first is measured."""
        return round(fmean(fold.best_epoch for fold in self.folds)) if self.folds else 0

    @property
    def history(self) -> list[EpochEnded]:
        """The epochs so far; of several folds the losses and metrics are means, as far as all of them have come."""
        histories = [fold.history for fold in self.folds]
        if len(histories) < 2:
            return list(histories[0]) if histories else []
        return [_mean(epochs) for epochs in zip(*histories, strict=False)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        data = dataclasses.asdict(self)
        return {**data, "rungs": {str(epoch): value for epoch, value in self.rungs.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`."""
        return cls(
            **{
                **data,
                "folds": [Measurement.from_dict(fold) for fold in data["folds"]],
                "rungs": {int(epoch): value for epoch, value in data["rungs"].items()},
                "jobs": [Job(**job) for job in data["jobs"]],
            }
        )


def _mean(epochs: tuple[EpochEnded, ...]) -> EpochEnded:
    """Return one epoch of several folds as one event: means of losses and metrics, the first's everything else."""
    first = epochs[0]
    return dataclasses.replace(
        first,
        train_loss=fmean(epoch.train_loss for epoch in epochs),
        validation=_means([epoch.validation for epoch in epochs]),
        training=_means([epoch.training for epoch in epochs]),
        seconds=sum(epoch.seconds for epoch in epochs),
    )


def _means(metrics: list[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(values[name] for values in metrics) for name in metrics[0] if all(name in m for m in metrics)}
