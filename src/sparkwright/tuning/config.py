"""What a search is told: one frozen value, checked as a whole before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sparkwright.errors import InputError, did_you_mean
from sparkwright.training.config import TrainingConfig
from sparkwright.training.settings import CALIBRATED_LOSS, LINKS, METRICS, is_number
from sparkwright.tuning.space import Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["COSTS", "SAMPLERS", "TOGETHER", "TuningConfig"]

SAMPLERS = ("tpe", "random", "grid", "cmaes", "gp")
TOGETHER = ("auto", "trial", "shared")
COSTS = ("parameters", "seconds_per_row")
"""What a search can make small beside its metric."""


@dataclass(frozen=True)
class TuningConfig:
    """How hyperparameters are searched.

    The trials depend on this value and the rows, never on the workers, if `parallel_trials` is given and no clock
    decides: `time_limit_s`, `trial_time_limit_s`, seconds a row.

    Args:
        space: What is searched: a `Space`, its dictionary, the name of one that comes with the library, or a YAML or
            JSON file. None: the library's for heads.
        trials: Configurations to try, at most.
        base: What holds for all trials where the space says nothing. Its `monitor` chooses a trial's best
            epoch, its `epochs` are a trial's whole length, its `seed` is that of the search too; with `refit` the
            chosen configuration is trained once more on training and validation rows, for the epochs that were found.
        sampler: ``"tpe"``, ``"random"``, ``"grid"``, ``"cmaes"``, ``"gp"``, or a sampler of Optuna.
        min_epochs: Epochs after which trials are compared first; None: as many as leave three more comparisons, at
            least one. With `epochs` of the base every trial is trained to its end.
        eta: One of so many trials goes on from a comparison, and for so many times the epochs.
        folds: Parts of the training and validation rows, each of which validates once; None: the validation rows do.
        candidates: The best so many configurations are trained again, with other seeds.
        seeds: So often each.
        parallel_trials: Jobs at a time, whose results are taken in their order, so that the trials do not depend on
            how many slots there are. None: as many as there are slots, results as they come; that does not repeat.
        together: ``"trial"``: a job trains one trial. ``"shared"``: many heads over one stream of batches. ``"auto"``:
            shared where heads are small enough.
        max_parameters: Weights that a trial may have; others are not trained.
        max_seconds_per_row: What scoring a row may take; trials above are not chosen.
        objectives: What trials are compared by: first a metric of the validation rows, at each trial's best epoch;
            then, if asked for, ``"parameters"`` and ``"seconds_per_row"``: the report shows the trials that no other
            beats in all of them. Empty: what the base monitors; of a classification that monitors its loss,
            calibrated or not, the accuracy.
        max_epochs: Epochs that all trials together may train, about: the best one is trained to its end. None sets no
            limit.
        time_limit_s: Seconds after which no more trials start or go on.
        trial_time_limit_s: Seconds that a trial may train, on each fold: one that takes longer has failed, and so has a
            candidate that takes longer with another seed. None sets no limit. What a clock ends does not repeat.

    Raises:
        InputError: Values that cannot be used; all of them in one message.
    """

    space: "Space | Mapping[str, Any] | str | None" = None
    trials: int = 100
    base: TrainingConfig = field(default_factory=TrainingConfig)
    sampler: "str | BaseSampler" = "tpe"
    min_epochs: int | None = None
    eta: int = 3
    folds: int | None = None
    candidates: int = 3
    seeds: int = 3
    parallel_trials: int | None = None
    together: str = "auto"
    max_parameters: int | None = None
    max_seconds_per_row: float | None = None
    objectives: tuple[str, ...] = ()
    max_epochs: int | None = None
    time_limit_s: float | None = None
    trial_time_limit_s: float | None = None

    def __post_init__(self) -> None:
        if self.base.outputs is not None:
            raise InputError.listing(
                "The search cannot be done like this", ["`base` trains several outputs; a search compares one."]
            )
        unread = list[str]()
        try:
            object.__setattr__(self, "space", _space(self.space, self.base.task))
        except InputError as error:
            unread += error.problems or (str(error),)
        losses = (self.base.loss,) if unread else self.losses
        object.__setattr__(self, "objectives", tuple(self.objectives) or (_objective(self.base, losses),))
        problems = [*_range_problems(self), *_name_problems(self), *unread]
        try:
            if not unread:
                self.searched.check(self.base, self.metric)
        except InputError as error:
            problems += error.problems or (str(error),)
        if problems:
            raise InputError.listing("The search cannot be done like this", problems)

    @property
    def searched(self) -> Space:
        """The space, read."""
        assert isinstance(self.space, Space)
        return self.space

    @property
    def first_rung(self) -> int:
        """`min_epochs`, or what None stands for."""
        return self.min_epochs or max(1, round(self.base.epochs / self.eta**3))

    @property
    def losses(self) -> tuple[str, ...]:
        """Losses that trials may train with, as far as they are named: the base's, and those of the space."""
        tried = [value for dimension in self.searched.dimensions.get("loss", ()) for value in dimension.ends()]
        return tuple(loss for loss in [self.base.loss, *tried] if loss is not None)

    @property
    def directions(self) -> dict[str, Literal["min", "max"]]:
        """Objective → whether less or more of it is better."""
        metrics = METRICS[self.base.task]
        return {name: metrics.get(name, "min") for name in self.objectives}

    @property
    def metric(self) -> str:
        """The first objective: what decides which trials go on, and which is chosen."""
        return self.objectives[0]

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether less or more of `metric` is better."""
        return self.directions[self.metric]

    @property
    def limits(self) -> dict[str, float]:
        """Cost → what it may be at most."""
        limits = {"parameters": self.max_parameters, "seconds_per_row": self.max_seconds_per_row}
        return {name: float(most) for name, most in limits.items() if most is not None}

    @property
    def costs(self) -> tuple[str, ...]:
        """Costs that trials are to tell, because they are compared or limited."""
        return tuple(name for name in COSTS if name in self.objectives or name in self.limits)

    @property
    def repeats(self) -> bool | None:
        """Whether the same search again gives the same trials, because no clock decides; None if its sampler knows."""
        timed = self.time_limit_s is not None or self.trial_time_limit_s is not None
        clocked = timed or "seconds_per_row" in self.costs
        if self.parallel_trials is None or clocked:
            return False
        return True if isinstance(self.sampler, str) else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        sampler = self.sampler if isinstance(self.sampler, str) else type(self.sampler).__name__
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {
            "space": self.searched.to_dict(),
            "base": self.base.to_dict(),
            "sampler": sampler,
            "objectives": list(self.objectives),
        }


def _objective(base: TrainingConfig, losses: Sequence[str | None]) -> str:
    """Return what trials are compared by if nobody says.

    Of a classification that monitors a loss it is the calibrated one. Of the same rows it tells more than accuracy,
    where luck decides between equals; and by the plain loss heads win that are surer, and not more often right. Where
    outputs are no logits it cannot be measured, and between links not compared: then it is the accuracy.
    """
    if base.task != "classification" or base.monitored not in ("loss", CALIBRATED_LOSS):
        return base.monitored
    links = {LINKS.get((base.task, str(loss))) for loss in losses}
    return "accuracy" if "sequential" in links or len(links) > 1 else CALIBRATED_LOSS


def _space(given: "Space | Mapping[str, Any] | str | None", task: str) -> Space:
    if isinstance(given, Space):
        return given
    return Space(given) if isinstance(given, Mapping) else Space.load(given or "head", task=task)


def _range_problems(config: TuningConfig) -> list[str]:
    """Return which numbers are not what they must be."""
    whole = {"trials": 1, "eta": 2, "candidates": 1, "seeds": 1}
    optional = {"min_epochs": 1, "folds": 2, "parallel_trials": 1, "max_parameters": 1, "max_epochs": 1}
    problems = []
    for name, least in (whole | optional).items():
        value = getattr(config, name)
        if value is None and name in optional:
            continue
        if not (is_number(value) and value == int(value) and value >= least):
            instead = "None or " if name in optional else ""
            problems.append(f"`{name}` must be {instead}a whole number of at least {least}; it is {value!r}.")
    for name in ("time_limit_s", "trial_time_limit_s", "max_seconds_per_row"):
        value = getattr(config, name)
        if value is not None and not (is_number(value) and value > 0):
            problems.append(f"`{name}` must be None or above 0; it is {value!r}.")
    if not problems and config.min_epochs is not None and config.min_epochs > config.base.epochs:
        problems.append(
            f"`min_epochs` ({config.min_epochs}) must not be more than the epochs of a trial ({config.base.epochs})."
        )
    if config.folds is not None and config.base.threshold_metric is not None:
        problems.append(
            "`threshold_metric` looks at validation rows, of which `folds` leave none for the last training."
        )
    if not problems and config.folds is not None and config.base.validation_fraction:
        problems.append("`folds` and `validation_fraction` exclude each other: each fold validates once.")
    return problems


def _name_problems(config: TuningConfig) -> list[str]:
    """Return which names are not known, and which objectives do not go together."""
    problems = []
    for name, value, known in (("sampler", config.sampler, SAMPLERS), ("together", config.together, TOGETHER)):
        if isinstance(value, str) and value not in known:
            listed = ", ".join(known)
            problems.append(f"`{name}` must be one of {listed}, not {value!r}.{did_you_mean(value, known)}")
    figures = (*METRICS[config.base.task], *COSTS)
    for name in config.objectives:
        if name not in figures:
            listed = ", ".join(figures)
            problems.append(f"`objectives` are of {listed}; there is no {name!r}.{did_you_mean(name, figures)}")
    if config.objectives[0] in COSTS:
        problems.append("The first of `objectives` must be a metric of the validation rows; it chooses the trials.")
    if len(set(config.objectives)) < len(config.objectives):
        problems.append(f"`objectives` names one twice: {', '.join(config.objectives)}.")
    return problems
