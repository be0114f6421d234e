"""What the estimators give: stages that add a trained head's predictions."""

from typing import TYPE_CHECKING, Any

from sparkwright.events import EpochEnded, Event
from sparkwright.models import Model
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.training.result import TrainingResult

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "MLPClassificationModel",
    "MLPRegressionModel",
    "NetworkClassificationModel",
    "NetworkRegressionModel",
    "TrainedModel",
    "to_model",
]


class TrainedModel(ModelTransformer):
    """What both kinds of trained model share."""

    @property
    def history(self) -> "pd.DataFrame":
        """The epochs of the selection, in order: one row each.

        Columns: ``epoch``, ``train_loss``; ``train_…`` and ``validation_…`` for each metric that was measured;
        ``learning_rate``, ``rows``, ``seconds``, ``sync_share``, ``best`` (whether it was the best so far).
        """
        import pandas as pd

        events = [Event.from_dict(event) for event in self.getModel().lineage["training"]["history"]]
        return pd.DataFrame([_history_row(event) for event in events if isinstance(event, EpochEnded)])

    @property
    def bestEpoch(self) -> int:  # noqa: N802  as Spark's models name their attributes
        """The epoch that the validation rows chose; the last without them."""
        return int(self.getModel().lineage["training"]["best_epoch"])

    @property
    def trials(self) -> "pd.DataFrame":
        """What the `Tuner` tried that gave this model, a row a trial, in their order; no rows where none gave it.

        Columns: ``number``, ``state``, ``reason``, ``value`` (what trials were compared by), ``epochs``,
        ``best_epoch``, ``seconds``, ``attempts``; ``validation_…`` for each metric, ``parameters``; and one for each
        setting that was searched, which is NaN or None in trials that did not have it.
        """
        import pandas as pd

        rows = self.getModel().lineage.get("tuning", {}).get("trials", [])
        return pd.DataFrame([_trial_row(**row) for row in rows])

    @property
    def best(self) -> dict[str, Any]:
        """The settings that the `Tuner` chose; empty where none gave this model."""
        return dict(self.getModel().lineage.get("tuning", {}).get("best", {}).get("values", {}))


def _trial_row(metrics: dict[str, float], values: dict[str, Any], **trial: Any) -> dict[str, Any]:
    costs = ("parameters", "seconds_per_row")
    named = {name if name in costs else f"validation_{name}": value for name, value in metrics.items()}
    return {**trial, **named, **values}


def _history_row(event: EpochEnded) -> dict[str, Any]:
    metrics = {f"train_{name}": value for name, value in event.training.items()}
    metrics |= {f"validation_{name}": value for name, value in event.validation.items()}
    named = ("learning_rate", "rows", "seconds", "sync_share", "best")
    rest = {name: getattr(event, name) for name in named}
    return {"epoch": event.epoch, "train_loss": event.train_loss, **metrics, **rest}


class MLPClassificationModel(TrainedModel):
    """Adds a trained classifier's predictions to features; see `ModelTransformer` for the columns.

    `transform` takes what `fit` took: DataFrames of Spark, or tables of pandas, Arrow and NumPy. `getModel` gives the
    `Model`, to save without Spark or to put on its network; `history` the epochs of the training as a DataFrame.
    """


class MLPRegressionModel(TrainedModel):
    """Adds a trained regression's predictions to features; see `ModelTransformer` for the columns.

    `transform` takes what `fit` took: DataFrames of Spark, or tables of pandas, Arrow and NumPy. `getModel` gives the
    `Model`, to save without Spark or to put on its network; `history` the epochs of the training as a DataFrame.
    """


class NetworkClassificationModel(TrainedModel):
    """Adds the predictions of a network that was trained on the rows themselves; see `ModelTransformer`.

    `getModel` gives the `Model`: the network, with the head on it if it has one.
    """


class NetworkRegressionModel(TrainedModel):
    """Adds the values of a network that was trained on the rows themselves; see `ModelTransformer`.

    `getModel` gives the `Model`: the network, with the head on it if it has one.
    """


def to_model(result: TrainingResult, features: FeatureKey | None = None) -> Model:
    """Return the model that a training gave; its lineage tells how.

    Args:
        result: What `train` or `fit_arrays` returned.
        features: What the features are; a model refuses others.
    """
    training = {
        "config": result.config.to_dict(),
        "best_epoch": result.best_epoch,
        "temperature": result.temperature,
        "sync_every": result.sync_every,
        "history": [event.to_dict() for event in result.history],
        "rows": result.rows,
        "skipped": result.skipped,
        "seconds": result.seconds,
    }
    return Model(
        network=result.network,
        head=result.head,
        task=result.config.task,  # type: ignore[arg-type]  # which the configuration has checked
        classes=result.classes,
        link=result.config.link,
        thresholds=result.thresholds,
        outputs=result.outputs,
        metrics={"validation": result.validation} if result.validation else {},
        lineage={"training": training} | ({"features": features.to_dict()} if features is not None else {}),
    )
