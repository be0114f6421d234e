"""What a search gives, and what its run tells of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparkwright.training.result import TrainingResult
from sparkwright.training.settings import CALIBRATED_LOSS
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.halving import rungs
from sparkwright.tuning.selection import Candidate, optimism
from sparkwright.tuning.trials import Trial

__all__ = ["Searched"]


@dataclass(frozen=True)
class Searched:
    """What `search_rows` gives.

    Attributes:
        trials: All that were tried, by number.
        candidates: The best few, trained again with other seeds.
        chosen: The one of them that is kept.
        trained: It, trained with the search's seed as `train` does.
        validated: Rows that a trial was compared by; with folds all of them.
        slots: Jobs that could train at a time.
        seconds: ``"search"``, ``"selection"`` (of the candidates), ``"training"`` (of the chosen one).
    """

    trials: list[Trial]
    candidates: list[Candidate]
    chosen: Candidate
    trained: TrainingResult
    validated: int
    slots: int
    seconds: dict[str, float]

    @property
    def figures(self) -> dict[str, Any]:
        """What ``metrics.json`` says of the validation rows; with folds the means of the chosen one's trainings."""
        trained = self.trained
        figures = trained.validation or self.chosen.metrics
        return {**figures, "rows": self.validated, "epoch": trained.best_epoch, "temperature": trained.temperature}

    def summary(self, config: TuningConfig, test: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what ``metrics.json`` says of the search.

        Args:
            config: How was searched.
            test: Figures of the test rows; None where there are none.
        """
        accuracy = self.chosen.metrics.get("accuracy")
        return {
            "metric": config.metric,
            "direction": config.direction,
            "trials": dict(Counter(trial.state for trial in self.trials)),
            "epochs": sum(trial.epochs for trial in self.trials),
            "chosen": self.chosen.to_dict(),
            # Over the seeds, so that what is told is the search's optimism, not one training's luck.
            "optimism": None
            if accuracy is None or test is None or not test["evaluated"]
            else optimism(accuracy, self.validated, test["accuracy"], test["evaluated"]),
        }

    def document(self, config: TuningConfig, test: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what ``trials.json`` holds, from which `SearchRecord` of the report is made; as `summary`."""
        return {
            "metric": config.metric,
            "direction": config.direction,
            "epochs": config.base.epochs,
            "rungs": rungs(config.base.epochs, config.first_rung, config.eta),
            "space": config.searched.to_dict(),
            "objectives": config.directions,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "chosen": self.chosen.trial,
            "test": None if test is None else _comparable(test, config).get(config.metric),
            "refit": config.base.refit or config.folds is not None,
            "slots": self.slots,
            "sampler": config.to_dict()["sampler"],
            "seed": config.base.seed,
            "repeats": config.repeats,
            "trials": [trial.to_dict() for trial in self.trials],
        }


def _comparable(test: Mapping[str, Any], config: TuningConfig) -> dict[str, float | None]:
    """Return the figures that trials have too: not the plain loss, since the tested model is calibrated."""
    figures = {name: test[name] for name in ("accuracy", "balanced_accuracy")}
    if config.base.calibrate and config.folds is None:  # whose validation rows are left to calibrate on
        figures[CALIBRATED_LOSS] = test["log_loss"]
    return figures | {"macro_f1": (test["macro"] or {}).get("f1")}
