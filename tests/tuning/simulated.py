"""A runner whose trials are a formula, and whose workers are slow, fail or die as a test wants it."""

import math
import random
import threading
import time

from sparkwright.errors import InputError, WorkerError
from sparkwright.events import EpochEnded
from sparkwright.training.config import TrainingConfig
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.runners._base import Runner
from sparkwright.tuning.trials import Measurement

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    "dropout": {"low": 0.0, "high": 0.8},
    "optimizer": ["adamw", "sgd"],
    "momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
    "hidden": [[], [64], [256, 64]],
}


def searching(base=(), **arguments):
    base = TrainingConfig(**({"epochs": 9, "seed": 3, "learning_rate": 0.5, "dropout": 0.1} | dict(base)))
    return TuningConfig(
        **({"space": SPACE, "trials": 20, "min_epochs": 1, "base": base, "objectives": ("loss",)} | arguments)
    )


def loss(values, epoch, fold=0):
    """Best at a learning rate of 0.01 and a dropout of 0.3; larger rates learn faster at first."""
    rate, dropout = values.get("learning_rate", 0.01), values.get("dropout", 0.3)
    settled = 0.1 * (math.log10(rate) + 2) ** 2 + (dropout - 0.3) ** 2 + 0.01 * len(values.get("hidden", ()))
    return settled + 0.5 * math.exp(-epoch * (0.2 + rate)) + 0.01 * fold


class Simulated(Runner):
    """Takes up to `delay_s` an assignment, and loses workers with probability `loses`.

    `fault` is a function of values that says why they cannot be trained; `patience` of values the epoch after which
    they need no more. Notes what it ran, and the most jobs at a time.
    """

    def __init__(self, slots=1, *, delay_s=0.0, loses=0.0, seed=0, fault=None, patience=None, together=1):
        self.slots, self.together = slots, together
        self.jobs, self.most, self.dropped = [], 0, []
        self._delay_s, self._loses = delay_s, loses
        self._draw = random.Random(seed)
        self._fault, self._patience = fault, patience
        self._now = 0
        self._lock = threading.Lock()

    def run(self, assignments):
        with self._lock:
            assert len(assignments) <= self.together
            self._now += 1
            self.most = max(self.most, self._now)
            self.jobs.append(list(assignments))
            delay, lost = self._draw.random() * self._delay_s, self._draw.random() < self._loses
        try:
            time.sleep(delay)
            if lost:
                raise WorkerError("Executor 3 was lost\nwith much more to say")
            return [self._measure(assignment) for assignment in assignments]
        finally:
            with self._lock:
                self._now -= 1

    def _measure(self, assignment):
        values, fold = assignment.values, assignment.fold
        if self._fault is not None and (failure := self._fault(values)):
            return Measurement(assignment.trial, fold, failure=failure)
        until, ended = assignment.until, assignment.until == assignment.epochs
        if self._patience is not None and self._patience(values) <= until:
            until, ended = self._patience(values), True
        losses = [loss(values, epoch, fold) for epoch in range(1, until + 1)]
        history = [
            EpochEnded(number, assignment.epochs, value, [value], {"loss": value})
            for number, value in enumerate(losses, 1)
        ]
        best = min(range(until), key=losses.__getitem__)
        metrics = {"loss": losses[best], "accuracy": 1 - losses[best] / 4}
        moment = time.time()
        return Measurement(
            assignment.trial, fold, until, ended, history, best + 1, metrics, 0.1, "", "host/1", moment, moment + 0.1
        )

    def parameters(self, values):
        if values.get("optimizer") == "lars":
            raise InputError("`optimizer` may not be lars here")
        return 100 + sum(values.get("hidden", ()))

    def drop(self, trial):
        self.dropped.append(trial)

    def close(self):
        pass


class DiedError(Exception):
    """The driver's death: nothing in the search expects it."""


def dying(after):
    """Return a listener to a search that dies with the event of that number."""
    seen = []

    def emit(event):
        seen.append(event)
        if len(seen) == after:
            raise DiedError

    return emit
