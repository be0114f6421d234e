"""What a training gives, with Spark and without."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkwright.events import EpochEnded
from sparkwright.models import LINKS
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.columns import LabelKind
from sparkwright.training.subject import Subject

__all__ = ["TrainingResult"]


@dataclass(frozen=True)
class TrainingResult:
    """What was trained, and how it came about.

    Attributes:
        head: From features, float32 of shape (rows, features), to logits, or to the target of a regression. None for a
            network that has its own output.
        classes: Labels in the order of the logits, numbers where the label column holds numbers; empty in a regression.
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
    """

    head: TorchNetwork | None = field(repr=False)
    classes: tuple[str | int | float, ...]
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

    @property
    def validation(self) -> dict[str, float]:
        """Metrics of the validation rows at the best epoch, before calibration; empty without such rows."""
        return self.history[self.best_epoch - 1].validation

    @staticmethod
    def build(
        config: TrainingConfig,
        subject: Subject,
        kind: LabelKind,
        classes: tuple[str, ...],
        weights: dict[str, NDArray[np.float32]],
        **rest: Any,
    ) -> "TrainingResult":
        """Put the trained weights into what was trained; `rest` are the other attributes."""
        outputs = classes if config.link == LINKS[config.task] else ()  # else outputs are no classes
        network, head = subject.trained(config, weights, outputs)
        to = {"text": str, "int": int, "float": float}[kind]
        labels = tuple(to(name) for name in classes)
        return TrainingResult(head=head, classes=labels, config=config, network=network, **rest)
