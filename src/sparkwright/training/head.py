"""Train a head on rows: select the best epoch on the validation rows, calibrate, then, if asked, train again on all.

It runs in every process of a training, with the rows of the replicas hosted there.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.errors import InputError
from sparkwright.events import Emit, EpochEnded, Event, Progress, StageEnded, StageStarted, Warned, ignore
from sparkwright.networks.mlp import Standardise, mlp
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.training.calibration import find_temperature
from sparkwright.training.checkpoints import Checkpoints, Snapshot
from sparkwright.training.config import TrainingConfig
from sparkwright.training.initial import Initial
from sparkwright.training.loop import Fitted, Loop, cpu_threads
from sparkwright.training.replica import Shard
from sparkwright.training.rows.encoding import TRAIN, VALIDATION
from sparkwright.training.rows.moments import Moments, measure_moments
from sparkwright.training.rows.population import Population
from sparkwright.training.rows.store import Rows
from sparkwright.training.strategies import make_strategy
from sparkwright.training.sync_interval import choose_sync_interval
from sparkwright.training.tasks import Task, make_factors, make_task
from sparkwright.training.transports._base import Transport

__all__ = ["Outcome", "build_head", "train_head"]


@dataclass(frozen=True)
class Outcome:
    """What every process of a training ends with, the same in each.

    Attributes:
        weights: The head's, by name.
        best_epoch: The epoch that the validation rows chose; the last one without them.
        history: One event for each epoch of the selection.
        temperature: What the logits were divided by; 1 without calibration.
        sync_every: Steps between two syncs, as asked for or as measured.
        seconds: Of the selection and of the refit.
    """

    weights: dict[str, NDArray[np.float32]]
    best_epoch: int
    history: list[EpochEnded]
    temperature: float
    sync_every: int
    seconds: dict[str, float]


@dataclass(frozen=True)
class Selection:
    """What the refit must know of the selection.

    Attributes:
        best_epoch: As in `Outcome`.
        history: As in `Outcome`.
        temperature: As in `Outcome`.
        sync_every: As in `Outcome`.
    """

    best_epoch: int
    history: list[EpochEnded]
    temperature: float
    sync_every: int

    def to_notes(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_notes(notes: Mapping[str, Any]) -> "Selection":
        """Rebuild from `to_notes`, among other notes."""
        history = [EpochEnded(**event) for event in notes["history"]]
        return Selection(notes["best_epoch"], history, notes["temperature"], notes["sync_every"])


def build_head(config: TrainingConfig, width: int, outputs: int) -> TorchNetwork:
    """Return the head before training: standardisation (mean 0, factor 1, if asked), hidden layers, output."""
    neutral = {"mean": np.zeros(width), "scale": np.ones(width)} if config.standardise else {}
    return mlp(width, outputs, config.hidden, config.activation, config.dropped, config.seed, **neutral)


def train_head(
    config: TrainingConfig,
    population: Population,
    rows: Mapping[int, Rows],
    transport: Transport,
    emit: Emit = ignore,
    checkpoints: Checkpoints | None = None,
    initial: Initial | None = None,
) -> Outcome:
    """Train the replicas hosted here; a collective call.

    Args:
        config: How.
        population: What all rows are together.
        rows: Of each hosted replica.
        transport: To the other processes.
        emit: What takes events; give one in rank 0's process only.
        checkpoints: Where the training is kept, and goes on from if it is there already.
        initial: What the head begins with, selection and refit alike; None draws its weights.

    Raises:
        NotFiniteError: The loss is not finite.
        InputError: `checkpoints` holds another training; `initial` is for rows of another width.
    """
    started = time.perf_counter()
    saved = checkpoints.load(transport.hosted) if checkpoints else None
    if checkpoints and checkpoints.warnings:
        emit(
            Warned(
                "The checkpoint was made elsewhere, so the result may differ in its last bits from one that was never "
                f"stopped (there → now): {'; '.join(checkpoints.warnings)}."
            )
        )
    seconds: dict[str, float] = {}
    with cpu_threads(config.threads):
        if saved is None or saved.phase == "selection":
            validation = VALIDATION if population.validated else None
            fitted = _fit(config, population, rows, transport, [TRAIN], validation, emit, checkpoints, saved, initial)
            saved = None
            temperature = 1.0
            if config.calibrate and population.classes and population.validated:
                temperature = find_temperature(fitted.module, _shards(rows, population, [VALIDATION]), transport)
            selection = Selection(fitted.epoch, fitted.history, temperature, fitted.sync_every)
            seconds["selection"] = time.perf_counter() - started
        else:
            selection = Selection.from_notes(saved.facts["notes"])
        if config.refit and population.validated:
            started = time.perf_counter()
            emit(StageStarted("refit", total=selection.best_epoch, unit="epochs"))
            progress = _RefitProgress(emit)
            # The rate falls to its end within the best number of epochs: stopped midway it would leave noisy weights.
            again = config.replace(epochs=selection.best_epoch, sync_every=selection.sync_every, time_limit_s=None)
            sides, notes = [TRAIN, VALIDATION], selection.to_notes()
            fitted = _fit(again, population, rows, transport, sides, None, progress, checkpoints, saved, initial, notes)
            seconds["refit"] = time.perf_counter() - started
            emit(StageEnded("refit", seconds["refit"], rows=fitted.history[-1].rows))
        if selection.temperature != 1:
            _divide(fitted.module.get_submodule("output"), selection.temperature)
        weights = {name: value.detach().numpy().copy() for name, value in fitted.module.state_dict().items()}
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
    initial: Initial | None,
    notes: Mapping[str, Any] | None = None,
) -> Fitted:
    """Train one head from the start, on the rows of some sides."""
    names = ("train",) if len(sides) == 1 else ("train", "validation")
    counts, total = population.label_counts(names), sum(population.census.rows[name] for name in names)
    factors = make_factors(config, population.classes, counts, total)
    weights = {replica: own.weight for replica, own in rows.items()}
    if config.task == "classification":
        weights = {
            replica: own.weight * factors[_targets(own, population.classes).numpy()] for replica, own in rows.items()
        }
    moments = (
        Moments.from_notes(saved.facts["notes"]["moments"])
        if saved is not None
        else measure_moments(rows, sides, weights, transport, features=config.standardise)
    )
    task = make_task(config, factors, moments)
    module = build_head(config, population.width, task.outputs).to_module()
    if initial is not None:
        _begin(module, initial, population.width, task)
    elif config.standardise:
        _standardise(module, moments)
    # Weights of mean 1 leave the rate's meaning as it is without them.
    train = _shards(rows, population, sides, moments.rows / moments.weight if moments.weight > 0 else 1.0)
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
    loop = Loop(config, task, make_strategy(config), transport, emit, checkpoints, phase, notes)
    fitted = loop.fit(module, train, None if validation is None else _shards(rows, population, [validation]), saved)
    task.finish(cast(nn.Linear, fitted.module.get_submodule("output")))
    return fitted


def _shards(
    rows: Mapping[int, Rows], population: Population, sides: Sequence[int], scale: float = 1.0
) -> dict[int, Shard]:
    """Return the rows of some sides, with their weights times `scale`, of each replica."""
    return {
        replica: Shard(
            torch.from_numpy(own.x_NF),
            _targets(own, population.classes),
            torch.from_numpy(own.weight) * scale,
            own.order(sides),
            own.key,
            own.file,
        )
        for replica, own in rows.items()
    }


def _targets(rows: Rows, classes: tuple[str, ...]) -> Tensor:
    """Return class indices, int64, or the numbers of a regression, float64."""
    if not classes:
        return torch.from_numpy(rows.target)
    index = pc.index_in(rows.label, pa.array(classes, pa.string()))
    return torch.from_numpy(index.to_numpy(zero_copy_only=False).astype(np.int64))


def _divide(layer: nn.Module, temperature: float) -> None:
    """Divide the outputs of a linear layer, in place."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.div_(temperature)


def _begin(module: nn.Module, initial: Initial, width: int, task: Task) -> None:
    """Give the head the weights to begin with."""
    if initial.width != width:
        raise InputError(f"The rows have {width} features; the model to go on from takes {initial.width}.")
    module.load_state_dict({name: torch.from_numpy(value) for name, value in initial.weights.items()})
    task.begin(cast(nn.Linear, module.get_submodule("output")))


def _standardise(module: nn.Module, moments: Moments) -> None:
    layer = module.get_submodule("standardise")
    if isinstance(layer, Standardise):
        layer.mean.copy_(torch.from_numpy(moments.mean_F))
        layer.scale.copy_(torch.from_numpy(moments.scale_F))


@dataclass(frozen=True)
class _RefitProgress:
    """Turns the refit's epochs into progress: the curves of a run are those of the selection."""

    emit: Emit

    def __call__(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            event = Progress("refit", "0", done=event.epoch)
        self.emit(event)
