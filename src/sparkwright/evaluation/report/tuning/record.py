"""What the sections on a search are made from: the plain data of the run's ``trials.json``, read with care."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Self

from sparkwright.evaluation.report.markup import NONE, SHARES, metric_name, percent

__all__ = ["Candidate", "Job", "SearchRecord", "TrialRecord", "is_number", "shown"]

_MANY = 20  # trials, of which the best have something in common that is no chance


@dataclass(frozen=True)
class Job:
    """A stretch of time, in seconds since 1970, in which a slot trained; `where` names its host or process."""

    where: str
    started: float
    stopped: float


@dataclass(frozen=True)
class TrialRecord:
    """One configuration that was tried.

    Attributes:
        number: Counts from 0.
        values: Parameter → value; conditional parameters that it does not have are missing.
        state: ``"complete"``, ``"stopped"`` (early, at a rung), ``"failed"``, ``"rejected"`` (not trained at all),
            ``"paused"`` or ``"running"``.
        reason: Why it failed or was rejected.
        value: The validation figure at its best epoch; None where there is none, or none that is finite.
        metrics: Metric → value, ``"parameters"`` (the weights that it trains) and other objectives too.
        epochs: How many it was trained for, those of all folds together.
        folds: How many folds it was trained on.
        seconds: How long that took.
        curve: Epoch → the validation figure there, the mean of the folds.
        jobs: When and where it was trained.
    """

    number: int
    values: Mapping[str, Any]
    state: str = "complete"
    reason: str = ""
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    folds: int = 1
    seconds: float = 0.0
    curve: Mapping[int, float] = field(default_factory=dict)
    jobs: Sequence[Job] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], metric: str) -> Self:
        """Read a trial of ``trials.json``; figures that are not finite are left out."""
        folds = data.get("folds") or ()
        metrics = {name: _finite(value) for name, value in (data.get("metrics") or {}).items()}
        return cls(
            number=data["number"],
            values=data["values"],
            state=data.get("state", "complete"),
            reason=data.get("reason") or "",
            value=_finite(data.get("value")),
            metrics={name: value for name, value in metrics.items() if value is not None},
            epochs=sum(fold.get("epoch", 0) for fold in folds),
            folds=max(1, len(folds)),
            seconds=data.get("seconds") or 0.0,
            curve=_curve([fold.get("history") or () for fold in folds], metric),
            jobs=[Job(str(job["where"]), job["started"], job["stopped"]) for job in data.get("jobs") or ()],
        )


def _curve(histories: Sequence[Sequence[Mapping[str, Any]]], metric: str) -> dict[int, float]:
    figures: dict[int, list[float]] = {}
    for history in histories:
        for epoch in history:
            value = _finite((epoch.get("validation") or {}).get(metric))
            if value is not None:
                figures.setdefault(epoch["epoch"], []).append(value)
    return {epoch: fmean(values) for epoch, values in sorted(figures.items()) if len(values) == len(histories)}


@dataclass(frozen=True)
class Candidate:
    """A configuration among the best, trained again: seed → its validation figure, or why it failed."""

    trial: int
    scores: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over the seeds."""
        return fmean(self.scores.values()) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; None with fewer than two."""
        return stdev(self.scores.values()) if len(self.scores) > 1 else None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a candidate of ``trials.json``; figures that are not finite are left out."""
        scores = {str(seed): _finite(score) for seed, score in (data.get("scores") or {}).items()}
        finite = {seed: score for seed, score in scores.items() if score is not None}
        return cls(data["trial"], finite, data.get("failure") or "")


@dataclass(frozen=True)
class SearchRecord:
    """A search for hyperparameters, as a run's ``trials.json`` holds it: `from_dict` takes keys of these names.

    Attributes:
        metric: The validation figure that trials are compared by.
        direction: ``"max"`` or ``"min"``: whether more or less of it is better.
        epochs: A whole training's length.
        rungs: Epochs at which trials were compared, and most of them stopped; nothing where all ran to their end.
        trials: All of them, in the order of their numbers.
        space: Parameter → ``{"low", "high", "log"}`` or ``{"choices"}`` or ``{"value"}``, or a list of such for several
            conditions. What it does not say is read from the values.
        objectives: Objective → direction, the metric's first; one alone has no Pareto front.
        candidates: The best few, trained again, each ``{"trial": number, "scores": {seed: figure}, "failure"}``.
        chosen: The number of the trial that was chosen; None where none could be.
        test: The test figure of the chosen one, found once, after the choice; None without test rows.
        optimism: How much better the validation rows' figure was, ``{"metric", "validation", "test", "difference",
            "interval"}``; None where that is not known.
        refit: Whether the model that was tested was trained on the validation rows as well.
        slots: Jobs that can train at a time; 0 where that is not known.
        sampler: What drew the configurations (``"tpe"``).
        seed: Of the search.
        repeats: Whether the same search again gives the same trials; None where that is not known.
        importance: What `measure_importance` gave, where it is known already.
    """

    metric: str = "loss"
    direction: str = "min"
    epochs: int = 0
    rungs: Sequence[int] = ()
    trials: Sequence[TrialRecord] = ()
    space: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    objectives: Mapping[str, str] = field(default_factory=dict)
    candidates: Sequence[Candidate] = ()
    chosen: int | None = None
    test: float | None = None
    optimism: Mapping[str, Any] | None = None
    refit: bool = False
    slots: int = 0
    sampler: str = ""
    seed: int | None = None
    repeats: bool | None = None
    importance: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a run's ``trials.json``; missing keys take their defaults, unknown ones are left out."""
        metric, space = data.get("metric", "loss"), data.get("space") or {}
        trials = [TrialRecord.from_dict(trial, metric) for trial in data.get("trials") or ()]
        plain = (
            "direction",
            "epochs",
            "chosen",
            "refit",
            "slots",
            "sampler",
            "seed",
            "repeats",
            "importance",
            "optimism",
        )
        return cls(
            metric=metric,
            rungs=sorted(data.get("rungs") or ()),
            trials=sorted(trials, key=lambda trial: trial.number),
            space={name: _merged(given) for name, given in space.items()},
            objectives=dict(data.get("objectives") or {metric: data.get("direction", "min")}),
            candidates=[Candidate.from_dict(each) for each in data.get("candidates") or ()],
            test=_finite(data.get("test")),
            **{name: data[name] for name in plain if data.get(name) is not None},
        )

    @property
    def scored(self) -> list[TrialRecord]:
        """Trials that have a figure, the best first; ties by number."""
        sign = -1 if self.direction == "max" else 1
        found = [(sign * trial.value, trial.number, trial) for trial in self.trials if trial.value is not None]
        return [trial for _, _, trial in sorted(found, key=lambda each: each[:2])]

    @property
    def top(self) -> list[TrialRecord]:
        """The best tenth, at least three; nobody where there are too few to have anything in common."""
        return self.scored[: max(3, len(self.scored) // 10)] if len(self.scored) >= _MANY else []

    @property
    def best(self) -> TrialRecord | None:
        """The chosen trial; before a choice, the one with the best figure."""
        chosen = next((trial for trial in self.trials if trial.number == self.chosen), None)
        return chosen or next(iter(self.scored), None)

    @property
    def is_share(self) -> bool:
        """Whether the metric is a share, which percentages show."""
        return self.metric.endswith(SHARES)

    @property
    def comparable(self) -> bool:
        """Whether test and validation figure are of one kind: a tested model is calibrated, which changes its loss."""
        return self.metric == "calibrated_loss" or not self.metric.endswith("loss")

    @property
    def name(self) -> str:
        """The metric's name in words."""
        return metric_name(self.metric)

    def figure(self, value: float | None) -> str:
        """Write one of the metric's values."""
        return percent(value, 2) if self.is_share else (NONE if value is None else f"{value:.4g}")

    def spread(self, value: float | None) -> str:
        """Write a standard deviation of the metric's values."""
        return percent(value, 2) if self.is_share else (NONE if value is None else f"{value:.2g}")

    def difference(self, value: float) -> str:
        """Write a difference of two of the metric's values, without its sign."""
        return f"{100 * abs(value):.2f} percentage points" if self.is_share else f"{abs(value):.3g}"

    def gain(self, value: float, other: float) -> float:
        """Return by how much `value` is better than the `other`."""
        return value - other if self.direction == "max" else other - value


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shown(value: Any) -> str:
    """Write a parameter's value for people."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if value == "":
        return "“”"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(shown, value))
    return str(value)


def _finite(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _merged(given: Any) -> dict[str, Any]:
    """Return a parameter's description; of several, each under a condition, one that holds them all."""
    every = given if isinstance(given, list) else [given]
    if len(every) == 1:
        return dict(every[0])
    ranges = [each for each in every if "low" in each]
    if len(ranges) == len(every):
        ends = {"low": min(each["low"] for each in ranges), "high": max(each["high"] for each in ranges)}
        return {**ends, "log": all(each.get("log") for each in ranges)}
    return {}
