"""The run of a training that Python asked for: configuration, events, figures and report in a folder."""

from collections.abc import Callable, Mapping
from typing import Any

from sparkwright import storage
from sparkwright.errors import InputError
from sparkwright.events import Emit, Event
from sparkwright.runs import CHECKPOINTS, FIT, METRICS, opened
from sparkwright.training.checkpoints import newest
from sparkwright.training.config import TrainingConfig
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.columns import Columns
from sparkwright.training.rows.population import AllowedClasses
from sparkwright.training.subject import Subject

__all__ = ["asked_for", "recorded"]

Fit = Callable[[str | None, Emit], TrainingResult]
"""A training: takes the folder for its checkpoints, and what takes its events."""


def recorded(
    fit: Fit, asked: Mapping[str, Any], run: str | None, checkpoints: str | None, emit: Emit
) -> TrainingResult:
    """Train in a run's folder: what happens is kept there, and at the end figures and report, however it ends.

    A run of the same configuration that was interrupted goes on from its checkpoints; one without any is replaced.

    Args:
        fit: The training.
        asked: The run's configuration.
        run: The run's folder; None keeps no run.
        checkpoints: Without a run: a folder for checkpoints alone; None keeps none.
        emit: What takes the events, too.

    Raises:
        ExistsError: The folder holds another run, or something else; or another process works there.
        InputError: It holds checkpoints of another configuration; the differences are listed. Or both are named.
    """
    if run is not None and checkpoints is not None:
        raise InputError("Name `run`, whose folder holds its checkpoints, or `checkpoints` alone; both are named.")
    if run is None:
        return fit(None if checkpoints is None else storage.to_uri(checkpoints), emit)
    with opened(run, FIT, asked, lambda: newest(storage.join(run, CHECKPOINTS)) is not None) as kept:

        def tell(event: Event) -> None:
            kept.emit(event)
            emit(event)

        result = fit(kept.path(CHECKPOINTS), tell)
        kept.metrics = {"validation": result.validated}
        seconds = {phase: round(value, 3) for phase, value in result.seconds.items()}
        counted = {"rows": result.rows, "skipped": result.skipped, "parameters": result.parameters}
        kept.write(METRICS, {**kept.metrics, **counted, "seconds": seconds})
    return result


def asked_for(
    config: TrainingConfig, columns: Columns, classes: AllowedClasses, invalid: str, subject: Subject
) -> dict[str, Any]:
    """Return the configuration of a training's run.

    Args:
        config: How.
        columns: On what.
        classes: Labels that are allowed.
        invalid: What becomes of rows that cannot be trained on.
        subject: What is trained.
    """
    label = dict(columns.outputs) or columns.label
    named = {"features": columns.features, "label": label, "weight": columns.weight, "split": columns.split}
    return {
        **subject.asked(),
        "columns": {what: name for what, name in named.items() if name is not None},
        **({} if classes is None else {"classes": classes}),
        "invalid": invalid,
        "training": config.to_dict(),
    }
