"""The rows of a search in one process: encoded once, and dealt to every trial's folds and replicas without copying.

All trials see the rows under one seed, so a row's hash says for any number of replicas which of them has it: the rows
are encoded for one replica, and a trial of more hides from each what others have. The same goes for folds.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparkwright.data.local import to_arrow
from sparkwright.errors import InputError
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import moments_of
from sparkwright.training.rows.columns import SIDES, Columns, LabelKind
from sparkwright.training.rows.encoding import ENCODED, TRAIN, VALIDATION, Encoding
from sparkwright.training.rows.moments import Moments
from sparkwright.training.rows.population import AllowedClasses, Invalid, Population, examine
from sparkwright.training.rows.readers import Reader
from sparkwright.training.rows.store import Census, Rows, Store
from sparkwright.training.subject import Subject
from sparkwright.training.transports.in_process import InProcess
from sparkwright.tuning.folds import deal_folds

if TYPE_CHECKING:
    from sparkwright.data.local import LocalTable

__all__ = [
    "GROUP",
    "ROWS_AT_ONCE",
    "Groups",
    "RowsPlan",
    "TrialEncoding",
    "TrialRows",
    "read_local",
]

GROUP = pa.field("group", pa.int64())
"""What a search's encoded rows have besides `ENCODED`: the hash of each row's group."""

ROWS_AT_ONCE = 8192
"""Rows that are encoded or read at a time."""


@dataclass(frozen=True)
class RowsPlan:
    """What a search's rows are and how they are dealt.

    Args:
        columns: Where to find what.
        kind: What labels were before they became text.
        config: The search's base: task, seed, share of the rows that validate.
        classes: Labels that are allowed; None takes those that there are.
        invalid: Whether rows that cannot be trained on are left out.
        group: Column of what folds must not divide; null is a group of its own.
        folds: Parts of the rows, each of which validates once; None: the rows have sides.
    """

    columns: Columns
    kind: LabelKind
    config: TrainingConfig
    classes: AllowedClasses = None
    invalid: Invalid = "error"
    group: str | None = None
    folds: int | None = None

    @property
    def names(self) -> list[str]:
        """The table's columns that are read, each once."""
        return list(dict.fromkeys([*self.columns.names, *([self.group] if self.group else [])]))


@dataclass(frozen=True)
class TrialEncoding:
    """Encodes rows for one replica, with the hash of each row's group behind them; the function of a stage.

    Args:
        plan: Of the search.
        encoding: Of the rows.
    """

    plan: RowsPlan
    encoding: Encoding

    @staticmethod
    def of(plan: RowsPlan, reader: Reader) -> "TrialEncoding":
        return TrialEncoding(plan, Encoding.of(plan.config, plan.columns, (0,), reader.payload))

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                encoded = self.encoding.encode(batch)
                group = self._groups(batch, encoded["key"])
                yield pa.record_batch([*encoded.columns, group], schema=ENCODED.append(GROUP))

    def _groups(self, batch: pa.RecordBatch, key: pa.Array) -> pa.Array:
        """Return the hash of each row's group: of the whole row where there is none."""
        if self.plan.group is None:
            return key
        named = batch.column(self.plan.group).cast(pa.string()).dictionary_encode()
        hashes = [blake2b(name.encode(), digest_size=8).digest() for name in named.dictionary.to_pylist()]
        known = pa.array([int.from_bytes(digest, signed=True) for digest in hashes], pa.int64())
        return pc.coalesce(known.take(named.indices), key)


class TrialRows:
    """The rows of a search in this process, which its trials share.

    Args:
        plan: Of the search.
        rows: All of them, as those of one replica.
        census: Counts of all rows.
        group_N: Hash of each row's group.

    Attributes:
        plan: Of the search.
        census: Counts of all rows.
        population: What the rows are together, for the search's base; with folds those of the first.

    Raises:
        ColumnError: Rows that cannot be trained on; features of several widths.
        InputError: The rows cannot be trained on, or none validates.
    """

    def __init__(self, plan: RowsPlan, rows: Rows, census: Census, group_N: NDArray[np.int64]) -> None:
        self.plan = plan
        self._rows = rows
        self.census = census
        dealt = plan.folds is not None
        self._fold_N = deal_folds(plan.folds, rows.key, group_N, rows.label, rows.target) if plan.folds else None
        # A process trains trials of few shapes, again and again.
        self._of_fold = lru_cache(plan.folds or 1)(self._sided)
        self._of_replicas = lru_cache(8 * (plan.folds or 1))(self._dealt)
        self._moments: dict[tuple[int, int, bool, str], Moments] = {}
        self.population = self.trial(plan.config)[0]
        if not dealt and not self.population.validated:
            raise InputError(
                "No row validates, so no trial is better than another: give rows the side 'validation', raise "
                "`validation_fraction`, or set `folds`."
            )

    def trial(self, config: TrainingConfig, fold: int = 0) -> tuple[Population, dict[int, Rows]]:
        """Return what a trial trains on: what the rows are together, and those of each of its replicas.

        They are those of `fit_table` with the rows' sides, or with a column that says which rows are in the fold.

        Raises:
            InputError: They cannot be trained on as `config` says, such as fewer rows than replicas.
        """
        plan = self.plan
        if config.objective == "poisson" and np.any(self._rows.target < 0):  # which the base's loss may have allowed
            raise InputError(f"`{plan.columns.label}` is negative, and a Poisson loss takes counts.")
        population = examine(self._of_fold(fold)[1], config, plan.columns, plan.kind, plan.classes, plan.invalid)
        return population, self._of_replicas(fold, config.replicas)

    def moments(self, config: TrainingConfig, subject: Subject, fold: int = 0) -> Moments:
        """Return the moments of the training rows of a trial, as its training would measure them.

        Raises:
            InputError: As `trial`.
        """
        features = subject.standardises(config)
        key = (fold, config.replicas, features, json.dumps(config.to_dict()["class_weights"], sort_keys=True))
        if key not in self._moments:
            population, rows = self.trial(config, fold)
            self._moments[key] = moments_of(config, population, rows, InProcess(config.replicas), subject)
        return self._moments[key]

    def _sided(self, fold: int) -> tuple[NDArray[np.int8], Census]:
        """Return the side of each row where a fold validates, and the counts."""
        if self._fold_N is None:
            return self._rows.side, self.census
        side_N = np.where(self._fold_N == fold, VALIDATION, TRAIN).astype(np.int8)
        known = self.census
        census = Census(widths=known.widths, problems=known.problems, examples=known.examples)
        key = self._rows.key.view(np.uint64)
        for side in (TRAIN, VALIDATION):
            mine, name = side_N == side, SIDES[side]
            census.rows[name] = int(np.count_nonzero(mine))
            census.keys[name] = int(key[mine].sum()) % 2**64
            counted = self._rows.label.filter(pa.array(mine)).flatten().value_counts()
            census.labels[name] = Counter({each["values"].as_py(): each["counts"].as_py() for each in counted})
        return side_N, census

    def _dealt(self, fold: int, replicas: int) -> dict[int, Rows]:
        """Return the rows of each replica: all of them, of which it sees its own."""
        side_N = self._of_fold(fold)[0]
        replica_N = self._rows.key.view(np.uint64) % replicas
        sides = {number: np.where(replica_N == number, side_N, -1).astype(np.int8) for number in range(replicas)}
        return {number: replace(self._rows, side=side) for number, side in sides.items()}


class Groups:
    """Notes the groups of rows that pass by.

    Args:
        batches: Encoded rows with their groups; read once.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self._known: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self._known.append((batch["key"].to_numpy(), batch["group"].to_numpy()))
            yield batch.drop_columns(["group"])

    def of(self, key_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the group of each row, given the hash of its content; equal rows of several groups are in one."""
        if not self._known:
            return key_N
        key, group = map(np.concatenate, zip(*self._known, strict=True))
        order = np.lexsort((group, key))
        found: NDArray[np.int64] = group[order][np.searchsorted(key[order], key_N)]
        return found


def read_local(table: "LocalTable", plan: RowsPlan, reader: Reader) -> TrialRows:
    """Encode the rows of a table that this process holds; those of the test side are left alone.

    Raises:
        ColumnError: Rows that cannot be trained on, counted by what is wrong.
        InputError: See `TrialRows`.
    """
    rows, split = to_arrow(table, plan.names), plan.columns.split
    if split is not None:
        rows = rows.filter(pc.fill_null(pc.not_equal(rows[split], "test"), True))
    store = Store(range(1), 1 << 62, Path(tempfile.gettempdir()), reader)
    groups = Groups(TrialEncoding.of(plan, reader)(iter(rows.to_batches(ROWS_AT_ONCE))))
    for batch in groups:
        store.add(batch)
    examine(store.census, plan.config, plan.columns, plan.kind, plan.classes, plan.invalid)
    own = store.finish(int(next(iter(store.census.widths), 0)))[0]
    return TrialRows(plan, own, store.census, groups.of(own.key))
