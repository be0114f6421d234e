"""Scores a task's rows in a process of its own, so that a photo can kill that process and nothing else.

Decoders and networks are native code: one broken photo can crash them, let them run for ever, or ask for more memory
than there is. The Spark task therefore only supervises. It hands rows to a scoring process and keeps them until they
are answered. When that process dies, or reads one row for too long, its marks (`sparkwright.scoring.process.marks`) say
which rows it worked on. Each of these suspects is given to a new process, alone; what kills it again gets an error; the
rest goes on. Every row is answered once, in order.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from sparkwright.errors import ErrorRateError, WorkerError
from sparkwright.scoring.forward.devices import device_of_task
from sparkwright.scoring.process.arrow import ScoringPlan, Tally, cut, rows_held, unanswered
from sparkwright.scoring.process.engine import RowError
from sparkwright.scoring.process.marks import NETWORK, READING
from sparkwright.scoring.process.scorer import Died, Scorer, give_back, take
from sparkwright.scoring.process.wire import Task

__all__ = ["ScoringTask", "supervise"]

# What a process has at once: so many bytes a thread, and parts enough that it always has a next one.
_BYTES_PER_THREAD = 32 << 20
_PART_BYTES = 8 << 20
_PARTS = 3

# Deaths in succession, without an answer between them, for which no row is to blame; and for which rows are.
_MOST_DEATHS, _MOST_CULPRITS = 3, 10


@dataclass(frozen=True)
class ScoringTask:
    """The function that ``mapInArrow`` calls for each partition."""

    plan: ScoringPlan

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        from sparkwright.session import shipped_path

        context = TaskContext.get()
        task = str(context.partitionId()) if context else "0"
        plan = replace(self.plan, device=device_of_task(self.plan.device, context))
        return supervise(batches, plan, shipped_path(plan.network), task)


def supervise(
    batches: Iterator[pa.RecordBatch], plan: ScoringPlan, network: Path, task: str = "0"
) -> Iterator[pa.RecordBatch]:
    """Score a task's rows; they leave in the order in which they came, each once. Runs on executors.

    Args:
        batches: Pulled as they are needed.
        plan: What to do.
        network: The ONNX file on this machine.
        task: Its name in progress.

    Raises:
        ErrorRateError: more rows failed than `plan` allows, or one did and it allows none.
        WorkerError: scoring processes die again and again, and no row is to blame.
    """
    supervisor = _Supervisor(plan, network, task)
    try:
        yield from supervisor.score(batches)
    finally:
        supervisor.close()


@dataclass
class _Part:
    """Rows that are scored together, kept until they leave."""

    batch: pa.RecordBatch
    answer: pa.RecordBatch | None = None


class _Supervisor:
    def __init__(self, plan: ScoringPlan, network: Path, task: str) -> None:
        self._plan = plan
        # Columns that are only kept stay here.
        self._task = Task(replace(plan, keep=()), network, task)
        self._tally = Tally()
        self._parts: deque[_Part] = deque()  # that have not left, in order
        self._sent: deque[_Part] = deque()  # of these, what the process has; it answers in this order
        self._answered = 0  # parts, since the process began its task
        self._asked = 0  # parts that it will answer without getting more
        self._deaths = self._culprits = 0
        self._scorer: Scorer | None = take()  # it starts while Spark prepares the first rows

    def close(self) -> None:
        """Leave the process to the next task; end it if it is in the midst of this one."""
        if self._scorer is not None:
            give_back(self._scorer)
            self._scorer = None

    def score(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield all rows with their results."""
        new = (_Part(part) for batch in batches for part in _cut(batch, self._plan))
        first = next(new, None)
        if first is None:  # an empty partition needs no network
            return
        self._parts.append(first)
        del first  # else it would stay in memory as long as the task runs
        while True:
            try:
                yield from self._stream(new)
                return
            except Died as death:
                self._clear_up(death)

    def _stream(self, new: Iterator[_Part]) -> Iterator[pa.RecordBatch]:
        """Have scored what waits and all that is new; yield what is next."""
        scorer = self._begin(replace(self._task, tally=self._tally))
        waiting = [part for part in self._parts if part.answer is None]
        for part in chain(waiting, self._keep(new)):
            while self._full():
                if self._may_wait():
                    scorer.flush()
                    self._asked = len(self._sent)
                self._receive(scorer)
                yield from self._leave()
            self._send(scorer, part)
        scorer.end()
        yield from self._leave()  # what was answered alone
        while self._sent:
            self._receive(scorer)
            yield from self._leave()
        scorer.done()

    def _keep(self, new: Iterator[_Part]) -> Iterator[_Part]:
        for part in new:
            self._parts.append(part)
            yield part

    def _begin(self, task: Task) -> Scorer:
        self._sent.clear()
        self._answered = self._asked = 0
        if self._scorer is None:
            self._scorer = take()
        self._scorer.begin(task)
        return self._scorer

    def _send(self, scorer: Scorer, part: _Part) -> None:
        self._sent.append(part)
        scorer.send(part.batch.select([self._plan.input_column]))

    def _receive(self, scorer: Scorer) -> None:
        answer = scorer.receive()
        self._answered += 1
        self._asked = max(0, self._asked - 1)
        self._deaths = self._culprits = 0
        self._settle(self._sent.popleft(), answer)

    def _full(self) -> bool:
        """Whether the process has as much as it may have."""
        if len(self._sent) >= _PARTS and not self._may_wait():
            return True
        size: int = sum(part.batch.nbytes for part in self._sent)
        return size > _BYTES_PER_THREAD * (self._plan.threads + 1)

    def _may_wait(self) -> bool:
        """Whether the process may want more rows before it answers the oldest part."""
        later = sum(part.batch.num_rows for part in self._sent) - self._sent[0].batch.num_rows
        return not self._asked and later < rows_held(self._plan)

    def _settle(self, part: _Part, answer: pa.RecordBatch) -> None:
        part.answer = answer
        errors = answer.column(self._plan.error_column)
        failed = errors.drop_null().to_pylist() if errors.null_count < len(errors) else []
        self._tally.add(answer.num_rows, [RowError(**error) for error in failed])
        if failed and self._plan.failfast:
            row = errors.is_valid().index(True).as_py()
            raise ErrorRateError(
                f"{_name(part.batch, row, self._plan)} failed, and in the mode failfast none may: {failed[0]['kind']}: "
                f"{failed[0]['message']} Mend or remove it, or leave the mode at permissive."
            )

    def _leave(self) -> Iterator[pa.RecordBatch]:
        """Yield the oldest rows, as far as they are answered."""
        while self._parts and (answer := self._parts[0].answer) is not None:
            kept = self._parts.popleft().batch.select(list(self._plan.keep))
            names = [*kept.schema.names, *answer.schema.names]
            yield pa.RecordBatch.from_arrays([*kept.columns, *answer.columns], names)

    def _clear_up(self, death: Died) -> None:
        """Find the rows that killed the process, and answer them; the others wait for the next one."""
        self._bury()
        marks = [mark for mark in death.marks if 0 <= mark.part - self._answered < len(self._sent)]
        if not marks:
            self._blame_nobody(death)
            return
        rows = self._single(*max((mark.part, mark.row) for mark in marks))
        reading = {(mark.part, mark.row) for mark in marks if mark.doing == READING}
        found = [self._alone(rows[place]) for place in sorted(reading)]
        # In the network it may have been any row that was read. What does not happen again is no row's fault.
        if not any(found) and any(mark.doing == NETWORK for mark in marks):
            any(self._alone(rows[place]) for place in sorted(rows.keys() - reading))

    def _single(self, number: int, row: int) -> dict[tuple[int, int], _Part]:
        """Make parts of their own of all rows that the process has up to `row` of part `number`; return them."""
        rows, pieces = {}, {}
        for place, part in enumerate(self._sent, self._answered):
            begun = part.batch.num_rows if place < number else row + 1 if place == number else 0
            for one in range(begun):
                rows[place, one] = _Part(part.batch.slice(one, 1))
            rest = [_Part(part.batch.slice(begun))] if begun < part.batch.num_rows else []
            pieces[id(part)] = [*(rows[place, one] for one in range(begun)), *rest]
        self._parts = deque(piece for part in self._parts for piece in pieces.get(id(part), [part]))
        return rows

    def _alone(self, row: _Part) -> bool:
        """Have one row scored with nothing beside it; return whether that killed the process."""
        plan = replace(self._task.plan, batch_size=1, threads=1, cores=None, max_error_rate=None, channel=None)
        doubts = 1
        while row.answer is None:
            try:
                scorer = self._begin(replace(self._task, plan=plan))
                self._send(scorer, row)
                scorer.end()
                answer = scorer.receive()
                scorer.done()
            except Died as death:
                self._bury()
                if not death.marks:
                    self._blame_nobody(death)
                    continue
                if death.outside and doubts:  # that it happens twice by chance is hardly possible
                    doubts -= 1
                    continue
                self._culprits += 1
                if self._culprits >= _MOST_CULPRITS:
                    raise WorkerError(
                        f"{self._culprits} rows one after the other killed their scoring process; it {death}. So it is "
                        f"hardly the rows' fault. Its last words: {death.words}"
                    ) from None
                self._settle(row, unanswered(row.batch, self._task.plan, death.row_error()))
                return True
            else:
                self._deaths = self._culprits = 0
                self._settle(row, answer)
        return False

    def _bury(self) -> None:
        if self._scorer is not None:
            self._scorer.kill()
            self._scorer = None

    def _blame_nobody(self, death: Died) -> None:
        """Count a death that no row explains.

        Raises:
            WorkerError: it was by an error of its own, or the last of several.
        """
        self._deaths += 1
        if death.status is not None or self._deaths >= _MOST_DEATHS:
            raise WorkerError(
                f"A scoring process {death} and worked on no row then ({self._deaths} times in succession). Its last "
                f"words: {death.words}"
            ) from None


def _cut(batch: pa.RecordBatch, plan: ScoringPlan) -> Iterator[pa.RecordBatch]:
    """Cut a batch, without copying, into parts that are small as they come and as they leave."""
    parts = list(cut(batch, plan))[::-1]
    while parts:
        part = parts.pop()
        if part.num_rows > 1 and part.nbytes > _PART_BYTES:
            half = part.num_rows // 2
            parts += [part.slice(half), part.slice(0, half)]
        else:
            yield part


def _name(batch: pa.RecordBatch, row: int, plan: ScoringPlan) -> str:
    """Return what a person knows a row by."""
    names = batch.schema.names
    for name in ("path", "key", plan.input_column):
        if name in names and pa.types.is_string(batch.schema.field(name).type):
            return f"The row with {name} {batch.column(name)[row].as_py()}"
    return "A row"
