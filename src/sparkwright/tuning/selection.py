"""Which configuration a search gives: the best few are trained again with other seeds, and mean and spread decide.

The best trial of a search is lucky as well as good: of many noisy figures it is the highest. So the best few are
trained again, all with the same seeds, none of which is the search's. The rule: **the highest mean minus its standard
error wins** (of a metric to minimise the lowest mean plus it); among equals the one with fewer parameters, then the
one that was tried earlier. A candidate that fails with any seed is not chosen.
"""

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

from sparkwright import storage
from sparkwright.errors import InputError, WorkerError
from sparkwright.evaluation.metrics import wilson_interval
from sparkwright.events import Emit, Progress
from sparkwright.tuning.attempts import ATTEMPTS, is_lost, try_job
from sparkwright.tuning.records import BEGIN_ANEW
from sparkwright.tuning.runners._base import Runner
from sparkwright.tuning.trials import Assignment, Measurement, Trial

__all__ = ["Candidate", "Retraining", "best_trials", "choose", "optimism"]

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Candidate:
    """One of the best configurations, trained again.

    Attributes:
        trial: Its number in the search.
        values: What it sets.
        searched: Its figures in the search, by metric.
        scores: Seed → its figure with that seed; of several folds their mean.
        epochs: The best epoch of each of these trainings, all folds'.
        metrics: Metric → its mean over the seeds.
        parameters: Weights of its network.
        failure: Why it failed with one of the seeds.
    """

    trial: int
    values: dict[str, Any]
    searched: dict[str, float] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    epochs: tuple[int, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    failure: str = ""

    @property
    def mean(self) -> float:
        """Of the scores."""
        return fmean(self.scores.values())

    @property
    def spread(self) -> float:
        """Standard deviation of the scores; 0 of a single one."""
        return stdev(self.scores.values()) if len(self.scores) > 1 else 0.0

    def cautious(self, direction: Direction) -> float:
        """Return what candidates are compared by: the mean, made worse by its standard error."""
        error = self.spread / math.sqrt(len(self.scores))
        return self.mean - error if direction == "max" else self.mean + error

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        figures = {"mean": self.mean, "spread": self.spread} if self.scores else {}
        scores = {str(seed): score for seed, score in self.scores.items()}
        return asdict(self) | {"scores": scores, "epochs": list(self.epochs)} | figures


def best_trials(
    trials: Sequence[Trial], direction: Direction, count: int, max_seconds_per_row: float | None = None
) -> list[Trial]:
    """Return the best trials, each configuration once, the best first.

    Those that were trained to their end come before those that were stopped at a rung, and these before those that were
    stopped at an earlier one: figures of as many epochs are compared. All of them are trained to their end again.

    Args:
        trials: Of a search that is over.
        direction: Whether less or more of their `value` is better.
        count: How many, at most.
        max_seconds_per_row: Trials that score a row more slowly are left out; None leaves out none.

    Raises:
        InputError: No trial has a figure; with what became of them.
    """
    sign = -1 if direction == "max" else 1
    measured = [
        (trial.state != "complete", -trial.epochs, sign * trial.value, trial.number, trial)
        for trial in trials
        if trial.value is not None and math.isfinite(trial.value) and trial.state not in ("failed", "rejected")
        if max_seconds_per_row is None or trial.metrics.get("seconds_per_row", 0.0) <= max_seconds_per_row
    ]
    if not measured:
        raise InputError(
            f"The search found no configuration that can be chosen: {_fates(trials)}. Change its space or its limits, "
            f"and {BEGIN_ANEW}"
        )
    # Patience may have ended a complete one early: it was compared with the others that are complete.
    measured.sort(key=lambda each: (each[0], each[1] if each[0] else 0, *each[2:4]))
    found: dict[str, Trial] = {}
    for *_, trial in measured:
        found.setdefault(json.dumps(trial.values, sort_keys=True), trial)
    return list(found.values())[:count]


def _fates(trials: Sequence[Trial]) -> str:
    """Say what became of trials that cannot be chosen, the most frequent reasons first."""
    if not trials:
        return "no trial was begun"
    counts: dict[str, int] = {}
    for trial in trials:
        fate = f"{trial.state}{f' ({trial.reason})' if trial.reason else ''}"
        counts[fate] = counts.get(fate, 0) + 1
    most = sorted(counts.items(), key=lambda item: -item[1])[:3]
    return "; ".join(f"{count} of {len(trials)} {fate}" for fate, count in most)


@dataclass(frozen=True)
class Retraining:
    """Trains the best configurations again, by the search's runner.

    Attributes:
        runner: Of the search.
        metric: What is compared.
        seeds: Of the trainings.
        folds: Parts of the rows that validate in turn; 1: the validation rows.
        epochs: Of a training.
        limit_s: Seconds that a training may take; None: any time.
        folder: Where finished trainings are kept for a search that is resumed.
        emit: What takes the events: how many trainings are done, and which workers were lost.
    """

    runner: Runner
    metric: str
    seeds: Sequence[int]
    folds: int
    epochs: int
    limit_s: float | None
    folder: str
    emit: Emit

    def run(self, trials: Sequence[Trial]) -> list[Candidate]:
        """Return the candidates, in the order of the trials.

        Raises:
            WorkerError: A training has lost all its workers; a search that goes on tries it again.
        """
        wanted = [
            Assignment(trial.number, trial.values, self.epochs, self.epochs, fold=fold, seed=seed, limit_s=self.limit_s)
            for trial in trials
            for seed in self.seeds
            for fold in range(self.folds)
        ]
        measured = {self._key(each): self._kept(each) for each in wanted}
        missing = [each for each in wanted if measured[self._key(each)] is None]
        self._advanced(len(wanted) - len(missing))
        size = max(1, min(self.runner.together, -(-len(missing) // self.runner.slots)))  # all slots have some
        jobs = [missing[start : start + size] for start in range(0, len(missing), size)]
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(self.runner.slots, "selection")
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            for job, results in zip(jobs, pool.map(self._train, jobs), strict=True):
                measured |= {self._key(each): result for each, result in zip(job, results, strict=True)}
                self._advanced(sum(result is not None for result in measured.values()))
        return [self._candidate(trial, measured) for trial in trials]

    def _advanced(self, done: int) -> None:
        self.emit(Progress("selection", "0", done))

    def _train(self, job: Sequence[Assignment]) -> list[Measurement]:
        """Do one job, again where its worker is lost, and keep what came of it.

        Raises:
            WorkerError: A training has lost all its workers.
        """
        results = [measurement for measurement, _ in try_job(self.runner.run, job, self.emit)]
        for each, result in zip(job, results, strict=True):
            if not is_lost(result):
                storage.write_bytes(self._path(each), json.dumps(result.to_dict()).encode())
        for each, result in zip(job, results, strict=True):
            if is_lost(result):
                raise WorkerError(
                    f"Trial {each.trial}, trained again with seed {each.seed}, lost its workers {ATTEMPTS} times, the "
                    f"last with {result.failure} Look after the cluster, then go on with resume=True (--resume)."
                )
        return results

    def _kept(self, assignment: Assignment) -> Measurement | None:
        path = self._path(assignment)
        return Measurement.from_dict(json.loads(storage.read_bytes(path))) if storage.exists(path) else None

    def _path(self, assignment: Assignment) -> str:
        return storage.join(self.folder, "-".join(map(str, self._key(assignment))) + ".json")

    @staticmethod
    def _key(assignment: Assignment) -> tuple[int, int, int]:
        return assignment.trial, assignment.seed or 0, assignment.fold

    def _candidate(self, trial: Trial, measured: Mapping[tuple[int, int, int], Measurement | None]) -> Candidate:
        of_seed = {
            seed: [result for fold in range(self.folds) if (result := measured[trial.number, seed, fold]) is not None]
            for seed in self.seeds
        }
        every = [result for results in of_seed.values() for result in results]
        failure = next((result.failure for result in every if result.failure), "")
        parameters = self.runner.parameters(trial.values)
        searched = dict(trial.metrics)
        if failure:
            return Candidate(trial.number, trial.values, searched, parameters=parameters, failure=failure)
        return Candidate(
            trial=trial.number,
            values=trial.values,
            searched=searched,
            scores={seed: fmean(result.values[self.metric] for result in results) for seed, results in of_seed.items()},
            epochs=tuple(result.best_epoch for result in every),
            metrics=_means([result.values for result in every]),
            parameters=parameters,
        )


def _means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure that all of them have."""
    names = [name for name in values[0] if all(name in each for each in values)] if values else []
    return {name: fmean(each[name] for each in values) for name in names}


def choose(candidates: Sequence[Candidate], direction: Direction) -> Candidate:
    """Return the candidate that the rule of this module takes.

    Raises:
        InputError: All of them failed; with the reasons.
    """
    sign = -1 if direction == "max" else 1
    good = [candidate for candidate in candidates if not candidate.failure]
    if not good:
        reasons = [f"trial {candidate.trial}: {candidate.failure}" for candidate in candidates]
        what = "Each of the best configurations failed when it was trained with other seeds"
        raise InputError.listing(f"{what}. Change the space or its limits, and {BEGIN_ANEW} Why", reasons)
    return min(good, key=lambda each: (sign * each.cautious(direction), each.parameters, each.trial))


def optimism(validation: float, rows: int, test: float, test_rows: int) -> dict[str, Any]:
    """Return by how much the share of validation rows that were right was higher than that of the test rows.

    The 95 % interval of the difference is that of two independent shares (Newcombe 1998, method 10), each with its
    own interval of Wilson.

    Args:
        validation: Share of the validation rows.
        rows: How many they are.
        test: Share of the test rows.
        test_rows: How many they are.
    """
    lowest, highest = wilson_interval(round(validation * rows), rows)
    low, high = wilson_interval(round(test * test_rows), test_rows)
    difference = validation - test
    below = math.hypot(max(0.0, validation - lowest), max(0.0, high - test))
    above = math.hypot(max(0.0, highest - validation), max(0.0, test - low))
    return {
        "metric": "accuracy",
        "validation": validation,
        "test": test,
        "difference": difference,
        "interval": [difference - below, difference + above],
    }
