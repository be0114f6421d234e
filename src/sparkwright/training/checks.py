"""What is wrong with a training's settings, if anything: all of it, not the first."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from sparkwright.errors import InputError, did_you_mean
from sparkwright.training.settings import (
    ACTIVATIONS,
    BATCH_NORMS,
    CALIBRATED_LOSS,
    COMPRESSIONS,
    DEVICES,
    INSTEAD,
    LINKS,
    LOSSES,
    METRICS,
    MULTITASK,
    NOT_FINITE,
    OPTIMIZERS,
    OUTPUT_SETTINGS,
    PRECISIONS,
    RANGES,
    RATE_TABLE_UNITS,
    SAMPLINGS,
    SCHEDULES,
    STRATEGIES,
    TASKS,
    THRESHOLD_METRICS,
    WEIGHT_AVERAGES,
    WHOLE,
    WITH_FEEDBACK,
    is_number,
    metrics_of,
)

if TYPE_CHECKING:
    from sparkwright.training.config import RateTable, TrainingConfig

__all__ = ["problems_of", "rate_pairs", "setting_problems"]


def problems_of(config: "TrainingConfig") -> list[str]:
    """Return what is wrong, each in a sentence that says what must hold and what was given."""
    if config.outputs is not None or config.task == MULTITASK:
        problems = _output_problems(config)
        if problems:  # what else there is to say would follow from them
            return problems
    return [*setting_problems(config), *_combinations(config), *_loss_problems(config)]


def setting_problems(config: Any) -> list[str]:
    """Return what is wrong with settings by themselves: anything with the attributes of a `TrainingConfig`."""
    return [*_unknown_names(config), *_values_out_of_range(config), *_rate_problems(config)]


def rate_pairs(table: "RateTable") -> tuple[tuple[float, float], ...]:
    """Return a table of rates as pairs of when and rate, sorted."""
    pairs = table.items() if isinstance(table, Mapping) else table
    return tuple(sorted((float(when), float(rate)) for when, rate in pairs))


def _unknown_names(config: "TrainingConfig") -> list[str]:
    """Return what is wrong with names, and with what must be true or false."""
    problems = []
    choices: dict[str, tuple[str | None, ...]] = {
        "task": TASKS if config.outputs is None else (MULTITASK,),
        "activation": ACTIVATIONS,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "rate_table_unit": RATE_TABLE_UNITS,
        "weight_average": (None, *WEIGHT_AVERAGES),
        "batch_norm": BATCH_NORMS,
        "device": DEVICES,
        "precision": PRECISIONS,
        "strategy": STRATEGIES,
        "compression": (None, *COMPRESSIONS),
        "on_not_finite": NOT_FINITE,
        "sampling": SAMPLINGS,
        "threshold_metric": (None, *THRESHOLD_METRICS),
    }
    if config.task in METRICS:
        choices["monitor"] = ("auto", *metrics_of(config.task, config.outputs))
        if ":" not in str(config.loss):
            choices["loss"] = (None, *LOSSES[config.task])
    for name, known in choices.items():
        given = getattr(config, name)
        if given not in known:
            names = [str(choice) for choice in known]
            problems.append(
                f"`{name}` must be one of {', '.join(names)}, not {given!r}.{did_you_mean(str(given), names)}"
            )
    weights = config.class_weights
    if not (weights is None or isinstance(weights, Mapping) or str(weights) == "balanced"):
        problems.append(f"`class_weights` must be None, 'balanced' or a mapping of classes, not {weights!r}.")
    for name in ("nesterov", "refit", "calibrate", "standardise", "channels_last", "compile"):
        if not isinstance(getattr(config, name), bool):
            problems.append(f"`{name}` must be true or false, not {getattr(config, name)!r}.")
    return problems


def _values_out_of_range(config: "TrainingConfig") -> list[str]:
    """Return which numbers cannot be."""
    problems = []
    for name, wanted, holds in RANGES:
        given = getattr(config, name)
        integral = name in WHOLE
        if not is_number(given) or (integral and given != int(given)) or not holds(given):
            if name in INSTEAD and given == INSTEAD[name]:
                continue
            problems.append(f"`{name}` must be {wanted}, not {given!r}.")
    if isinstance(config.hidden, str) or not isinstance(config.hidden, Sequence):
        problems.append(f"`hidden` must be a list of widths, such as [128], not {config.hidden!r}.")
    else:
        problems += [
            f"`hidden` must hold positive widths, not {width!r}."
            for width in config.hidden
            if not isinstance(width, Integral) or isinstance(width, bool) or width < 1
        ]
    if isinstance(config.class_weights, Mapping):
        problems += [
            f"`class_weights` must be finite and at least 0, not {weight!r} for class {name!r}."
            for name, weight in config.class_weights.items()
            if not is_number(weight) or weight < 0
        ]
    return problems


def _combinations(config: "TrainingConfig") -> list[str]:
    """Return which settings do not go together."""
    problems = []
    if config.task == "regression":
        problems += [
            f"`{name}` needs classes; with `task` 'regression' it must be {nothing!r}."
            for name, nothing in (("class_weights", None), ("label_smoothing", 0), ("threshold_metric", None))
            if getattr(config, name) not in (nothing, 0)
        ]
    if config.task != "classification" and config.sampling == "balanced":
        problems.append(f"`sampling` 'balanced' needs one class a row; with `task` {config.task!r} there is none.")
    if config.sampling == "balanced" and str(config.class_weights) == "balanced":
        problems.append("`sampling` and `class_weights` are both 'balanced'; each evens classes out: leave one out.")
    if config.monitor == CALIBRATED_LOSS and LINKS.get((config.task, str(config.loss))) == "sequential":
        problems.append(f"`monitor` {config.monitor!r} divides logits; with `loss` {config.loss!r} there are none.")
    if config.optimizer in ("sgd", "lars") and config.nesterov and config.momentum == 0:
        problems.append("`nesterov` needs a `momentum` above 0.")
    if config.schedule == "table" and config.rate_table is None:
        problems.append("`schedule` 'table' needs a `rate_table`, such as {0: 0.1, 10: 0.01}.")
    if config.schedule != "table" and config.rate_table is not None:
        problems.append(f"`rate_table` needs `schedule` 'table', not {config.schedule!r}.")
    if config.weight_average and config.strategy != "all_reduce" and config.compression in WITH_FEEDBACK:
        problems.append(
            f"`weight_average` must be the same in all replicas; with `compression` {config.compression!r} each "
            "keeps its own. Use 'float16' or 'bfloat16', or `strategy` 'all_reduce'."
        )
    return problems + _late_layers(config)


def _late_layers(config: "TrainingConfig") -> list[str]:
    """Return which layers begin to train after the last epoch, so never."""
    if not (isinstance(config.unfreeze, Mapping) and is_number(config.epochs)):  # which is said elsewhere
        return []
    late = [when for when in config.unfreeze if _is_epoch(when) and int(when) > config.epochs]
    return [
        f"`unfreeze` lets `{config.unfreeze[when]}` train from epoch {when} on, but `epochs` is {config.epochs}, so it "
        "never would: raise `epochs`, or name an earlier epoch."
        for when in late
    ]


_EXAMPLE = "outputs={'kind': 'classification', 'height': {'task': 'regression', 'weight': 0.5}}"
_ALIKE = ("sampling", "threshold_metric")  # of one output alone


def _output_problems(config: "TrainingConfig") -> list[str]:
    """Return what is wrong with what several outputs are told, each for itself and together."""
    if not isinstance(config.outputs, Mapping) or not config.outputs:
        return [f"`outputs` must map names of outputs to tasks, such as {_EXAMPLE}; got {config.outputs!r}."]
    problems = []
    if config.task != MULTITASK:
        problems.append(f"`task` is each output's own, such as {_EXAMPLE}; leave out `task` {config.task!r}.")
    for name in (*OUTPUT_SETTINGS, *_ALIKE):
        given, usual = getattr(config, name), type(config).__dataclass_fields__[name].default
        given = tuple(given) if isinstance(given, list) else given
        if given != usual and name in _ALIKE:
            problems.append(f"`{name}` {given!r} is for one output; of several it cannot be asked for.")
        elif given != usual:
            problems.append(f"`{name}` is each output's own, such as outputs={{'kind': {{…, '{name}': {given!r}}}}}.")
    for name, told in config.outputs.items():
        problems += [f"Output {name!r}: {problem}" for problem in _told_problems(type(config), name, told)]
    return problems


def _told_problems(make: "type[TrainingConfig]", name: Any, told: Any) -> list[str]:
    """Return what is wrong with what one of several outputs is told."""
    if not (isinstance(name, str) and name.isidentifier()):
        return ["its name must be of letters, digits and underscores: columns are called after it."]
    if not isinstance(told, Mapping):
        return [f"say its task, or a mapping of its settings, such as {_EXAMPLE}; got {told!r}."]
    known = ("task", "weight", *OUTPUT_SETTINGS)
    every = f" Known: {', '.join(known)}."
    problems = [
        f"there is no setting `{key}`.{did_you_mean(str(key), known) or every}" for key in told if key not in known
    ]
    weight = told.get("weight", 1.0)
    if not (is_number(weight) and weight > 0):
        problems.append(f"`weight` must be above 0, not {weight!r}.")
    if told.get("task") not in TASKS:
        near = did_you_mean(str(told.get("task")), TASKS)
        return [*problems, f"`task` must be one of {', '.join(TASKS)}, not {told.get('task')!r}.{near}"]
    try:
        make(**{key: value for key, value in told.items() if key in known and key != "weight"})
    except InputError as error:
        problems += error.problems
    return problems


def _rate_problems(config: "TrainingConfig") -> list[str]:
    """Return what is wrong with the rates of layers and over time."""
    problems = []
    begins = config.unfreeze
    if begins is not None and not (
        isinstance(begins, Mapping) and all(map(_is_epoch, begins)) and "1" in map(str, begins)
    ):
        problems.append(
            "`unfreeze` must map epochs, the first of which is 1, to layers, such as "
            f"{{1: 'head', 3: 'block5'}}, not {begins!r}."
        )
    rates = config.layer_rates
    if not (rates is None or (isinstance(rates, Mapping) and all(is_number(f) and f > 0 for f in rates.values()))):
        problems.append(
            f"`layer_rates` must map layers to factors above 0, such as {{'features': 0.1}}, not {rates!r}. To "
            "leave a layer as it is, freeze it."
        )
    shares = config.drop_at
    if isinstance(shares, str) or not (
        isinstance(shares, Sequence) and all(is_number(share) and 0 < share < 1 for share in shares)
    ):
        problems.append(f"`drop_at` must be shares of the epochs between 0 and 1, not {shares!r}.")
    if config.rate_table is not None:
        try:
            rows = rate_pairs(config.rate_table)
            right = rows[0][0] == 0 and all(math.isfinite(when) and 0 <= rate < math.inf for when, rate in rows)
        except (TypeError, ValueError, IndexError):
            right = False
        if not right:
            problems.append(
                "`rate_table` must map epochs or steps, the first of which is 0, to rates, such as {0: 0.1, 10: "
                f"0.01}}, not {config.rate_table!r}."
            )
    return problems


def _loss_problems(config: "TrainingConfig") -> list[str]:
    """Return what is wrong with the loss and its settings."""
    quantiles = config.quantiles
    if isinstance(quantiles, str) or not isinstance(quantiles, Sequence) or not quantiles:
        return [f"`quantiles` must be a list of numbers, such as [0.1, 0.5, 0.9], not {quantiles!r}."]
    problems = [
        f"`quantiles` must be above 0 and below 1, not {quantile!r}."
        for quantile in quantiles
        if not is_number(quantile) or not 0 < quantile < 1
    ]
    if config.task == "multilabel" and config.label_smoothing:
        problems.append("`label_smoothing` spreads a target over classes; with `task` 'multilabel' it must be 0.")
    module, _, function = str(config.loss).partition(":")
    if ":" in str(config.loss) and not all(part.isidentifier() for part in (*module.split("."), function)):
        problems.append(f"`loss` of your own must be named 'package.module:function', not {config.loss!r}.")
    return problems


def _is_epoch(value: object) -> bool:
    return str(value).isdecimal() and int(str(value)) >= 1  # JSON has text for keys
