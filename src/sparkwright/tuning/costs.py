"""What a network costs: its weights, and what scoring a row takes."""

import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

from sparkwright.training.config import TrainingConfig
from sparkwright.training.loop import cpu_threads
from sparkwright.training.rows.encoding import TRAIN
from sparkwright.training.rows.moments import Moments
from sparkwright.training.rows.population import Population
from sparkwright.training.rows.readers import forward
from sparkwright.training.rows.store import Rows
from sparkwright.training.subject import Head, Subject
from sparkwright.training.tasks import Task, make_factors, make_task

__all__ = ["count_parameters", "measure_costs"]

_TIMED = 5  # passes, of which the median counts


def count_parameters(config: TrainingConfig, population: Population, subject: Subject) -> int:
    """Return how many weights a network has, frozen ones included. Heads are counted without being made.

    Raises:
        InputError: The rows are of another shape than it takes, or have other classes.
    """
    if isinstance(subject, Head):
        task, _ = _task(config, population)
        widths = (population.width, *config.hidden, task.outputs)
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))
    return sum(parameter.numel() for parameter in _module(config, population, subject).parameters())


def measure_costs(
    wanted: Sequence[str], config: TrainingConfig, population: Population, rows: Mapping[int, Rows], subject: Subject
) -> dict[str, float]:
    """Return what a trial's network costs before its training, as far as it is asked.

    Args:
        wanted: ``"parameters"``, ``"seconds_per_row"``.
        config: How it trains.
        population: What its rows are together.
        rows: Of each of its replicas; those of the one that has most are scored.
        subject: What it trains.
    """
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
    module, reader = _module(config, population, subject).eval(), subject.reader
    own = max(rows.values(), key=lambda each: np.count_nonzero(each.side == TRAIN))  # a replica may have none
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
    config = subject.named(config)
    task, moments = _task(config, population)
    with cpu_threads(config.threads):  # which also keeps the process's random numbers
        return subject.module(config, population, task, moments)


def _task(config: TrainingConfig, population: Population) -> tuple[Task, Moments]:
    """Return the task of a training that has seen no row, and the moments that stand for theirs."""
    moments = Moments(1, 1.0, np.zeros(population.width), np.ones(population.width), 0.0, 1.0)
    factors = make_factors(config, population.classes, population.label_counts(("train",)), 1)
    return make_task(config, factors, moments), moments
