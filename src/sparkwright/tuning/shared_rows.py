"""The rows of a search on Spark: in the run's folder, and copied to the local disk of each executor once.

::

    RUN/tuning/rows/data/                 encoded rows, Parquet by Spark
    RUN/tuning/rows/rows.json             put last: which files they are
    SPARK'S LOCAL FOLDER/tuning-<key>/    an executor's copy: files that all its processes map (`RowFiles`)
"""

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparkwright import storage
from sparkwright.errors import ExistsError, InputError, StorageError, differences
from sparkwright.locks import locked
from sparkwright.session import worker_errors
from sparkwright.training.cluster.fit import MEMORY_MIB, select_rows
from sparkwright.training.rows.columns import SIDES
from sparkwright.training.rows.encoding import ENCODED, ENCODED_DDL
from sparkwright.training.rows.files import RowFiles
from sparkwright.training.rows.population import examine
from sparkwright.training.rows.readers import Reader
from sparkwright.training.rows.store import Census, local_folder
from sparkwright.tuning.records import BEGIN_ANEW
from sparkwright.tuning.trial_rows import GROUP, ROWS_AT_ONCE, Groups, RowsPlan, TrialEncoding, TrialRows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["SharedRows", "check_same_rows", "write_shared"]

_WAIT_S = 0.05
_FACTS, _GROUPS = "census.json", "groups.npy"
_DATA, _MANIFEST = "data", "rows.json"


@dataclass(frozen=True)
class SharedRows:
    """A search's rows in the run's folder; small enough to travel in every job.

    Args:
        uri: Of the encoded rows' folder, which driver and workers share.
        key: Of the rows: executors know their copy by it.
        files: Names of the files.
        plan: Of the search.
        memory_bytes: Rows that are mapped into memory; of more, those of a batch are read from the local disk.
    """

    uri: str
    key: str
    files: tuple[str, ...] = field(repr=False)
    plan: RowsPlan = field(repr=False)
    memory_bytes: int = MEMORY_MIB << 20

    def open(self, reader: Reader) -> TrialRows:
        """Return the rows; copies them to this machine's disk if no process has done so. Runs on executors.

        Raises:
            StorageError: The files cannot be read here.
            ColumnError: Rows that cannot be trained on, counted by what is wrong.
            InputError: See `TrialRows`.
        """
        root, plan = self.root, self.plan
        files = RowFiles(self.key, 0, root, reader)
        with _alone(root):
            if not (root / _FACTS).exists():
                self._copy(files, root)
        census = Census.from_json((root / _FACTS).read_text())
        examine(census, plan.config, plan.columns, plan.kind, plan.classes, plan.invalid)
        loaded = files.load(range(1), int(next(iter(census.widths), 0)), self.memory_bytes)
        if loaded is None:
            raise StorageError(f"{root} has lost rows of the search that were copied there.")
        return TrialRows(plan, loaded[0], census, np.load(root / _GROUPS))

    def remove(self) -> None:
        """Delete this executor's copy."""
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def root(self) -> Path:
        """Folder of an executor's copy, on its local disk."""
        return local_folder() / f"tuning-{self.key}"

    def _copy(self, files: RowFiles, root: Path) -> None:
        for left in root.glob("rows-*"):  # by a process that died
            shutil.rmtree(left, ignore_errors=True)
        groups = Groups(self._read())
        census = files.keep(groups, range(1)).census
        width = int(next(iter(census.widths), 0))
        kept = files.load(range(1), width, self.memory_bytes) if len(census.widths) < 2 else None
        np.save(root / _GROUPS, groups.of(kept[0].key if kept else np.empty(0, np.int64)))
        partial = root / f"{_FACTS}.partial"
        partial.write_text(census.to_json())
        partial.replace(root / _FACTS)  # last: now they are whole

    def _read(self) -> Iterator[pa.RecordBatch]:
        schema = ENCODED.append(GROUP)
        for name in self.files:
            try:
                content = storage.read_bytes(storage.join(self.uri, name))
            except FileNotFoundError as error:
                raise StorageError(f"A worker does not find {name} of the search's rows in {self.uri}.") from error
            for batch in pq.ParquetFile(pa.BufferReader(content)).iter_batches(ROWS_AT_ONCE):
                yield pa.record_batch([batch[name] for name in schema.names], names=schema.names).cast(schema)


def write_shared(df: "DataFrame", plan: RowsPlan, reader: Reader, folder: str) -> SharedRows:
    """Encode a DataFrame's rows into a run's folder, by one job.

    What an earlier search left there is taken as it is, if the rows are still the same: they are read and hashed, as a
    training that goes on does. Runs on the driver, which sees no row.

    Args:
        df: Holds the plan's columns; rows of the test side are not read.
        plan: Of the search.
        reader: Of what is trained.
        folder: Where they go; driver and workers share it.

    Raises:
        InputError: Other rows lie there.
    """
    data, manifest = storage.join(folder, _DATA), storage.join(folder, _MANIFEST)
    more = [plan.group] if plan.group else []
    encoding = TrialEncoding.of(plan, reader)
    encoded = select_rows(df, plan.columns, more).mapInArrow(encoding, f"{ENCODED_DDL}, group bigint")
    if storage.exists(manifest):
        kept = df.sparkSession.read.schema(encoded.schema).parquet(data)
        check_same_rows(folder, _hashes(kept), _hashes(encoded))
    else:
        with worker_errors():
            encoded.write.mode("overwrite").parquet(data)
        files = [name for name in storage.list_files(data) if name.endswith(".parquet")]
        storage.write_bytes(manifest, json.dumps({"key": uuid.uuid4().hex, "files": files}).encode())
    facts = json.loads(storage.read_bytes(manifest))
    return SharedRows(data, facts["key"], tuple(facts["files"]), plan)


def check_same_rows(folder: str, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a search that was begun with other rows.

    Args:
        folder: Of the search.
        there: What tells its rows from others.
        now: The same of those that there are.

    Raises:
        InputError: They differ; with what does.
    """
    if found := differences(there, now):
        raise InputError(
            f"The rows have changed since the search in {folder} began, whose trials were compared on those (there → "
            f"now): {'; '.join(found)}. Go on with the rows as they were, or {BEGIN_ANEW}"
        )


def _hashes(encoded: "DataFrame") -> dict[str, str]:
    """Return the number of rows of each side and sums of their hashes, whatever their order; by one job."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    totals = [F.sum(F.col(name).cast("decimal(38,0)")).alias(name) for name in ("key", "group")]
    with worker_errors():
        rows = encoded.groupBy("side").agg(F.count("*").alias("rows"), *totals).collect()
    found = {}
    for row in rows:
        side = SIDES[row["side"]] if row["side"] >= 0 else "no side"
        found[side] = f"{row['rows']} rows, hash {int(row['key'] + row['group']) % 2**64:016x}"
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder of a local disk; waits for another process of this machine that does."""
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(str(folder)))
            except ExistsError:
                time.sleep(_WAIT_S)
                continue
            yield
            return
