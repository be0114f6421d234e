"""Tasks of an evaluation: Arrow batches of predictions in, counts and a metric's state out.

These run on executors, and need numpy and pyarrow alone.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sparkwright.errors import InputError
from sparkwright.evaluation.metrics import ClassificationState, RegressionState
from sparkwright.evaluation.multilabel import MultiLabelState

__all__ = [
    "SCHEMA",
    "ClassificationTally",
    "CountRows",
    "Counts",
    "MergeStates",
    "MultiLabelTally",
    "RegressionTally",
    "State",
    "Tally",
]

SCHEMA = "counts string, state binary"
"""What the tasks give, as Spark writes it."""

_EXAMPLES = 20  # labels named of those that are none of the classes

State = TypeVar("State", ClassificationState, MultiLabelState, RegressionState)


class Tally(Protocol[State]):
    """What is counted: a small picklable value."""

    def new_state(self) -> State:
        """Return a state without rows."""
        ...

    def read_state(self, data: bytes) -> State:
        """Rebuild a state from its bytes."""
        ...

    def count(self, batch: pa.RecordBatch, counts: "Counts", state: State) -> None:
        """Count a batch's rows into `counts` and, where they can be evaluated, into `state`."""
        ...


@dataclass
class Counts:
    """How many rows there were, which were left out, and why."""

    rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unlabelled: int = 0
    unknown: int = 0
    unknown_examples: list[str] = field(default_factory=list)

    def merge(self, other: "Counts") -> None:
        """Add another task's counts."""
        self.rows += other.rows
        self.errors.update(other.errors)
        self.unlabelled += other.unlabelled
        self.unknown += other.unknown
        # The first by name, so that they do not depend on the order of merging.
        self.unknown_examples = sorted({*self.unknown_examples, *other.unknown_examples})[:_EXAMPLES]

    def to_json(self) -> str:
        """Return the counts as a string that travels through Spark."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild counts from `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "errors": Counter(values["errors"])})

    def to_dict(self, evaluated: int) -> dict[str, Any]:
        """Return the counts as `sparkwright.evaluation.evaluate` names them."""
        return {
            "rows": self.rows,
            "evaluated": evaluated,
            "errors": self.errors.total(),
            "error_kinds": dict(sorted(self.errors.items(), key=lambda item: (-item[1], item[0]))),
            "unlabelled": self.unlabelled,
            "unknown_labels": {"rows": self.unknown, "examples": self.unknown_examples},
        }

    def leave_out(self, batch: pa.RecordBatch, prediction: str, finite: pa.Array) -> pa.RecordBatch:
        """Count a batch's rows and return those with a prediction and no error.

        Args:
            batch: Columns ``label``, ``error`` and `prediction`.
            prediction: Name of the column that is null where there is no prediction.
            finite: Whether a row's prediction holds numbers alone, null where there is none.
        """
        error = pc.coalesce(
            batch["error"],
            pc.if_else(pc.is_valid(batch[prediction]), pa.scalar(None, pa.string()), "no prediction"),
            pc.if_else(pc.fill_null(finite, True), pa.scalar(None, pa.string()), "not finite"),
        )
        self.rows += len(batch)
        self.errors.update(pc.drop_null(error).to_pylist())
        return batch.filter(pc.is_null(error))


@dataclass(frozen=True)
class ClassificationTally:
    """Counts Arrow batches of (label, probabilities, error) into a state; runs on executors."""

    classes: tuple[str, ...]
    top_k: int
    threshold: float | None = None

    def new_state(self) -> ClassificationState:
        return ClassificationState(len(self.classes), self.top_k)

    def read_state(self, data: bytes) -> ClassificationState:
        return ClassificationState.from_bytes(data)

    def count(self, batch: pa.RecordBatch, counts: Counts, state: ClassificationState) -> None:
        batch = counts.leave_out(batch, "probabilities", _finite(batch["probabilities"], len(self.classes)))
        label = batch["label"]
        if pa.types.is_floating(label.type):
            label = pc.if_else(pc.is_nan(label), pa.scalar(None, label.type), label)
        index = _indices(label, self.classes)
        unknown = pc.and_(pc.is_valid(label), pc.is_null(index))
        counts.unlabelled += label.null_count
        if pc.any(unknown).as_py():
            names = {str(name) for name in label.filter(unknown).to_pylist()}
            counts.merge(Counts(unknown=pc.sum(unknown).as_py(), unknown_examples=sorted(names)[:_EXAMPLES]))
        known = pc.is_valid(index)
        rows = batch["probabilities"].filter(known)
        state.update(
            rows.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(self.classes)),
            index.filter(known).to_numpy(zero_copy_only=False),
            self.threshold,
        )


@dataclass(frozen=True)
class MultiLabelTally:
    """Counts Arrow batches of (labels, probabilities, error) into a state; runs on executors."""

    classes: tuple[str, ...]
    thresholds: tuple[float, ...] = ()

    def new_state(self) -> MultiLabelState:
        return MultiLabelState(len(self.classes))

    def read_state(self, data: bytes) -> MultiLabelState:
        return MultiLabelState.from_bytes(data)

    def count(self, batch: pa.RecordBatch, counts: Counts, state: MultiLabelState) -> None:
        width = len(self.classes)
        batch = counts.leave_out(batch, "probabilities", _finite(batch["probabilities"], width))
        counts.unlabelled += batch["label"].null_count
        batch = batch.filter(pc.is_valid(batch["label"]))
        rows = pc.list_parent_indices(batch["label"]).to_numpy(zero_copy_only=False)
        names = batch["label"].flatten()
        index = _indices(names, self.classes)
        strange = pc.is_null(index).to_numpy(zero_copy_only=False)
        known = np.ones(len(batch), bool)
        known[rows[strange]] = False
        if strange.any():
            examples = sorted({str(name) for name in names.filter(pa.array(strange)).to_pylist()})[:_EXAMPLES]
            counts.merge(Counts(unknown=int((~known).sum()), unknown_examples=examples))
        has = np.zeros((len(batch), width), bool)
        has[rows[~strange], index.drop_null().to_numpy()] = True
        p = batch["probabilities"].flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        state.update(p[known], has[known], self.thresholds)


def _finite(rows: pa.Array, classes: int) -> pa.Array:
    """Return for each row whether its probabilities are finite, null where it has none."""
    lengths = pc.list_value_length(rows)
    wrong = pc.filter(lengths, pc.not_equal(lengths, classes))
    if len(wrong):
        raise InputError(
            f"A row has {wrong[0].as_py()} probabilities, and there are {classes} classes. Give the classes of the "
            "model that made the predictions."
        )
    values = rows.flatten().to_numpy(zero_copy_only=False)  # of rows that are not null; a null element is NaN
    finite = np.ones(len(rows), bool)
    finite[pc.is_valid(rows).to_numpy(zero_copy_only=False)] = np.isfinite(values).reshape(-1, classes).all(1)
    return pa.array(finite)


def _indices(label: pa.Array, classes: tuple[str, ...]) -> pa.Array:
    """Return each label's class index, null where it is none."""
    if pa.types.is_string(label.type) or pa.types.is_large_string(label.type):
        return pc.index_in(label, pa.array(classes, label.type))
    return pc.index_in(pc.cast(label, pa.float64(), safe=False), pa.array(_class_values(classes)))


def _class_values(classes: tuple[str, ...]) -> npt.NDArray[np.float64]:
    try:
        return np.array([float(name) for name in classes])
    except ValueError:
        return np.arange(len(classes), dtype=np.float64)


@dataclass(frozen=True)
class RegressionTally:
    """Counts Arrow batches of (label, prediction, error) into a state; runs on executors."""

    def new_state(self) -> RegressionState:
        return RegressionState()

    def read_state(self, data: bytes) -> RegressionState:
        return RegressionState.from_bytes(data)

    def count(self, batch: pa.RecordBatch, counts: Counts, state: RegressionState) -> None:
        batch = counts.leave_out(batch, "prediction", pc.is_finite(batch["prediction"]))
        labelled = pc.fill_null(pc.is_finite(batch["label"]), False)
        counts.unlabelled += len(batch) - pc.sum(labelled, min_count=0).as_py()
        batch = batch.filter(labelled)
        state.update(batch["prediction"].to_numpy(), batch["label"].to_numpy())


@dataclass(frozen=True)
class CountRows(Generic[State]):
    """A task of the first stage: rows in, one pair of counts and state out."""

    tally: Tally[State]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counts, state = Counts(), self.tally.new_state()
        for batch in batches:
            self.tally.count(batch, counts, state)
        if counts.rows:
            yield _packed(counts, state)


@dataclass(frozen=True)
class MergeStates(Generic[State]):
    """A task of the later stages: pairs of counts and state in, one out; it holds two states at a time."""

    tally: Tally[State]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counts, state = Counts(), self.tally.new_state()
        for batch in batches:
            for part, data in zip(batch["counts"], batch["state"], strict=True):
                counts.merge(Counts.from_json(part.as_py()))
                state.merge(self.tally.read_state(data.as_py()))
        if counts.rows:
            yield _packed(counts, state)


def _packed(counts: Counts, state: ClassificationState | MultiLabelState | RegressionState) -> pa.RecordBatch:
    return pa.record_batch(
        [pa.array([counts.to_json()], pa.string()), pa.array([state.to_bytes()], pa.binary())], ["counts", "state"]
    )
