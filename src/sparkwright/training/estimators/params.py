"""The Params of a training: the fields of `TrainingConfig` in camelCase, with its defaults."""

# ruff: noqa: N815  Params are camelCase

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from pyspark.ml.param import Param, Params, TypeConverters

from sparkwright.errors import InputError, NameUnknownError, did_you_mean
from sparkwright.training.config import REGRESSION, TrainingConfig

__all__ = [
    "SHARED",
    "NamedParams",
    "TrainingParams",
    "anything",
    "naming",
    "number_or_none",
    "numbers",
    "param",
    "under_params",
    "whole_or_none",
]

# Param → field of TrainingConfig, which also has its default.
SHARED = {
    "hiddenLayers": "hidden",
    "activation": "activation",
    "dropout": "dropout",
    "optimizer": "optimizer",
    "learningRate": "learning_rate",
    "momentum": "momentum",
    "nesterov": "nesterov",
    "beta2": "beta2",
    "epsilon": "epsilon",
    "weightDecay": "weight_decay",
    "rateDecay": "rate_decay",
    "layerRates": "layer_rates",
    "clipNorm": "clip_norm",
    "clipValue": "clip_value",
    "accumulate": "accumulate",
    "schedule": "schedule",
    "warmup": "warmup",
    "dropAt": "drop_at",
    "dropFactor": "drop_factor",
    "plateauPatience": "plateau_patience",
    "rateTable": "rate_table",
    "rateTableUnit": "rate_table_unit",
    "unfreeze": "unfreeze",
    "weightAverage": "weight_average",
    "emaDecay": "ema_decay",
    "swaFrom": "swa_from",
    "batchNorm": "batch_norm",
    "device": "device",
    "precision": "precision",
    "channelsLast": "channels_last",
    "compile": "compile",
    "epochs": "epochs",
    "batchSize": "batch_size",
    "replicas": "replicas",
    "strategy": "strategy",
    "syncEvery": "sync_every",
    "syncShare": "sync_share",
    "outerRate": "outer_rate",
    "outerMomentum": "outer_momentum",
    "pull": "pull",
    "compression": "compression",
    "compressionShare": "compression_share",
    "patience": "patience",
    "validateEvery": "validate_every",
    "healthEvery": "health_every",
    "monitor": "monitor",
    "refit": "refit",
    "validationFraction": "validation_fraction",
    "standardise": "standardise",
    "timeLimitSeconds": "time_limit_s",
    "onNotFinite": "on_not_finite",
    "loss": "loss",
    "seed": "seed",
    "threads": "threads",
}


def whole_or_none(value: Any) -> int | None:
    """Convert to a whole number; None stays."""
    return None if value is None else TypeConverters.toInt(value)


def number_or_none(value: Any) -> float | None:
    """Convert to a number; None stays."""
    return None if value is None else TypeConverters.toFloat(value)


def anything(value: Any) -> Any:
    """Leave what `TrainingConfig` checks with all others."""
    return value


def _widths(value: Any) -> list[int]:
    return TypeConverters.toListInt(value if isinstance(value, Sequence) else [value])


def numbers(value: Any) -> list[float]:
    """Convert to a list of numbers; one may stand alone."""
    return TypeConverters.toListFloat(value if isinstance(value, Sequence) else [value])


def param(name: str, doc: str, converter: Any) -> Any:
    """Return a Param for the body of a class."""
    return Param(Params._dummy(), name, doc, converter)


class NamedParams(Params):
    """Params that are set by name, all that is wrong with them told at once."""

    def setParams(self, **params: Any) -> Self:
        """Set Params by name.

        Raises:
            NameUnknownError: There is no such Param.
            InputError: A value is of another type. All that is wrong is in one message.
        """
        known = [own.name for own in self.params]
        every = f" It has: {', '.join(known)}."
        unknown = [
            f"there is no Param `{name}`.{did_you_mean(name, known) or every}" for name in params if name not in known
        ]
        values, problems = {}, []
        for name, value in params.items():
            if name in known:
                try:
                    values[name] = value if value is None else self.getParam(name).typeConverter(value)
                except (TypeError, ValueError) as error:
                    problems.append(f"`{name}` cannot be {value!r}: {error}")
        if unknown or problems:
            what = f"{type(self).__name__} cannot be set up like this"
            raise (InputError if problems else NameUnknownError).listing(what, unknown + problems)
        self._set(**values)
        return self


class TrainingParams(NamedParams):
    """What every estimator of the library can be set to. The Params' defaults are those of `TrainingConfig`.

    Attributes:
        task: What it trains for.
        regressor: The estimator that trains the same for a regression.
        usual: What the Params are that nobody sets.
        fields: Param → field of `TrainingConfig`.
    """

    task: ClassVar[str]
    regressor: ClassVar[str] = "MLPRegressor"
    usual: ClassVar[TrainingConfig] = TrainingConfig()
    fields: ClassVar[dict[str, str]] = SHARED

    hiddenLayers = param("hiddenLayers", "widths of the hidden layers; none: linear", _widths)
    activation = param("activation", "activation after hidden layers", TypeConverters.toString)
    dropout = param("dropout", "share of hidden outputs (linear: of features) dropped; None: by task", number_or_none)
    optimizer = param("optimizer", "sgd, adam, adamw, rmsprop, adadelta, adagrad, lamb, lars", TypeConverters.toString)
    learningRate = param("learningRate", "the schedule's highest rate; None: by optimizer", number_or_none)
    momentum = param("momentum", "of SGD, LARS, RMSprop; first-moment decay of Adam and LAMB", TypeConverters.toFloat)
    nesterov = param("nesterov", "whether SGD's momentum looks ahead", TypeConverters.toBoolean)
    weightDecay = param("weightDecay", "L2 penalty of weights; None: by task and optimizer", number_or_none)
    beta2 = param("beta2", "decay of the mean of squared gradients; None: by optimizer", number_or_none)
    epsilon = param("epsilon", "what is added to the root of that mean; None: by optimizer", number_or_none)
    rateDecay = param("rateDecay", "share of the rate that each block below the head has", TypeConverters.toFloat)
    layerRates = param("layerRates", "layer: what its rate is multiplied with", anything)
    clipNorm = param("clipNorm", "longest norm of a step's gradient; None: any", number_or_none)
    clipValue = param("clipValue", "largest element of a gradient; None: any", number_or_none)
    accumulate = param("accumulate", "parts of a step's rows whose gradients add up", TypeConverters.toInt)
    schedule = param("schedule", "constant, cosine, linear, step, plateau, one_cycle, table", TypeConverters.toString)
    warmup = param("warmup", "epochs during which the rate rises", TypeConverters.toFloat)
    dropAt = param("dropAt", "shares of the epochs after which step lowers the rate", TypeConverters.toListFloat)
    dropFactor = param("dropFactor", "what step and plateau multiply the rate with", TypeConverters.toFloat)
    plateauPatience = param("plateauPatience", "looks after which plateau lowers the rate", TypeConverters.toInt)
    rateTable = param("rateTable", "epoch or step: rate from there on", anything)
    rateTableUnit = param("rateTableUnit", "what rateTable counts: epoch or step", TypeConverters.toString)
    unfreeze = param("unfreeze", "epoch: first layer that trains from then on; None: all at once", anything)
    weightAverage = param("weightAverage", "mean of weights that is kept: None, ema or swa", anything)
    emaDecay = param("emaDecay", "share of the ema that a step leaves", TypeConverters.toFloat)
    swaFrom = param("swaFrom", "share of the epochs after which swa begins", TypeConverters.toFloat)
    batchNorm = param("batchNorm", "running statistics: averaged, local or frozen", TypeConverters.toString)
    device = param("device", "where replicas compute: cpu or cuda", TypeConverters.toString)
    precision = param("precision", "of products: float32 or bfloat16", TypeConverters.toString)
    channelsLast = param("channelsLast", "a pixel's channels lie side by side in memory", TypeConverters.toBoolean)
    compile = param("compile", "torch.compile makes the network's kernels", TypeConverters.toBoolean)
    epochs = param("epochs", "passes over the training rows, at most", TypeConverters.toInt)
    batchSize = param("batchSize", "rows that a replica takes a step, at most", TypeConverters.toInt)
    replicas = param("replicas", "copies of the weights; part of the result", TypeConverters.toInt)
    syncEvery = param("syncEvery", "steps between two syncs; auto: measured", anything)
    syncShare = param("syncShare", "share of the time for syncs, where syncEvery is auto", TypeConverters.toFloat)
    strategy = param("strategy", "how replicas combine: averaging, all_reduce or outer", TypeConverters.toString)
    outerRate = param("outerRate", "learning rate of the outer optimiser", TypeConverters.toFloat)
    outerMomentum = param("outerMomentum", "Nesterov's momentum of the outer optimiser", TypeConverters.toFloat)
    pull = param("pull", "share of the way to the common weights that a replica moves", TypeConverters.toFloat)
    compression = param("compression", "what replicas send: None, all; or float16, bfloat16, int8 …", anything)
    compressionShare = param(
        "compressionShare", "share of the values that topk and threshold send", TypeConverters.toFloat
    )
    patience = param("patience", "epochs without a better monitor before stopping; None: all", whole_or_none)
    validateEvery = param("validateEvery", "epochs between two validations", TypeConverters.toInt)
    healthEvery = param("healthEvery", "steps between two looks at how layers learn; None never", whole_or_none)
    monitor = param("monitor", "metric that chooses the best epoch", TypeConverters.toString)
    refit = param("refit", "train again on train and validation rows", TypeConverters.toBoolean)
    validationFraction = param("validationFraction", "share of training rows that validate", TypeConverters.toFloat)
    standardise = param("standardise", "shift and scale features", TypeConverters.toBoolean)
    timeLimitSeconds = param("timeLimitSeconds", "after which the selection ends; None: no limit", number_or_none)
    onNotFinite = param("onNotFinite", "loss of NaN or infinity: stop or retry", TypeConverters.toString)
    loss = param("loss", "what is minimised; None: by task; or your own, package.module:function", anything)
    seed = param("seed", "of weights, shards, order and dropout", TypeConverters.toInt)
    threads = param("threads", "CPU threads a replica computes with", TypeConverters.toInt)

    def defaults(self) -> dict[str, Any]:
        """Return what the Params are that nobody sets."""
        config = self.usual.replace(task=self.task)
        return {name: _plain(getattr(config, field)) for name, field in self.fields.items()}

    def config(self) -> TrainingConfig:
        """Return the Params of the training as one value, checked.

        Raises:
            InputError: Values that cannot be used; all of them in one message, under the Params' names.
        """
        return self._config(self.task)

    def _config(self, task: str) -> TrainingConfig:
        fields = {field: self.getOrDefault(name) for name, field in self.fields.items()}
        try:
            return TrainingConfig.from_dict({"task": task, **fields})
        except InputError as error:
            problems = under_params(error.problems, self.fields)
            raise InputError.listing(f"{type(self).__name__} cannot train like this", problems) from None


@contextmanager
def naming(regressor: str) -> Iterator[None]:
    """Let errors inside that advise a regression name the estimator that trains one."""
    try:
        yield
    except InputError as error:
        if REGRESSION not in str(error):
            raise
        told = type(error)(str(error).replace(REGRESSION, f"`{regressor}`"))
        told.problems = tuple(problem.replace(REGRESSION, f"`{regressor}`") for problem in error.problems)
        raise told from None


def under_params(problems: Sequence[str], fields: Mapping[str, str]) -> list[str]:
    """Return problems with the names of Params for those of fields.

    Args:
        problems: Each with names in backticks.
        fields: Param → field.
    """
    params = {field: name for name, field in fields.items()}
    return [re.sub(r"`(\w+)`", lambda name: f"`{params.get(name[1], name[1])}`", problem) for problem in problems]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
