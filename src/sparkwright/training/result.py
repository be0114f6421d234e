"""What a training gives, with Spark and without."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkwright.events import EpochEnded
from sparkwright.models import LINKS, Label, ModelOutput
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.columns import LabelKind, LabelKinds
from sparkwright.training.subject import Subject
from sparkwright.training.tasks.classification import outputs_of_link

__all__ = ["TrainingResult"]


@dataclass(frozen=True)
class TrainingResult:
    """What was trained, and how it came about.

    Attributes:
        head: From features, float32 of shape (rows, features), to logits, or to the target of a regression. None for a
            network that has its own output.
        classes: Labels in the order of the logits, numbers where the label column holds numbers; empty in a regression,
            and of several outputs.
        history: One event for each epoch of the selection, in order.
        best_epoch: The epoch whose weights, or (refit) whose number was taken.
        temperature: What the logits were divided by, so that probabilities fit the validation rows; 1 without them.
        sync_every: Steps between two syncs, as asked for or as measured.
        thresholds: From which probability on a label is predicted, as `Model` has it; empty: as usual.
        rows: Side → rows.
        skipped: Rows that could not be trained on and were left out.
        seconds: ``"rows"`` (until all rows are on the workers; without Spark: encoded), ``"selection"``, ``"refit"``.
        config: How it was trained.
        network: From rows to features, if it was trained too; None for a head alone.
        outputs: Several outputs, as `Model` has them; else empty.
    """

    head: TorchNetwork | None = field(repr=False)
    classes: tuple[Label, ...]
    history: list[EpochEnded] = field(repr=False)
    best_epoch: int
    temperature: float
    sync_every: int
    thresholds: tuple[float, ...]
    rows: dict[str, int]
    skipped: int
    seconds: dict[str, float]
    config: TrainingConfig
    network: TorchNetwork | None = field(default=None, repr=False)
    outputs: tuple[ModelOutput, ...] = ()

    @property
    def validation(self) -> dict[str, float]:
        """Metrics of the validation rows at the best epoch, before calibration; empty without such rows."""
        return self.history[self.best_epoch - 1].validation

    @property
    def validated(self) -> dict[str, Any]:
        """What a run's ``metrics.json`` says of the validation rows: metrics, how many, epoch and temperature."""
        rows, epoch = self.rows.get("validation", 0), self.best_epoch
        return {**self.validation, "rows": rows, "epoch": epoch, "temperature": self.temperature}

    @property
    def parameters(self) -> int:
        """How many numbers network and head learn, those of frozen layers included."""
        parts = [part.module for part in (self.network, self.head) if part is not None]
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    @staticmethod
    def build(
        config: TrainingConfig,
        subject: Subject,
        kind: LabelKinds,
        classes: tuple[str, ...] | Mapping[str, tuple[str, ...]],
        weights: dict[str, NDArray[np.float32]],
        **rest: Any,
    ) -> "TrainingResult":
        """Put the trained weights into what was trained; `rest` are the other attributes.

        Args:
            config: How it was trained.
            subject: What was.
            kind: What labels were before they became text; of several outputs: by name.
            classes: As text, in the order of the outputs; of several outputs: by name.
            weights: The trained ones, by name.
            rest: The other attributes.
        """
        if isinstance(classes, Mapping):
            network, head = subject.trained(config, weights, ())
            found = _outputs(config, kind, classes)
            return TrainingResult(head=head, classes=(), config=config, network=network, outputs=found, **rest)
        outputs = classes if config.link == LINKS[config.task] else ()  # else outputs are no classes
        network, head = subject.trained(config, weights, outputs)
        labels = _labels(classes, kind)  # type: ignore[arg-type]  # one output has one kind
        return TrainingResult(head=head, classes=labels, config=config, network=network, **rest)


def _labels(classes: tuple[str, ...], kind: LabelKind) -> tuple[Label, ...]:
    """Return classes as the label column has them."""
    to: Any = {"text": str, "int": int, "float": float}[kind]
    return tuple(to(name) for name in classes)


def _outputs(
    config: TrainingConfig, kinds: LabelKinds, classes: Mapping[str, tuple[str, ...]]
) -> tuple[ModelOutput, ...]:
    """Return what a model knows of several outputs."""
    return tuple(
        ModelOutput(
            name=name,
            task=own.task,  # type: ignore[arg-type]  # which the configuration has checked
            classes=_labels(classes[name], kinds[name] if isinstance(kinds, Mapping) else kinds),
            link=own.link,
            width=_width(own, len(classes[name])),
        )
        for name, own in config.parts.items()
    )


def _width(config: TrainingConfig, classes: int) -> int:
    """Return how many numbers an output gives."""
    if config.task == "regression":
        return len(config.quantiles) if config.objective == "quantile" else 1
    return outputs_of_link(config.link, classes) if config.task == "classification" else classes
