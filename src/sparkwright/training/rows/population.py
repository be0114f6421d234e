"""What all rows of a training are together: checked once, the same in every process."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sparkwright.errors import ColumnError, InputError, did_you_mean
from sparkwright.training.config import REGRESSION, TrainingConfig
from sparkwright.training.rows.columns import Columns, LabelKind, LabelKinds
from sparkwright.training.rows.store import Census

__all__ = ["AllowedClasses", "Population", "examine", "invalid_problems", "left_out"]

MOST_CLASSES = 100_000
MOST_LABELS = 10_000  # where a row has any number of them: each is a byte of each row in memory
Invalid = Literal["error", "skip"]
AllowedClasses = tuple[str, ...] | Mapping[str, tuple[str, ...]] | None
"""Labels that are allowed, in the order of the scores; of several outputs: by name. None: those that there are."""

_INVALID = get_args(Invalid)


@dataclass(frozen=True)
class Population:
    """All rows of a training.

    Attributes:
        width: Number of features; 0 where rows are not of numbers.
        classes: Labels, sorted (numbers by size); empty in a regression, and of several outputs.
        census: The counts.
        outputs: Of several outputs: name → the rows that have a label of it.
    """

    width: int
    classes: tuple[str, ...]
    census: Census
    outputs: "Mapping[str, Population]" = field(default_factory=dict)

    @property
    def validated(self) -> bool:
        """Whether there are validation rows."""
        return self.census.rows["validation"] > 0

    @property
    def named_classes(self) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
        """The classes; of several outputs: by name."""
        return {name: part.classes for name, part in self.outputs.items()} or self.classes

    @property
    def unseen(self) -> dict[str, int]:
        """Label → rows of those labels that only validation rows have."""
        trained: Mapping[str, int] = self.census.labels.get("train", {})
        validated: Mapping[str, int] = self.census.labels.get("validation", {})
        return {label: rows for label, rows in validated.items() if not trained.get(label)}

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells these rows from others, whatever their order: counts and hashes of the sides, classes."""
        if self.outputs:
            own = {f"classes of {name}": part.fingerprint()["classes"] for name, part in self.outputs.items()}
        else:
            classes = hashlib.sha256("\0".join(self.classes).encode()).hexdigest()[:16]
            own = {"classes": f"{len(self.classes)}, hash {classes}"}
        sides = {
            side: f"{rows} rows, hash {self.census.keys[side] % 2**64:016x}"
            for side, rows in sorted(self.census.rows.items())
        }
        return {**sides, "features": self.width, **own}

    def label_counts(self, sides: tuple[str, ...]) -> dict[str, int]:
        """Return label → rows on some sides."""
        return {name: self._rows_of(name, sides) for name in self.classes}

    def _rows_of(self, label: str, sides: tuple[str, ...]) -> int:
        return sum(self.census.labels[side][label] for side in sides if side in self.census.labels)


def invalid_problems(invalid: str) -> list[str]:
    """Return what is wrong with a word for what becomes of rows that cannot be trained on."""
    if invalid in _INVALID:
        return []
    return [f"`handleInvalid` must be {' or '.join(_INVALID)}, not {invalid!r}.{did_you_mean(invalid, _INVALID)}"]


def left_out(rows: int, problems: str) -> str:
    """Say how many rows are left out, and why."""
    what = "row could not be trained on and was" if rows == 1 else "rows could not be trained on and were"
    return f"{rows:,} {what} left out: {problems}."


def examine(
    census: Census,
    config: TrainingConfig,
    columns: Columns,
    kind: LabelKinds = "text",
    classes: AllowedClasses = None,
    invalid: Invalid = "error",
) -> Population:
    """Return what the rows are together.

    Args:
        census: Counts over all rows.
        config: Of the training.
        columns: Names for messages.
        kind: What labels were before they became text; of several outputs: by name.
        classes: Labels that are allowed, in the order of the scores; None takes those that there are.
        invalid: ``"skip"`` leaves out rows that cannot be trained on, ``"error"`` refuses.

    Raises:
        ColumnError: Rows that cannot be trained on, features of several widths, labels that are not in `classes`.
        InputError: No training rows, fewer than replicas, or one class only; an output without labels.
    """
    if census.problems and invalid == "error":
        total = census.rows.total() + census.problems.total()
        raise ColumnError(
            f"{census.problems.total():,} of {total:,} rows cannot be trained on: {census.listed()}. Mend or drop "
            'them, or leave them out with handleInvalid="skip".'
        )
    if len(census.widths) > 1:
        widths = ", ".join(f"{int(width):,} ({count:,} rows)" for width, count in census.widths.most_common(5))
        named = ", ".join(f"`{name}`" for name in columns.features)
        raise ColumnError(
            f"All rows of {named} must have the same number of features; they have {widths}. Rows of "
            "different networks or layers do not mix."
        )
    rows = census.rows["train"]
    if not rows:
        raise InputError(
            "There are no training rows"
            + (f": no row has 'train' in `{columns.split}`." if columns.split else ": the table is empty.")
        )
    if rows < config.replicas:
        raise InputError(
            f"`replicas` is {config.replicas}, but there are only {rows} training rows; each replica needs one at "
            f"least. Lower `replicas` to {rows} or less."
        )
    if config.validation_fraction and not census.rows["validation"]:
        raise InputError(
            f"`validationFraction` is {config.validation_fraction:g}, of {rows} training rows, and none fell to "
            "validation. Raise it, take another `seed`, or name the rows' sides in a column."
        )
    if config.schedule == "plateau" and not census.rows["validation"]:
        raise InputError(
            "`schedule` 'plateau' looks at validation rows, and there are none: set `validationFraction`, name the "
            "rows' sides in a column, or take another schedule."
        )
    if config.threshold_metric is not None and not census.rows["validation"]:
        raise InputError(
            "`thresholdMetric` looks at validation rows, and there are none: set `validationFraction`, or name the "
            "rows' sides in a column."
        )
    width = int(next(iter(census.widths), 0))
    if config.outputs is not None:
        return Population(width, (), census, _outputs(width, census, config, columns, kind, classes))
    if isinstance(kind, Mapping) or isinstance(classes, Mapping):
        raise InputError("`classes` by name are those of several outputs, and there is one.")
    return Population(width, _classes(census, config, columns, kind, classes), census)


def _outputs(
    width: int, census: Census, config: TrainingConfig, columns: Columns, kinds: LabelKinds, classes: AllowedClasses
) -> dict[str, Population]:
    """Return what the rows with a label of each of several outputs are together."""
    if not isinstance(classes, Mapping | None):
        raise InputError("`classes` of several outputs must map an output to its classes.")
    found = {}
    for name, own in config.parts.items():
        there, named = census.of_output(name), columns.of_output(name)
        for side in ("train", "validation"):
            if census.rows[side] and not there.rows[side]:
                raise InputError(
                    f"Output `{name}`: none of {census.rows[side]:,} {side} rows has a label in `{named.label}`, so "
                    f"nothing can {'be learnt' if side == 'train' else 'tell how good it is'}."
                )
        kind = kinds[name] if isinstance(kinds, Mapping) else kinds
        found[name] = Population(width, _classes(there, own, named, kind, (classes or {}).get(name)), there)
    return found


def _classes(
    census: Census, config: TrainingConfig, columns: Columns, kind: LabelKind, given: tuple[str, ...] | None
) -> tuple[str, ...]:
    if config.task == "regression":
        return ()
    found = {label for side in census.labels.values() for label in side}
    names = sorted(found) if kind == "text" else sorted(found, key=int)
    if given is not None:
        unknown = [name for name in names if name not in given]
        if unknown:
            raise ColumnError(
                f"`{columns.label}` holds labels that are no classes: {', '.join(unknown[:10])}."
                + did_you_mean(unknown[0], given)
            )
        names = list(given)
    trained = [name for name in names if census.labels["train"][name]]
    if config.task == "multilabel" and not trained:
        raise InputError(
            f"A training of several labels a row needs rows with a label; `{columns.label}` has none in training."
        )
    if config.task == "classification" and len(trained) < 2:
        only = f"only {trained[0]!r}" if trained else "none"
        raise InputError(f"A classifier needs rows of at least two classes in training; `{columns.label}` has {only}.")
    if len(names) > (most := MOST_LABELS if config.task == "multilabel" else MOST_CLASSES):
        raise InputError(
            f"`{columns.label}` has {len(names):,} different labels; at most {most:,} are taken. For numbers "
            f"use {REGRESSION}."
        )
    if config.task == "classification" and len(names) > 2:
        if config.objective == "binary_cross_entropy":
            raise InputError(f"`loss` 'binary_cross_entropy' takes two classes; `{columns.label}` has {len(names):,}.")
        if config.threshold_metric is not None:
            raise InputError(
                f"`thresholdMetric` chooses between two classes; `{columns.label}` has {len(names):,}. Where rare "
                "classes are predicted too rarely, train with `classWeights` or `sampling` 'balanced', and let "
                "`monitor` 'balanced_accuracy' or 'macro_f1' choose the epoch. Labels that each need a threshold of "
                "their own are several labels a row (`task` 'multilabel')."
            )
    if isinstance(config.class_weights, dict):
        unknown = [name for name in config.class_weights if name not in names]
        if unknown:
            raise InputError(
                f"`classWeights` names classes that no row has: {', '.join(unknown[:10])}."
                + did_you_mean(unknown[0], names)
            )
    return tuple(names)
