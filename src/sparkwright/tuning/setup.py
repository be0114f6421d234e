"""What the trials of a search train, on which rows: what a runner is told once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from sparkwright.errors import ColumnError, InputError, did_you_mean
from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.columns import Columns, check_columns, label_kind
from sparkwright.training.rows.population import Invalid, Population, invalid_problems
from sparkwright.training.subject import Head, Subject, allowed_classes
from sparkwright.training.tasks.losses import is_own, own_loss
from sparkwright.tuning.costs import count_parameters
from sparkwright.tuning.shared_pass import TOGETHER, heads_at_once
from sparkwright.tuning.trial_rows import RowsPlan

__all__ = ["Setup"]


@dataclass(frozen=True)
class Setup:
    """What all trials of a search have in common, before its rows are known.

    Args:
        base: What holds where a trial's values say nothing.
        columns: Of the table.
        subject: What is trained.
        classes: Labels that are allowed, in the order of the scores; None takes those that there are.
        invalid: ``"skip"`` leaves out rows that cannot be trained on, ``"error"`` refuses them.
        group: Column of what folds must not divide.
        folds: Parts of the rows, each of which validates once; None: the rows have sides.
        costs: What is measured besides the metrics: ``"parameters"``, ``"seconds_per_row"``.
        together: ``"trial"``: a job trains one trial. ``"shared"``: many heads over one stream of batches. ``"auto"``:
            shared where the base's head is small enough.
        losses: Names of those that trials may train with; one's own are imported before the first trial.
    """

    base: TrainingConfig
    columns: Columns
    subject: Subject = field(default_factory=Head)
    classes: Sequence[str] | None = None
    invalid: Invalid = "error"
    group: str | None = None
    folds: int | None = None
    costs: Sequence[str] = ()
    together: str = "trial"
    losses: Sequence[str] = ()

    def plan(self, types: pa.Schema, names: Sequence[str]) -> tuple[RowsPlan, Subject]:
        """Return how a table's rows are dealt, and what is trained on its columns, checked.

        Args:
            types: Of `columns`, as Arrow has them.
            names: All columns of the table.

        Raises:
            ColumnError: A column is missing or of another type.
            InputError: Nothing says which rows validate; a loss of one's own cannot be imported here.
        """
        problems = invalid_problems(self.invalid)
        if self.folds is None and self.columns.split is None and not self.base.validation_fraction:
            problems.append(
                "nothing says which rows validate: name a column of the rows' sides (`split`), or set `folds` or "
                "`validation_fraction`."
            )
        if problems:
            raise InputError.listing("The search cannot be done like this", problems)
        for loss in filter(is_own, self.losses):
            own_loss(loss)
        subject = self.subject.for_column(types, self.columns)
        check_columns(self.columns, types, names, self.base.task, subject.reader.payload)
        if self.group is not None and self.group not in names:
            raise ColumnError(
                f"Column `{self.group}` of the groups not found in {list(names)}.{did_you_mean(self.group, names)}"
            )
        kind, classes = label_kind(types.field(self.columns.label).type), allowed_classes(self.classes, subject)
        return RowsPlan(self.columns, kind, self.base, classes, self.invalid, self.group, self.folds), subject

    def heads_together(self, population: Population, subject: Subject) -> int:
        """Return how many trials a job takes: as many as share a pass well, or one.

        Args:
            population: What the rows are together.
            subject: What is trained on the columns.

        Raises:
            InputError: ``"shared"`` for whole networks.
        """
        if self.together == "trial":
            return 1
        if not isinstance(subject, Head):
            if self.together == "auto":
                return 1
            raise InputError(
                "`together` 'shared' is for heads on features; whole networks train with 'trial', or 'auto'."
            )
        if self.together == "shared":
            return TOGETHER
        return heads_at_once(self.base, count_parameters(self.base, population, subject))
