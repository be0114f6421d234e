"""What a training is told: one frozen value, checked as a whole."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal, Self

from sparkwright import models
from sparkwright.errors import InputError, did_you_mean
from sparkwright.training.checks import problems_of, rate_pairs
from sparkwright.training.settings import (
    CALIBRATED_LOSS,
    LINKS,
    LOSSES,
    MULTITASK,
    RANGES,
    WHOLE,
    is_number,
    metrics_of,
)

__all__ = ["FINETUNING", "REGRESSION", "RateTable", "TrainingConfig", "label_text"]

RateTable = Mapping[float, float] | Sequence[tuple[float, float]]
"""When → learning rate from then on."""

REGRESSION = 'TrainingConfig(task="regression")'
"""What errors advise for numbers; an estimator's name the estimator instead."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a head is trained. The result depends on this value and the rows, never on the workers.

    The defaults suit a linear head on pooled features of a pre-trained network with tens of rows a class; they were
    chosen on validation rows by ``benchmarks/head_defaults.py``.

    Args:
        task: ``"classification"`` (one class a row), ``"multilabel"`` (any number of labels a row) or
            ``"regression"``. With `outputs` each has its own.
        outputs: Of a network that gives several things, or of a head that is to: name of each output, in their order →
            its task, or a mapping with its ``task``; its ``loss``, ``focal_gamma``, ``huber_delta``, ``quantiles``,
            ``class_weights`` and ``label_smoothing``, which mean what they do here; and its ``weight`` (1): what its
            loss is multiplied with in their sum. ``{"kind": "classification", "height": {"task": "regression",
            "weight": 0.5}}``. A row trains the outputs whose labels it has. None: one output.
        hidden: Widths of the hidden layers; none makes a linear head.
        activation: Activation after each hidden layer: one of `sparkwright.training.settings.ACTIVATIONS`.
        dropout: Share of each hidden layer's outputs (without hidden layers: of the features) dropped while training.
            None: 0.3 in a classification, 0 in a regression and with several outputs.
        optimizer: ``"sgd"``, ``"adam"``, ``"adamw"``, ``"rmsprop"``, ``"adadelta"``, ``"adagrad"``, or for large
            batches ``"lamb"`` or ``"lars"``.
        learning_rate: The schedule's highest rate. None: 0.02 for SGD; for Adam and AdamW 0.006, in a
            regression and with several outputs 0.01; for the others 10 (LARS), 1 (Adadelta), 0.01 (Adagrad, LAMB),
            0.001 (RMSprop).
        momentum: Momentum of SGD, LARS and RMSprop; first-moment decay of Adam, AdamW and LAMB.
        nesterov: Whether the momentum of SGD and LARS looks ahead (Sutskever et al. 2013).
        beta2: Decay of the mean of squared gradients. None: 0.999 for Adam, AdamW and LAMB, 0.99 for RMSprop, 0.9 for
            Adadelta.
        epsilon: What is added to the root of that mean. None: 1e-8 for Adam, AdamW and RMSprop, 1e-6 for LAMB and
            Adadelta, 1e-10 for Adagrad.
        weight_decay: L2 penalty of weights (never of biases); AdamW decouples it (Loshchilov and Hutter 2019). None: in
            a classification 0.003 for SGD and 1 for AdamW, else 0.
        rate_decay: What the rate is multiplied with from each of the network's blocks to the one before it: the head
            has the whole rate, the block below it this share, and so on (Howard and Ruder 2018).
        layer_rates: Layer → what the rate of its weights, and of all that is inside it, is multiplied with; instead
            of `rate_decay` there.
        clip_norm: Euclidean norm that a step's gradient is shortened to, if it is longer; None leaves it.
        clip_value: Largest magnitude of a gradient's element, likewise, before `clip_norm`.
        accumulate: Parts that a step's rows are cut into; their gradients add up, which takes less memory. A step has
            up to `batch_size` · `accumulate` rows.
        schedule: ``"constant"``; ``"cosine"`` or ``"linear"`` (to 0 at the last epoch); ``"step"`` (times `drop_factor`
            after each of `drop_at`); ``"plateau"`` (times `drop_factor` when the validation rows show no better
            `monitor` for `plateau_patience` looks); ``"one_cycle"`` (up from a 25th during `warmup`, or 30 % of the
            epochs, then down to almost 0; Smith and Topin 2018); or ``"table"``, of `rate_table`.
        warmup: Epochs during which the rate rises linearly from 0; may be a fraction.
        drop_at: Shares of the epochs after which ``"step"`` lowers the rate.
        drop_factor: What ``"step"`` and ``"plateau"`` multiply the rate with.
        plateau_patience: Looks at the validation rows without a better one, after which ``"plateau"`` lowers the rate.
        rate_table: Epoch (from 0, may be a fraction) or step (from 0) → rate from there on; the first must be 0.
        rate_table_unit: What `rate_table` counts: ``"epoch"`` or ``"step"``.
        weight_average: None, or which mean of the weights is validated and kept instead of the last ones: ``"ema"``
            (exponential, moved each step) or ``"swa"`` (of the weights at each epoch's end; Izmailov et al. 2018).
            Running statistics of BatchNorm that are trained are averaged alike.
        ema_decay: Share of the ``"ema"`` that a step leaves; at first less: (1 + step) / (10 + step).
        swa_from: Share of the epochs after which ``"swa"`` begins; from there on the rate stays as it is.
        unfreeze: Epoch → the first layer that trains from then on, or ``"all"``, such as ``{1: "head", 3: "block5"}``;
            what no entry has reached stays as it is. All of these epochs must come, if `epochs` do. None trains all
            layers that are not frozen from the first epoch.
        batch_norm: Running statistics of BatchNorm: ``"averaged"`` with the weights at each sync; ``"local"``: each
            replica's own until the epoch's end, where they are averaged; or ``"frozen"``: layers of BatchNorm normalise
            by the statistics that they came with.
        device: ``"cpu"``, or ``"cuda"``: a GPU for each replica, of those that Spark's resource scheduling gives the
            task, else of all that the process sees, in turn. Sums are made in the hosts' memory either way.
        precision: ``"float32"``, or ``"bfloat16"`` for the products of the forward and backward pass (autocast);
            weights and optimiser stay in float32.
        channels_last: Whether the channels of a pixel lie side by side in memory: faster convolutions on many
            processors, with other roundings.
        compile: Whether ``torch.compile`` makes kernels for the network, which needs a C++ compiler (g++) and
            Python's headers on the workers.
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
        health_every: Steps between two looks at how each layer of one replica learns
            (`sparkwright.training.replica.health`), the first few of which come sooner; None never looks. The result
            does not depend on it.
        monitor: What chooses the best epoch, of the validation rows: ``"loss"``, ``"calibrated_loss"`` (the least
            log-loss that one factor for all logits gives, as `calibrate` will), ``"accuracy"``,
            ``"balanced_accuracy"`` or ``"macro_f1"``; with several labels a row ``"loss"``, ``"subset_accuracy"`` (all
            labels are right), ``"micro_f1"`` or ``"macro_f1"``; in a regression ``"loss"``, ``"rmse"``, ``"mae"`` or
            ``"r2"``. Of several outputs ``"loss"``, the sum of theirs, or one of an output's own, such as
            ``"kind.accuracy"``. ``"auto"``: the loss; the calibrated one of a classifier that is calibrated and learns
            from smoothed labels or by the focal loss, which make it less sure than it is right.
        refit: Train again, from the start, on training and validation rows for the best number of epochs, over which
            the schedule then stretches.
        calibrate: Divide a classifier's logits by the one number that makes its probabilities fit the validation rows
            best (Guo et al. 2017); labels stay as they are. Without validation rows there is nothing to fit; the
            ``"ordinal"`` loss has no logits to divide; several outputs stay as they are.
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
    outputs: Mapping[str, str | Mapping[str, Any]] | None = None
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    dropout: float | None = None
    optimizer: str = "adamw"
    learning_rate: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    beta2: float | None = None
    epsilon: float | None = None
    weight_decay: float | None = None
    rate_decay: float = 1.0
    layer_rates: Mapping[str, float] | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    schedule: str = "cosine"
    warmup: float = 0.0
    drop_at: tuple[float, ...] = (0.5, 0.75)
    drop_factor: float = 0.1
    plateau_patience: int = 5
    rate_table: RateTable | None = None
    rate_table_unit: str = "epoch"
    weight_average: str | None = None
    ema_decay: float = 0.999
    swa_from: float = 0.75
    unfreeze: Mapping[int, str] | None = None
    batch_norm: str = "averaged"
    device: str = "cpu"
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
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
    health_every: int | None = 200
    monitor: str = "auto"
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
        if isinstance(self.outputs, Mapping) and self.outputs:
            told = {name: {"task": own} if isinstance(own, str) else own for name, own in self.outputs.items()}
            object.__setattr__(self, "outputs", told)
            if self.task == "classification":  # the default
                object.__setattr__(self, "task", MULTITASK)
        if is_number(self.quantiles):
            object.__setattr__(self, "quantiles", (self.quantiles,))
        problems = problems_of(self)
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
        if self.unfreeze is not None:
            plain["unfreeze"] = {int(epoch): str(layer) for epoch, layer in self.unfreeze.items()}
        if self.layer_rates is not None:
            plain["layer_rates"] = {str(name): float(factor) for name, factor in self.layer_rates.items()}
        if self.outputs is not None:
            plain["outputs"] = {name: self._plain_output(own) for name, own in self._told.items()}
        plain["drop_at"] = tuple(float(share) for share in self.drop_at)
        if self.rate_table is not None:
            plain["rate_table"] = rate_pairs(self.rate_table)
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    def _plain_output(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is said of one of several outputs, as plain as the same settings of one output."""
        own = type(self)(**{name: value for name, value in told.items() if name != "weight"})
        return {name: float(value) if name == "weight" else getattr(own, name) for name, value in told.items()}

    @property
    def rate(self) -> float:
        """`learning_rate`, or what None stands for."""
        if self.learning_rate is not None:
            return self.learning_rate
        adam = 0.006 if self._classifies else 0.01
        rates = {"sgd": 0.02, "rmsprop": 0.001, "adadelta": 1.0, "adagrad": 0.01, "lamb": 0.01, "lars": 10.0}
        return rates.get(self.optimizer, adam)

    @property
    def squares_decay(self) -> float:
        """`beta2`, or what None stands for."""
        if self.beta2 is not None:
            return self.beta2
        return {"rmsprop": 0.99, "adadelta": 0.9}.get(self.optimizer, 0.999)

    @property
    def smallest(self) -> float:
        """`epsilon`, or what None stands for."""
        if self.epsilon is not None:
            return self.epsilon
        return {"lamb": 1e-6, "adadelta": 1e-6, "adagrad": 1e-10}.get(self.optimizer, 1e-8)

    @property
    def decay(self) -> float:
        """`weight_decay`, or what None stands for."""
        if self.weight_decay is not None:
            return self.weight_decay
        return {"sgd": 0.003, "adamw": 1.0}.get(self.optimizer, 0.0) if self._classifies else 0.0

    @property
    def dropped(self) -> float:
        """`dropout`, or what None stands for."""
        if self.dropout is not None:
            return self.dropout
        return 0.3 if self._classifies else 0.0

    @property
    def _classifies(self) -> bool:
        return self.task in ("classification", "multilabel")

    @property
    def parts(self) -> dict[str, Self]:
        """Of several outputs: name → the configuration as if that was the only one; empty for one output."""
        return {
            name: self.replace(
                outputs=None, monitor="loss", **{key: value for key, value in own.items() if key != "weight"}
            )
            for name, own in self._told.items()
        }

    @property
    def output_weights(self) -> dict[str, float]:
        """Of several outputs: name → what its loss is multiplied with."""
        return {name: float(own.get("weight", 1.0)) for name, own in self._told.items()}

    @property
    def tasks(self) -> str | dict[str, str]:
        """The task; of several outputs: name → task."""
        return {name: own["task"] for name, own in self._told.items()} or self.task

    @property
    def _told(self) -> dict[str, Mapping[str, Any]]:
        """Of several outputs: name → what is said of it."""
        return {name: own for name, own in (self.outputs or {}).items() if isinstance(own, Mapping)}

    @property
    def objective(self) -> str:
        """`loss`, or what None stands for."""
        return LOSSES[self.task][0] if self.loss is None else self.loss

    @property
    def link(self) -> str:
        """How outputs become probabilities or values: see `sparkwright.models.Model`."""
        return LINKS.get((self.task, self.objective), models.LINKS[self.task])

    @property
    def metrics(self) -> dict[str, Literal["min", "max"]]:
        """What is measured of the validation rows → whether less or more of it is better."""
        return metrics_of(self.task, self.outputs)

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether less or more of `monitored` is better."""
        return self.metrics[self.monitored]

    @property
    def monitored(self) -> str:
        """`monitor`, or what ``"auto"`` stands for."""
        if self.monitor != "auto":
            return self.monitor
        unsure = self.label_smoothing > 0 or self.objective == "focal"
        calibrated = self.task == "classification" and self.calibrate and self.link != "sequential"
        return CALIBRATED_LOSS if unsure and calibrated else "loss"

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values; unknown names raise `InputError`."""
        return type(self).from_dict({**{f.name: getattr(self, f.name) for f in fields(self)}, **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        listed = {name: list(getattr(self, name)) for name in ("hidden", "quantiles", "drop_at")}
        table = None if self.rate_table is None else [list(pair) for pair in rate_pairs(self.rate_table)]
        return dataclasses.asdict(self) | listed | {"rate_table": table}

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


def label_text(label: Any) -> str:
    """Return how the training calls a class: as text, whole numbers without a fraction, booleans in lower case."""
    if isinstance(label, bool):
        return str(label).lower()
    return str(int(label)) if is_number(label) and label == int(label) else str(label)


FINETUNING = TrainingConfig(
    epochs=10,
    learning_rate=5e-5,
    weight_decay=0.05,
    warmup=1,
    weight_average="ema",
    ema_decay=0.98,
    batch_size=24,
    sync_every=4,
    patience=None,
    batch_norm="frozen",
)
"""How a network is fine-tuned if nobody says otherwise: from pre-trained weights, on some thousand photos or fewer.

BatchNorm keeps the statistics that it came with: in the few steps that so few photos make, new ones would lag behind
the weights. The head is good already, so a low rate loses nothing of it (validation rows of UC Merced; at 3e-4 the
network needed all epochs to come back to where the head was). Below 16 photos a batch torch computes convolutions of
1 x 1 by slower kernels on one thread, and replicas' batches are a little smaller than `batch_size`."""
