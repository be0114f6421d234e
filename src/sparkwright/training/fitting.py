"""Train on rows: select the best epoch on the validation rows, calibrate, then, if asked, train again on all.

It runs in every process of a training, with the rows of the replicas hosted there.
"""

import base64
import dataclasses
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparkwright.events import (
    Emit,
    EpochEnded,
    Event,
    PhotosAugmented,
    Progress,
    StageEnded,
    StageStarted,
    Warned,
    ignore,
)
from sparkwright.training.calibration import find_temperature
from sparkwright.training.checkpoints import Checkpoints, Snapshot
from sparkwright.training.config import TrainingConfig
from sparkwright.training.contact_sheet import contact_sheet
from sparkwright.training.loop import Fitted, Loop, Place, cpu_threads, finished
from sparkwright.training.replica.allocation import freed_memory_kept
from sparkwright.training.replica.batch_norm import COUNTER
from sparkwright.training.replica.replica import Replica, Shard
from sparkwright.training.replica.schedule import as_it_was
from sparkwright.training.rows.encoding import TRAIN, VALIDATION
from sparkwright.training.rows.moments import Moments, measure_moments
from sparkwright.training.rows.population import Population
from sparkwright.training.rows.readers import Reader
from sparkwright.training.rows.store import Rows
from sparkwright.training.rows.targets import targets_of
from sparkwright.training.strategies import make_strategy
from sparkwright.training.subject import Head, Subject
from sparkwright.training.sync_interval import choose_sync_interval
from sparkwright.training.tasks import Several, Task, Weighted, class_factors, make_factors, make_task
from sparkwright.training.thresholds import find_thresholds
from sparkwright.training.transports._base import Transport

__all__ = ["EpochsAsProgress", "Outcome", "moments_of", "train_rows", "training_steps"]


@dataclass(frozen=True)
class Outcome:
    """What every process of a training ends with, the same in each.

    Attributes:
        weights: Of what was trained, by name.
        best_epoch: The epoch that the validation rows chose; the last one without them.
        history: One event for each epoch of the selection.
        temperature: What the logits were divided by; 1 without calibration.
        sync_every: Steps between two syncs, as asked for or as measured.
        thresholds: From which probability on a label is predicted; empty: as usual.
        seconds: Of the selection and of the refit.
    """

    weights: dict[str, NDArray[np.float32]]
    best_epoch: int
    history: list[EpochEnded]
    temperature: float
    sync_every: int
    thresholds: tuple[float, ...]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Selection:
    """What the refit must know of the selection.

    Attributes:
        best_epoch: As in `Outcome`.
        history: As in `Outcome`.
        temperature: As in `Outcome`.
        sync_every: As in `Outcome`.
        thresholds: As in `Outcome`.
    """

    best_epoch: int
    history: list[EpochEnded]
    temperature: float
    sync_every: int
    thresholds: tuple[float, ...]

    def to_notes(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_notes(notes: Mapping[str, Any]) -> "Selection":
        """Rebuild from `to_notes`, among other notes."""
        history = [EpochEnded(**event) for event in notes["history"]]
        thresholds = tuple(notes["thresholds"])
        return Selection(notes["best_epoch"], history, notes["temperature"], notes["sync_every"], thresholds)


def train_rows(
    config: TrainingConfig,
    population: Population,
    rows: Mapping[int, Rows],
    transport: Transport,
    emit: Emit = ignore,
    checkpoints: Checkpoints | None = None,
    subject: Subject | None = None,
    moments: Moments | None = None,
) -> Outcome:
    """Train the replicas hosted here; a collective call.

    Args:
        config: How.
        population: What all rows are together.
        rows: Of each hosted replica.
        transport: To the other processes.
        emit: What takes events; give one in rank 0's process only.
        checkpoints: Where the training is kept, and goes on from if it is there already.
        subject: What is trained, from its first weights, selection and refit alike; None: a head.
        moments: What `moments_of` gives for the training rows; None measures them.

    Raises:
        NotFiniteError: The loss is not finite.
        Paused: `checkpoints` want it so after an epoch that is not the last.
        InputError: `checkpoints` holds another training; `subject` takes rows of another shape.
    """
    begins = checkpoints is None or checkpoints.begin is None
    if begins and subject is not None and emit is not ignore and (sheet := contact_sheet(subject.reader, rows)):
        emit(PhotosAugmented(base64.b64encode(sheet).decode()))
    steps = training_steps(config, population, rows, transport, emit, checkpoints, subject, moments=moments)
    with cpu_threads(config.threads), freed_memory_kept():
        return finished(steps)


def training_steps(
    config: TrainingConfig,
    population: Population,
    rows: Mapping[int, Rows],
    transport: Transport,
    emit: Emit = ignore,
    checkpoints: Checkpoints | None = None,
    subject: Subject | None = None,
    replica: Callable[..., Replica] = Replica,
    moments: Moments | None = None,
) -> Generator[Place, None, Outcome]:
    """Do what `train_rows` does from sync to sync; before each stretch, yield where the training is.

    For trainings that take turns in one process; threads and memory are up to who drives them.

    Args:
        config: As in `train_rows`, and likewise the next six.
        population: What all rows are together.
        rows: Of each hosted replica.
        transport: To the other processes.
        emit: What takes events.
        checkpoints: Where the training is kept.
        subject: What is trained.
        replica: What makes the replicas (`sparkwright.training.loop.Loop`).
        moments: What `moments_of` gives for the training rows; None measures them.
    """
    subject, started = subject or Head(), time.perf_counter()
    config = subject.named(config)
    saved = checkpoints.load(transport.hosted) if checkpoints else None
    if checkpoints and checkpoints.warnings:
        emit(
            Warned(
                "The checkpoint was made elsewhere, so the result may differ in its last bits from one that was never "
                f"stopped (there → now): {'; '.join(checkpoints.warnings)}."
            )
        )
    if population.unseen:
        emit(Warned(_unseen(population.unseen)))
    for remark, count in population.census.remarks.items():
        emit(Warned(f"{count:,} {remark}."))
    seconds: dict[str, float] = {}
    if saved is None or saved.phase == "selection":
        validation = VALIDATION if population.validated else None
        own = (config, population, rows, transport, [TRAIN], validation, emit, checkpoints, saved, subject)
        fitted = yield from _fit(*own, replica=replica, moments=moments)
        saved = None
        temperature, thresholds = 1.0, tuple[float, ...]()
        if population.classes and population.validated:
            shards = _shards(config, population, rows, [VALIDATION], subject.reader)
            if config.calibrate and config.link != "sequential" and subject.output(fitted.module) is not None:
                temperature = find_temperature(fitted.module, shards, transport, config.link)
            if config.threshold_metric is not None:
                wanted = (config.threshold_metric, config.link, temperature)
                thresholds = find_thresholds(fitted.module, shards, transport, *wanted)
        selection = Selection(fitted.epoch, fitted.history, temperature, fitted.sync_every, thresholds)
        seconds["selection"] = time.perf_counter() - started
    else:
        selection = Selection.from_notes(saved.facts["notes"])
    if config.refit and population.validated:
        started = time.perf_counter()
        emit(StageStarted("refit", total=selection.best_epoch, unit="epochs"))
        progress = EpochsAsProgress(emit, "refit")
        # The rate falls to its end within the best number of epochs: stopped midway it would leave noisy weights.
        again = as_it_was(config, selection.history, selection.best_epoch).replace(
            sync_every=selection.sync_every, time_limit_s=None
        )
        sides, notes = [TRAIN, VALIDATION], selection.to_notes()
        own = (again, population, rows, transport, sides, None, progress, checkpoints, saved, subject)
        fitted = yield from _fit(*own, notes, replica)
        seconds["refit"] = time.perf_counter() - started
        emit(StageEnded("refit", seconds["refit"], rows=fitted.history[-1].rows))
    output = subject.output(fitted.module)
    if selection.temperature != 1 and output is not None:
        _divide(output, selection.temperature)
    weights = {
        name: value.detach().cpu().numpy().copy()
        for name, value in fitted.module.state_dict().items()
        if not name.endswith(COUNTER)
    }
    return Outcome(weights, **vars(selection), seconds=seconds)


def _fit(
    config: TrainingConfig,
    population: Population,
    rows: Mapping[int, Rows],
    transport: Transport,
    sides: Sequence[int],
    validation: int | None,
    emit: Emit,
    checkpoints: Checkpoints | None,
    saved: Snapshot | None,
    subject: Subject,
    notes: Mapping[str, Any] | None = None,
    replica: Callable[..., Replica] = Replica,
    moments: Moments | None = None,
) -> Generator[Place, None, Fitted]:
    """Train from the first weights on, on the rows of some sides."""
    if saved is not None:
        moments = Moments.from_notes(saved.facts["notes"]["moments"])
    elif moments is None:
        moments = moments_of(config, population, rows, transport, subject, sides)
    task = _task(config, population, moments, sides)
    module = subject.module(config, population, task, moments)
    # Weights of mean 1 leave the rate's meaning as it is without them.
    scale = moments.rows / moments.weight if moments.weight > 0 else 1.0
    train = _shards(config, population, rows, sides, subject.reader, scale)
    if config.sampling == "balanced":
        counts, _ = _factors(config, population, sides)
        shares = torch.from_numpy(class_factors("balanced", population.classes, counts))
        train = {replica: dataclasses.replace(own, share_N=shares[own.y_N]) for replica, own in train.items()}
    phase = "selection" if notes is None else "refit"
    if config.sync_every == "auto":
        run = checkpoints.uri.rpartition("/")[0] if checkpoints else None
        every = (
            saved.facts["notes"]["sync_every"]
            if saved is not None
            else choose_sync_interval(config, task, module, train, transport, run, emit)
        )
        config = config.replace(sync_every=every)
    notes = {**(notes or {}), "moments": moments.to_notes(), "sync_every": config.sync_every}
    loop = Loop(config, task, make_strategy(config), transport, emit, checkpoints, phase, notes, replica)
    validated = None if validation is None else _shards(config, population, rows, [validation], subject.reader)
    fitted = yield from loop.steps(module, train, validated, saved)
    task.finish(cast(nn.Linear, subject.output(fitted.module)))
    return fitted


def moments_of(
    config: TrainingConfig,
    population: Population,
    rows: Mapping[int, Rows],
    transport: Transport,
    subject: Subject,
    sides: Sequence[int] = (TRAIN,),
) -> Moments:
    """Return the moments of some sides' rows, weighted as the training weights them; a collective call.

    They depend on `class_weights` and `standardise`, on nothing else of the configuration.
    """
    if config.outputs is not None:
        return _moments_of_outputs(config, population, rows, transport, subject, sides)
    weights = {replica: own.weight for replica, own in rows.items()}
    if config.task == "classification":
        _, factors = _factors(config, population, sides)
        weights = {
            replica: own.weight * factors[targets_of(own, population, config).numpy()] for replica, own in rows.items()
        }
    return measure_moments(rows, sides, weights, transport, features=subject.standardises(config))


def _moments_of_outputs(
    config: TrainingConfig,
    population: Population,
    rows: Mapping[int, Rows],
    transport: Transport,
    subject: Subject,
    sides: Sequence[int],
) -> Moments:
    """Return the moments of all rows without targets, and of each of several outputs those of the rows that it has."""
    plain = {replica: dataclasses.replace(own, target=np.zeros(len(own.key))) for replica, own in rows.items()}
    weights = {replica: own.weight for replica, own in rows.items()}
    found = {}
    for place, (name, own) in enumerate(config.parts.items()):
        mine = {replica: each.of_output(place, name) for replica, each in rows.items()}
        alone = own.replace(standardise=False)  # features are measured once
        found[name] = moments_of(alone, population.outputs[name], mine, transport, Head(), sides)
    whole = measure_moments(plain, sides, weights, transport, features=subject.standardises(config))
    return dataclasses.replace(whole, outputs=found)


def _task(config: TrainingConfig, population: Population, moments: Moments, sides: Sequence[int]) -> Task:
    """Return what is learnt on the rows of some sides."""
    if config.outputs is None:
        return make_task(config, _factors(config, population, sides)[1], moments)
    parts = {}
    for name, own in config.parts.items():
        measured = moments.outputs[name]
        share = moments.weight / measured.weight if measured.weight > 0 else 1.0
        parts[name] = Weighted(
            _task(own, population.outputs[name], measured, sides), config.output_weights[name], share
        )
    return Several(parts)


def _factors(
    config: TrainingConfig, population: Population, sides: Sequence[int]
) -> tuple[dict[str, int], NDArray[np.float32]]:
    """Return label → rows on some sides, and the weight of each class or label."""
    names = ("train",) if len(sides) == 1 else ("train", "validation")
    counts, total = population.label_counts(names), sum(population.census.rows[name] for name in names)
    return counts, make_factors(config, population.classes, counts, total)


def _shards(
    config: TrainingConfig,
    population: Population,
    rows: Mapping[int, Rows],
    sides: Sequence[int],
    reader: Reader,
    scale: float = 1.0,
) -> dict[int, Shard]:
    """Return the rows of some sides, with their weights times `scale`, of each replica."""
    return {
        replica: Shard(
            own.x,
            targets_of(own, population, config),
            torch.from_numpy(own.weight) * scale,
            own.order(sides),
            own.key,
            reader,
        )
        for replica, own in rows.items()
    }


def _unseen(labels: Mapping[str, int]) -> str:
    """Say which labels only validation rows have."""
    rows, named = sum(labels.values()), ", ".join(sorted(labels)[:10])
    what = "validation row has a label" if rows == 1 else "validation rows have labels"
    return f"{rows:,} {what} that no training row has ({named}), so the model cannot learn it."


def _divide(layer: nn.Module, temperature: float) -> None:
    """Divide the outputs of a linear layer, in place."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.div_(temperature)


@dataclass(frozen=True)
class EpochsAsProgress:
    """Turns the epochs of a training into progress of a stage, where a run's curves are those of another training."""

    emit: Emit
    stage: str

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            event = Progress(self.stage, "0", done=event.epoch)
        self.emit(event)
