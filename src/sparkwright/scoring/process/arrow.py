"""The engine on Arrow batches: rows in, rows with results out. Runs in scoring processes.

A `ScoringPlan` says all that a task must know and is small; the network itself is an artifact of the session.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from sparkwright.errors import ErrorRateError
from sparkwright.events import Address, Emit, Progress, TaskTimed, ignore
from sparkwright.networks.preprocessing import AnyPreprocessing, Preprocessing
from sparkwright.networks.ragged import trimming
from sparkwright.scoring.inputs.fetch import FetchLimits
from sparkwright.scoring.inputs.sources import AHEAD_ROWS, Content, Read, Readers, Source, reading, sha256
from sparkwright.scoring.outputs import Output, error_array
from sparkwright.scoring.process.cores import Cores
from sparkwright.scoring.process.engine import Forward, Result, RowError, Scored, held_back, score, score_matrix
from sparkwright.scoring.process.marks import IDLE, MarkedBlock, Marks
from sparkwright.scoring.process.stopwatch import Stopwatch

__all__ = ["ScoringPlan", "Tally", "cut", "rows_held", "run", "unanswered"]

# Output of a block: large enough that a batch's overhead does not count, small enough to keep several.
_BLOCK_BYTES = 8 << 20
_BLOCK_PHOTOS = 256
_BLOCK_NUMBERS = 4096

# A rate needs rows to be one: while a task runs, and at its end.
_ROWS_FOR_RATE, _ROWS_FOR_RATE_AT_END = 100, 20

_MESSAGES = 1000  # different ones that a task remembers


@dataclass(frozen=True)
class ScoringPlan:
    """What a scoring task does.

    Attributes:
        network: Name under which the ONNX file was shipped.
        sha256: Of that file.
        preprocessing: For photos, texts and sounds; None for columns of numbers.
        input_shape: Of one row.
        output_shape: Of one row.
        input_column: Holds photos, texts, sounds, or numbers (arrays, vectors).
        keep: Input columns that go on to the output.
        outputs: Columns that are added.
        error_column: Why a row has no result.
        source: What the input column holds.
        fetch: What a photo may take that lies behind a path or URL.
        digest_column: Where the SHA-256 of a photo's bytes goes (hexadecimal); None for nowhere.
        batch_size: Photos in a micro-batch.
        threads: Threads that the task may use.
        cores: That the tasks of its executor share; None if Spark does not tell.
        max_error_rate: A task with a larger share of failed rows fails; None for any share.
        failfast: The first failed row ends the job.
        row_timeout_s: A row that takes longer to be read gets an error.
        forward_timeout_s: So does one with which the network takes longer.
        stage: What progress is reported as.
        channel: Where to; None for nowhere.
        device: Where the network runs: ``cpu`` or ``cuda``; in a task also which GPU.
    """

    network: str
    sha256: str
    preprocessing: AnyPreprocessing | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input_column: str
    keep: tuple[str, ...]
    outputs: tuple[Output, ...]
    error_column: str
    source: Source = "bytes"
    fetch: FetchLimits = FetchLimits()  # noqa: RUF009  frozen
    digest_column: str | None = None
    batch_size: int = 8
    threads: int = 1
    cores: int | None = None
    max_error_rate: float | None = None
    failfast: bool = False
    row_timeout_s: float = 60
    forward_timeout_s: float = 600
    stage: str = "scoring"
    channel: Address | None = None
    device: str = "cpu"


@dataclass
class Tally:
    """Counts a task's rows.

    Attributes:
        done: Rows that are settled.
        failed: Those without a result.
        errors: How often each of the most frequent ones occurred.
    """

    done: int = 0
    failed: int = 0
    errors: Counter[RowError] = field(default_factory=Counter)

    def add(self, rows: int, errors: Sequence[RowError]) -> None:
        """Count `rows` more, of which some failed."""
        self.done += rows
        self.failed += len(errors)
        self.errors.update(errors)
        if len(self.errors) > _MESSAGES:
            self.errors = Counter(dict(self.errors.most_common(_MESSAGES // 2)))


def run(
    batches: Iterator[pa.RecordBatch | None],
    plan: ScoringPlan,
    network: Forward,
    task: str = "0",
    emit: Emit = ignore,
    folder: Path | None = None,
    tally: Tally | None = None,
    marks: Marks | None = None,
) -> Iterator[pa.RecordBatch]:
    """Score Arrow batches; rows leave in the order in which they came, none is lost.

    Args:
        batches: Pulled as they are needed. None says that no more come until those before are answered.
        plan: What to do.
        network: The forward pass.
        task: Its name in progress.
        emit: Told of progress.
        folder: One that the executor's processes share, where they tell each other of free cores; None for not.
        tally: Of the task's rows that were settled before.
        marks: Where the threads say which row they work on; rows count in the parts that `cut` makes.

    Raises:
        ErrorRateError: more of the task's rows failed than `plan` allows.
    """
    watch = _Watch(plan, task, emit, tally or Tally())
    clock = watch.clock
    if plan.preprocessing is not None and not isinstance(plan.preprocessing, Preprocessing):
        network = trimming(network)
    network = clock.calls("forward", network)
    network = marks.watch(network) if marks else network
    cores = Cores(folder, plan.cores) if folder and plan.cores and plan.preprocessing else None
    scored: Iterator[Scored[Any]]
    with reading(plan.source, plan.fetch) as readers, closing(cores) if cores else nullcontext():
        blocks = _blocks(clock.each("read", batches), plan, marks, readers, clock)
        if plan.preprocessing is not None:
            scored = score(
                blocks,
                network,
                plan.input_shape,
                batch_size=plan.batch_size,
                threads=plan.threads,
                cores=cores,
                settled=watch.settled,
            )
        else:
            scored = score_matrix((block for block in blocks if block is not None), network, settled=watch.settled)
        yield from clock.taken("write", map(partial(_to_batch, plan), scored))
    watch.end()


def rows_held(plan: ScoringPlan) -> int:
    """Return how many rows `run` may hold back until it gets more, or None, or the end."""
    return held_back(plan.batch_size, plan.threads) + (AHEAD_ROWS if plan.source == "locations" else 0)


def cut(batch: pa.RecordBatch, plan: ScoringPlan) -> Iterator[pa.RecordBatch]:
    """Cut a batch, without copying, into parts whose output is small."""
    most = _BLOCK_NUMBERS if plan.preprocessing is None else _BLOCK_PHOTOS
    rows = max(1, min(most, _BLOCK_BYTES // (4 * max(1, prod(plan.output_shape)))))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _blocks(
    batches: Iterator[pa.RecordBatch | None],
    plan: ScoringPlan,
    marks: Marks | None,
    readers: Readers,
    clock: Stopwatch,
) -> Iterator[Any]:
    """Yield `MarkedBlock` and `_Photos`, or `_Numbers`; None where there is None."""
    number = 0
    parts = (part for batch in batches for part in ([None] if batch is None else cut(batch, plan)))
    if plan.preprocessing is None:
        for part in parts:
            if part is not None and marks:  # numbers are read all at once
                marks.write(IDLE, number, part.num_rows - 1)
            number += part is not None
            yield None if part is None else _Numbers(part, plan)
        return
    for block in readers(parts, plan.input_column):
        if block is None:
            yield None
            continue
        photos = _Photos(block[0], plan, block[1], clock)
        yield MarkedBlock(photos, number, marks) if marks else photos
        number += 1


class _Photos:
    """A block of photos, texts or sounds; `digests` fill up while they are read. Without `photo` it is not to be."""

    def __init__(
        self, batch: pa.RecordBatch, plan: ScoringPlan, photo: Read | None = None, clock: Stopwatch | None = None
    ) -> None:
        self.kept = batch.select(list(plan.keep))
        self.digests: list[str | None] | None = [None] * batch.num_rows if plan.digest_column else None
        self._photo = cast(Read, photo)
        self._clock = clock or Stopwatch()
        self._preprocessing = cast(AnyPreprocessing, plan.preprocessing)

    def __len__(self) -> int:
        return int(self.kept.num_rows)

    def read(self, row: int, out: NDArray[np.float32]) -> None:
        self.decode(row, self.photo(row), out)

    def photo(self, row: int) -> Content:
        """Return a row's photo, text or sound; waits for one that is still on its way."""
        start = time.perf_counter()
        try:
            return self._photo(row)
        finally:
            self._clock.add("fetch", start)

    def decode(self, row: int, photo: Content, out: NDArray[np.float32]) -> None:
        start = time.perf_counter()
        if self.digests is not None:
            self.digests[row] = sha256(photo)
        if not isinstance(self._preprocessing, Preprocessing):
            self._preprocessing.apply(cast(Any, photo), out)
            self._clock.add("decode", start)
            return
        image = self._preprocessing.decode(cast(bytes | Image.Image, photo))
        start = self._clock.add("decode", start)
        self._preprocessing.fit(image, out)
        self._clock.add("resize", start)


class _Numbers:
    """A block of arrays or vectors."""

    digests = None

    def __init__(self, batch: pa.RecordBatch, plan: ScoringPlan) -> None:
        self.kept = batch.select(list(plan.keep))
        self._column = batch.column(plan.input_column)
        self._shape = plan.input_shape

    def __len__(self) -> int:
        return int(self.kept.num_rows)

    def read(self, row: int, out: NDArray[np.float32]) -> None:
        raise NotImplementedError("Numbers are read as a matrix.")

    def matrix(self) -> tuple[NDArray[np.float32], dict[int, RowError]]:
        width = prod(self._shape)
        lists = _dense(self._column) if pa.types.is_struct(self._column.type) else self._column
        lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
        fits = lengths == width
        x = np.zeros((len(lists), width), np.float32)
        flat = lists.filter(pa.array(fits)).flatten().to_numpy(zero_copy_only=False)  # nulls inside become NaN
        x[fits] = flat.astype(np.float32, copy=False).reshape(-1, width)
        errors = {}
        for row in np.flatnonzero(~fits):
            errors[int(row)] = (
                RowError("empty", "The value is null.")
                if lengths[row] < 0
                else RowError("wrong shape", f"The row has {lengths[row]} numbers; the network takes {width}.")
            )
        for row in np.flatnonzero(~np.isfinite(x).all(axis=1)):
            errors[int(row)] = RowError("not finite", "The row holds NaN or infinity.")
        return x.reshape(-1, *self._shape), errors


def _dense(vectors: pa.StructArray) -> pa.ListArray:
    """Return the values of Spark ML's vectors (struct of type, size, indices, values) as lists.

    Source: `pyspark.ml.linalg.VectorUDT`; type 0 is sparse, 1 dense.
    """
    kinds = pc.struct_field(vectors, "type")
    values = pc.struct_field(vectors, "values")
    if not pc.any(pc.equal(kinds, 0)).as_py():
        return values
    dense = []
    for vector in vectors.to_pylist():
        if vector is not None and vector["type"] == 0:
            filled = [0.0] * vector["size"]
            for index, value in zip(vector["indices"], vector["values"], strict=True):
                filled[index] = value
            dense.append(filled)
        else:
            dense.append(vector and vector["values"])
    return pa.array(dense, values.type)


def _to_batch(plan: ScoringPlan, scored: Scored[Any]) -> pa.RecordBatch:
    block: Any = scored.block.block if isinstance(scored.block, MarkedBlock) else scored.block
    rows = len(block)
    failed = np.zeros(rows, np.bool_)
    failed[list(scored.errors)] = True
    outputs = scored.outputs if scored.outputs is not None else np.zeros((rows, *plan.output_shape), np.float32)
    kept = block.kept
    columns = dict(zip(kept.schema.names, kept.columns, strict=True))
    added = [array for output in plan.outputs for array in output.arrays(outputs, failed)]
    names = [field.name for output in plan.outputs for field in output.fields()]
    # Spark takes columns by their position: this is the order of `frames.score_frame`'s schema.
    columns |= dict(zip(names, added, strict=True))
    if plan.digest_column:
        columns[plan.digest_column] = pa.array(block.digests, pa.string())
    columns[plan.error_column] = error_array(scored.errors, rows)
    return pa.RecordBatch.from_pydict(columns)


def unanswered(batch: pa.RecordBatch, plan: ScoringPlan, error: RowError) -> pa.RecordBatch:
    """Return what `run` would for rows that have no result because of `error`."""
    block: _Photos | _Numbers
    block = _Numbers(batch, plan) if plan.preprocessing is None else _Photos(batch, plan)
    if plan.source == "bytes" and block.digests is not None:
        contents = batch.column(plan.input_column).to_pylist()
        block.digests[:] = [None if content is None else sha256(content) for content in contents]
    return _to_batch(plan, Scored(block, errors=dict.fromkeys(range(batch.num_rows), error)))


@dataclass
class _Watch:
    """Counts a task's rows, reports them about every second, and ends the task when too many failed."""

    plan: ScoringPlan
    task: str
    emit: Emit
    tally: Tally
    clock: Stopwatch = field(default_factory=Stopwatch)
    _reported: float = field(default_factory=time.monotonic)

    def settled(self, results: Sequence[Result]) -> None:
        self.tally.add(len(results), [result for result in results if isinstance(result, RowError)])
        now = time.monotonic()
        if now - self._reported >= 1:
            self._reported = now
            self._report()
        self._check(_ROWS_FOR_RATE)

    def end(self) -> None:
        self._report()
        seconds = self.clock.seconds("read", "fetch", "decode", "resize", "forward", "write")
        self.emit(TaskTimed(self.plan.stage, self.task, self.tally.done, seconds))
        self._check(_ROWS_FOR_RATE_AT_END)

    def _report(self) -> None:
        self.emit(Progress(self.plan.stage, self.task, self.tally.done, self.tally.failed))

    def _check(self, rows: int) -> None:
        limit, tally = self.plan.max_error_rate, self.tally
        if limit is None or tally.done < rows or tally.failed <= limit * tally.done:
            return
        most = "; ".join(f"{count} x {error.kind}: {error.message}" for error, count in tally.errors.most_common(5))
        raise ErrorRateError(
            f"{tally.failed:,} of {tally.done:,} rows of task {self.task} failed, more than maxErrorRate={limit:g} "
            f"allows. Most frequent: {most}. Mend or remove them, or raise maxErrorRate."
        )
