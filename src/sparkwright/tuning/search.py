"""A search: the jobs of its trials on the slots there are, what is lost on the way, and the order of the results.

With `parallel_trials` P, job k + P is decided when exactly the results of the jobs until k are known: however many
slots run them, however long they take, whatever died, the trials are the same. Without it results are taken as they
come, and a slot that is free has the next job at once.

Every result is kept in the run before anything is decided by it. A search that goes on makes its decisions again from
what is kept (`sparkwright.tuning.records`) and runs what has no result.
"""

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sparkwright.errors import InputError, WorkerError
from sparkwright.events import Emit, Event, SearchAdvanced, TrialEnded, ignore
from sparkwright.tuning.attempts import ATTEMPTS, Tried, is_lost, try_job
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.plan import Plan
from sparkwright.tuning.records import BEGIN_ANEW, Records, Result
from sparkwright.tuning.runners._base import Runner
from sparkwright.tuning.trials import Assignment, Measurement, Trial

if TYPE_CHECKING:
    from sparkwright.tuning.journal import Journal

__all__ = ["Search"]

_LOST_IN_A_ROW = 3  # assignments; then it is the cluster, and not the trials

_GROUPS = 8  # that the trials of a search are asked for in, at least


class Search:
    """Tries configurations until the trials, the time or the space are at their end; runs on the driver.

    Args:
        config: How is searched.
        runner: What trains; it stays open.
        folder: Where the search is kept, on any file system; one that was begun there goes on. None: in memory alone.
        emit: What takes the events; called from several threads.

    Attributes:
        seconds: What the search has taken, that before the driver died too.
    """

    def __init__(self, config: TuningConfig, runner: Runner, folder: str | None = None, *, emit: Emit = ignore) -> None:
        self.seconds = 0.0
        self._config = config
        self._runner = runner
        self._folder = folder
        self._emit = emit
        self._records = Records(folder)
        self._plan = Plan(config, runner.parameters, self._records, self._tell)
        self._journal: Journal | None = None
        self._known = len(self._records.results)  # before this process
        self._recorded = {result.job: result for result in self._records.results}
        self._decided = 0
        self._taken = 0
        self._futures: dict[Future[Tried], tuple[int, list[Assignment]]] = {}
        self._started = time.monotonic()
        self._earlier = self._records.results[-1].seconds if self._records.results else 0.0

    def run(self) -> list[Trial]:
        """Search, and return all trials by number.

        Raises:
            ErrorRateError: More than half of at least ten trials have failed; with the reasons.
            WorkerError: Three jobs in a row have lost all their workers; a search that goes on tries them again.
            InputError: No configuration of the space can be trained, or what is kept is of another search.
        """
        slots = self._runner.slots
        threads = min(slots, self._config.parallel_trials or slots)
        with ExitStack() as stack:
            if self._folder is not None:
                from sparkwright.tuning.journal import Journal

                self._journal = stack.enter_context(Journal(self._folder, self._plan.study))
            pool = ThreadPoolExecutor(threads, "trial")
            stack.callback(pool.shutdown, wait=False, cancel_futures=True)
            self._fill(pool)
            while self._taken < self._decided:
                self._plan.take(self._result())
                self._taken += 1
                self._fill(pool)
            self._plan.finish()
        self.seconds = self._clock()
        return self._plan.trials

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        """Decide as many jobs as may be known by now, and submit those that have no result."""
        while self._decided < self._wanted() and (job := self._plan.decide(self._together)):
            if self._decided in self._recorded:
                _check_same(job, self._recorded[self._decided])
            else:
                self._futures[pool.submit(self._do, job)] = (self._decided, job)
            self._decided += 1

    @property
    def _together(self) -> int:
        """Assignments of a job: where the search may choose, so few that the sampler learns between jobs."""
        most = self._runner.together
        if self._config.together != "auto" or self._config.sampler in ("random", "grid"):
            return most
        return min(most, max(1, self._config.trials // _GROUPS))

    def _wanted(self) -> int:
        """Return how many jobs are decided before the next result is taken."""
        if self._config.parallel_trials is not None:
            return self._taken + self._config.parallel_trials
        if self._taken < self._known:
            return self._records.results[self._taken].decided
        return self._taken + self._runner.slots

    def _result(self) -> Result:
        """Return the next result in its order, waiting for it."""
        if self._config.parallel_trials is None:
            if self._taken == len(self._records.results):
                self._collect()
            return self._records.results[self._taken]
        while self._taken not in self._recorded:
            self._collect()
        return self._recorded[self._taken]

    def _collect(self) -> None:
        """Wait for a job to end, and keep what it gave."""
        slots = self._runner.slots
        working = min(sum(not future.done() for future in self._futures), slots)
        self._emit(SearchAdvanced(working, slots, self._plan.seconds_left(self._clock())))
        done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
        future = min(done, key=lambda each: self._futures[each][0])
        outcome = future.result()
        number, job = self._futures.pop(future)
        result = Result(
            number,
            self._decided,
            self._clock(),
            job[0].until,
            tuple(measurement for measurement, _ in outcome),
            tuple(attempts for _, attempts in outcome),
        )
        self._records.keep(result)
        self._recorded[number] = result
        self._check_cluster()

    def _check_cluster(self) -> None:
        """Stop when nothing but lost workers came last: that is no fault of the trials."""
        last = self._records.results[self._known :][-_LOST_IN_A_ROW:]
        if len(last) == _LOST_IN_A_ROW and all(is_lost(each) for result in last for each in result.measurements):
            self._records.drop_last(_LOST_IN_A_ROW)
            raise WorkerError(
                f"{_LOST_IN_A_ROW} jobs of the search in a row lost their workers {ATTEMPTS} times each, the last with "
                f"{last[-1].measurements[0].failure} Look after the cluster, then go on with resume=True (--resume)."
            )

    def _do(self, job: Sequence[Assignment]) -> Tried:
        return try_job(self._run, job, self._emit)

    def _run(self, job: Sequence[Assignment]) -> list[Measurement]:
        """Run a job, timed by one clock wherever it runs."""
        started = self._clock()
        measured = self._runner.run(job)
        return [dataclasses.replace(each, started=started, stopped=self._clock()) for each in measured]

    def _tell(self, event: Event) -> None:
        """Pass on what happens; what was passed on before the driver died only to the journal, which begins anew."""
        if self._journal is not None:
            self._journal(event)
        if isinstance(event, TrialEnded):
            self._runner.drop(event.trial)
        if self._taken >= self._known:
            self._emit(event)

    def _clock(self) -> float:
        return self._earlier + time.monotonic() - self._started


def _check_same(job: Sequence[Assignment], kept: Result) -> None:
    """Refuse results of other jobs than those that are decided now."""
    now = [(each.trial, each.fold, each.until) for each in job]
    then = [(each.trial, each.fold, kept.until) for each in kept.measurements]
    if now != then:
        raise InputError(
            f"What is kept of the search does not fit it: job {kept.job} was {then} (trial, fold, epoch) and is {now} "
            f"now. Its configuration or the library is another one; {BEGIN_ANEW}"
        )
