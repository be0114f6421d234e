"""What a training is told: one frozen value, checked as a whole."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal, Self

from sparkwright.errors import InputError, did_you_mean
from sparkwright.training.settings import (
    ACTIVATIONS,
    COMPRESSIONS,
    INSTEAD,
    LINKS,
    LOSSES,
    METRICS,
    NOT_FINITE,
    OPTIMIZERS,
    RANGES,
    SAMPLINGS,
    SCHEDULES,
    STRATEGIES,
    TASKS,
    THRESHOLD_METRICS,
    WHOLE,
    is_number,
)

__all__ = ["TrainingConfig", "label_text"]


@dataclass(frozen=True)
class TrainingConfig:
    """How a head is trained. The result depends on this value and the rows, never on the workers.

    The defaults suit a linear head on pooled features of a pre-trained network with tens of rows a class; they were
    chosen on validation rows by ``benchmarks/head_defaults.py``.

    Args:
        task: ``"classification"`` (one class a row), ``"multilabel"`` (any number of labels a row) or
            ``"regression"``.
        hidden: Widths of the hidden layers; none makes a linear head.
        activation: Activation after each hidden layer: one of `sparkwright.training.settings.ACTIVATIONS`.
        dropout: Share of each hidden layer's outputs (without hidden layers: of the features) dropped while training.
            None: 0.3 in a classification, 0 in a regression.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        learning_rate: The schedule's highest rate. None: 0.02 for SGD; for Adam and AdamW 0.006, in a
            regression 0.01.
        momentum: Momentum of SGD; first-moment decay of Adam and AdamW.
        nesterov: Whether SGD's momentum looks ahead (Sutskever et al. 2013).
        weight_decay: L2 penalty of weights (never of biases); AdamW decouples it (Loshchilov and Hutter 2019). None: in
            a classification 0.003 for SGD and 1 for AdamW, else 0.
        schedule: ``"constant"``, ``"cosine"`` or ``"linear"`` (to 0 at the last epoch), or ``"step"`` (a tenth at
            half of the epochs, a hundredth at three quarters).
        warmup: Epochs during which the rate rises linearly from 0; may be a fraction.
        loss: None: the first of its task. Of a classification ``"cross_entropy"``, ``"focal"`` (rows that are right
            already count less: Lin et al. 2017), ``"binary_cross_entropy"`` (of two classes, with one output),
            ``"ordinal"`` (classes have an order: that of the scores); of several labels ``"binary_cross_entropy"`` or
            ``"focal"``; of a regression ``"squared_error"``, ``"absolute_error"``, ``"huber"``, ``"quantile"`` or
            ``"poisson"`` (of counts). Or one of your own, ``"package.module:function"``: from outputs (logits; in a
            regression one number a row) and targets (class indices; in a regression standardised) to a tensor of one
            loss a row.
        focal_gamma: Exponent of the ``"focal"`` loss.
        huber_delta: Where the ``"huber"`` loss goes over from squared to absolute, in deviations of the targets.
        quantiles: Of the ``"quantile"`` loss: an output each.
        class_weights: None, ``"balanced"`` (inversely to the classes' training rows), or a weight for each class. With
            several labels a row: what the rows that have a label count of its loss.
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016).
        sampling: ``"shuffled"``: each row once an epoch. ``"balanced"``: an epoch has as many rows, but each class as
            many as the others; rows of rare ones come several times, those of frequent ones in some epochs only.
        threshold_metric: None, or ``"f1"`` or ``"balanced_accuracy"``: of two classes, or of each label, for which the
            validation rows choose the probability from which on it is predicted.
        epochs: Passes over the training rows, at most.
        batch_size: Rows that a replica takes a step, at most: a replica's rows are dealt evenly over the steps.
        replicas: Copies of the weights that train on shards of their own. Part of the result, unlike workers.
        strategy: How replicas combine: ``"averaging"`` of weights and optimiser's state every so many steps,
            ``"all_reduce"`` of gradients at each step (synchronous SGD), or ``"outer"``: an outer optimiser over the
            mean change (DiLoCo; Douillard et al. 2023).
        sync_every: Steps between two syncs; the end of an epoch is always one. ``"auto"`` measures steps and syncs
            before the first step and takes the fewest that keep to `sync_share`. Without meaning for ``"all_reduce"``.
        sync_share: Share of the time that syncs may take, where `sync_every` is ``"auto"``.
        outer_rate: Learning rate of the outer optimiser.
        outer_momentum: Nesterov's momentum of the outer optimiser.
        pull: Share of the way to the common weights that a replica moves at a sync of ``"outer"``; below 1 it is
            elastic averaging (Zhang et al. 2015).
        compression: What replicas send: None (all of it), ``"float16"`` or ``"bfloat16"`` (half the bytes); or with
            error feedback, and without the optimiser's state, which each replica then keeps to itself, ``"int8"``
            (a quarter), ``"topk"`` (the largest values) or ``"threshold"`` (the largest ones' signs; Strom 2015).
        compression_share: Share of the values that ``"topk"`` (8 bytes each) and ``"threshold"`` (4 bytes) send.
        patience: Epochs without a better `monitor` on the validation rows after which training stops; None trains all.
        validate_every: Epochs between two looks at the validation rows; the last epoch is always one.
        monitor: What chooses the best epoch: ``"loss"``, ``"accuracy"``, ``"balanced_accuracy"`` or ``"macro_f1"``;
            with several labels a row ``"loss"``, ``"subset_accuracy"`` (all labels are right), ``"micro_f1"`` or
            ``"macro_f1"``; in a regression ``"loss"``, ``"rmse"``, ``"mae"`` or ``"r2"``.
        refit: Train again, from the start, on training and validation rows for the best number of epochs, over which
            the schedule then stretches.
        calibrate: Divide a classifier's logits by the one number that makes its probabilities fit the validation rows
            best (Guo et al. 2017); labels stay as they are. Without validation rows there is nothing to fit; the
            ``"ordinal"`` loss has no logits to divide.
        validation_fraction: Share of the training rows, about, that validate instead. A row's content and the seed
            decide, so that equal rows stay together. Where a column names the sides: of its training rows.
        standardise: Shift and scale each feature to mean 0 and deviation 1 of the training rows, kept in the head.
        time_limit_s: Seconds after which the selection ends with the epoch that it is in; the result then depends on
            how fast the cluster was. None sets no limit.
        on_not_finite: When a loss becomes NaN or infinite: ``"stop"`` with the step, replica and keys of the batch's
            rows, or ``"retry"`` the epoch from its beginning with half the rate, at most ten times; then a mean loss
            above 1,000 counts as infinite, too.
        seed: Of weights, shards, order and dropout.
        threads: CPU threads a replica computes with. Part of the result: sums of several threads round differently.

    Raises:
        InputError: Values that cannot be used; all of them in one message.
    """

    task: str = "classification"
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float | None = None
    optimizer: str = "adamw"
    learning_rate: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.0
    loss: str | None = None
    focal_gamma: float = 2.0
    huber_delta: float = 1.0
    quantiles: tuple[float, ...] = (0.5,)
    class_weights: Literal["balanced"] | Mapping[str, float] | None = None
    label_smoothing: float = 0.0
    sampling: str = "shuffled"
    threshold_metric: str | None = None
    epochs: int = 50
    batch_size: int = 32
    replicas: int = 4
    strategy: str = "averaging"
    sync_every: int | Literal["auto"] = 4
    sync_share: float = 0.05
    outer_rate: float = 0.7
    outer_momentum: float = 0.9
    pull: float = 1.0
    compression: str | None = None
    compression_share: float = 0.05
    patience: int | None = 25
    validate_every: int = 1
    monitor: str = "loss"
    refit: bool = False
    calibrate: bool = True
    validation_fraction: float = 0.0
    standardise: bool = True
    time_limit_s: float | None = None
    on_not_finite: str = "stop"
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.hidden, Integral):  # one width may stand alone
            object.__setattr__(self, "hidden", (self.hidden,))
        if is_number(self.quantiles):
            object.__setattr__(self, "quantiles", (self.quantiles,))
        problems = [
            *self._unknown_names(),
            *self._values_out_of_range(),
            *self._combinations(),
            *self._loss_problems(),
        ]
        if problems:
            raise InputError.listing("The training cannot be configured like this", problems)
        self._make_plain()

    def _make_plain(self) -> None:
        """Turn numbers of numpy into Python's, sequences into tuples, names of classes into text."""
        plain: dict[str, Any] = {"hidden": tuple(int(width) for width in self.hidden)}
        for name, _, _ in RANGES:
            value = getattr(self, name)
            if not isinstance(value, str | None):
                plain[name] = int(value) if name in WHOLE else float(value)
        plain["quantiles"] = tuple(float(quantile) for quantile in self.quantiles)
        if isinstance(self.class_weights, Mapping):
            plain["class_weights"] = {label_text(name): float(weight) for name, weight in self.class_weights.items()}
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def rate(self) -> float:
        """`learning_rate`, or what None stands for."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.optimizer == "sgd":
            return 0.02
        return 0.01 if self.task == "regression" else 0.006

    @property
    def decay(self) -> float:
        """`weight_decay`, or what None stands for."""
        if self.weight_decay is not None:
            return self.weight_decay
        return 0.0 if self.task == "regression" else {"sgd": 0.003, "adamw": 1.0}.get(self.optimizer, 0.0)

    @property
    def dropped(self) -> float:
        """`dropout`, or what None stands for."""
        if self.dropout is not None:
            return self.dropout
        return 0.0 if self.task == "regression" else 0.3

    @property
    def objective(self) -> str:
        """`loss`, or what None stands for."""
        return LOSSES[self.task][0] if self.loss is None else self.loss

    @property
    def link(self) -> str:
        """How outputs become probabilities or values: see `sparkwright.models.Model`."""
        usual = {"classification": "softmax", "multilabel": "sigmoid", "regression": "identity"}
        return LINKS.get((self.task, self.objective), usual[self.task])

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether less or more of `monitor` is better."""
        return METRICS[self.task][self.monitor]

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values; unknown names raise `InputError`."""
        return type(self).from_dict({**{f.name: getattr(self, f.name) for f in fields(self)}, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dataclasses.asdict(self) | {"hidden": list(self.hidden), "quantiles": list(self.quantiles)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`; missing fields take their defaults.

        Raises:
            InputError: A name that no field has, with the closest that one has; values that cannot be used.
        """
        known = [f.name for f in fields(cls)]
        every = f" Known: {', '.join(known)}."
        unknown = [
            f"Unknown setting `{name}`.{did_you_mean(name, known) or every}" for name in data if name not in known
        ]
        if not unknown:
            return cls(**data)
        try:
            cls(**{name: value for name, value in data.items() if name in known})
        except InputError as error:
            unknown += error.problems
        raise InputError.listing("The training cannot be configured like this", unknown)

    def _unknown_names(self) -> list[str]:
        problems = []
        choices: dict[str, tuple[str | None, ...]] = {
            "task": TASKS,
            "activation": ACTIVATIONS,
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
            "strategy": STRATEGIES,
            "compression": (None, *COMPRESSIONS),
            "on_not_finite": NOT_FINITE,
            "sampling": SAMPLINGS,
            "threshold_metric": (None, *THRESHOLD_METRICS),
        }
        if self.task in METRICS:
            choices["monitor"] = tuple(METRICS[self.task])
            if ":" not in str(self.loss):
                choices["loss"] = (None, *LOSSES[self.task])
        for name, known in choices.items():
            given = getattr(self, name)
            if given not in known:
                names = [str(choice) for choice in known]
                problems.append(
                    f"`{name}` must be one of {', '.join(names)}, not {given!r}.{did_you_mean(str(given), names)}"
                )
        weights = self.class_weights
        if not (weights is None or isinstance(weights, Mapping) or str(weights) == "balanced"):
            problems.append(f"`class_weights` must be None, 'balanced' or a mapping of classes, not {weights!r}.")
        for name in ("nesterov", "refit", "calibrate", "standardise"):
            if not isinstance(getattr(self, name), bool):
                problems.append(f"`{name}` must be true or false, not {getattr(self, name)!r}.")
        return problems

    def _values_out_of_range(self) -> list[str]:
        problems = []
        for name, wanted, holds in RANGES:
            given = getattr(self, name)
            integral = name in WHOLE
            if not is_number(given) or (integral and given != int(given)) or not holds(given):
                if name in INSTEAD and given == INSTEAD[name]:
                    continue
                problems.append(f"`{name}` must be {wanted}, not {given!r}.")
        if isinstance(self.hidden, str) or not isinstance(self.hidden, Sequence):
            problems.append(f"`hidden` must be a list of widths, such as [128], not {self.hidden!r}.")
        else:
            problems += [
                f"`hidden` must hold positive widths, not {width!r}."
                for width in self.hidden
                if not isinstance(width, Integral) or isinstance(width, bool) or width < 1
            ]
        if isinstance(self.class_weights, Mapping):
            problems += [
                f"`class_weights` must be finite and at least 0, not {weight!r} for class {name!r}."
                for name, weight in self.class_weights.items()
                if not is_number(weight) or weight < 0
            ]
        return problems

    def _combinations(self) -> list[str]:
        problems = []
        if self.task == "regression":
            problems += [
                f"`{name}` needs classes; with `task` 'regression' it must be {nothing!r}."
                for name, nothing in (("class_weights", None), ("label_smoothing", 0), ("threshold_metric", None))
                if getattr(self, name) not in (nothing, 0)
            ]
        if self.task != "classification" and self.sampling == "balanced":
            problems.append(f"`sampling` 'balanced' needs one class a row; with `task` {self.task!r} there is none.")
        if self.sampling == "balanced" and str(self.class_weights) == "balanced":
            problems.append(
                "`sampling` and `class_weights` are both 'balanced'; each evens classes out: leave one out."
            )
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            problems.append("`nesterov` needs a `momentum` above 0.")
        return problems

    def _loss_problems(self) -> list[str]:
        """Return what is wrong with the loss and its settings."""
        quantiles = self.quantiles
        if isinstance(quantiles, str) or not isinstance(quantiles, Sequence) or not quantiles:
            return [f"`quantiles` must be a list of numbers, such as [0.1, 0.5, 0.9], not {quantiles!r}."]
        problems = [
            f"`quantiles` must be above 0 and below 1, not {quantile!r}."
            for quantile in quantiles
            if not is_number(quantile) or not 0 < quantile < 1
        ]
        if self.task == "multilabel" and self.label_smoothing:
            problems.append("`label_smoothing` spreads a target over classes; with `task` 'multilabel' it must be 0.")
        module, _, function = str(self.loss).partition(":")
        if ":" in str(self.loss) and not all(part.isidentifier() for part in (*module.split("."), function)):
            problems.append(f"`loss` of your own must be named 'package.module:function', not {self.loss!r}.")
        return problems


def label_text(label: Any) -> str:
    """Return how the training calls a class: as text, whole numbers without a fraction, booleans in lower case."""
    if isinstance(label, bool):
        return str(label).lower()
    return str(int(label)) if is_number(label) and label == int(label) else str(label)
