"""Workers that train together need all their slots at once: what the driver says and does until they have them.

Spark waits for slots in silence: ten minutes where the cluster has too few (executors were lost, excluded, or given
back), for ever where other jobs hold them. It also runs a stage again whose workers refuse their rows.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sparkwright import errors
from sparkwright.errors import InputError, WorkerError
from sparkwright.events import Emit, Event, Progress, StageStarted, TrainingRefused, Warned, WorkerLost
from sparkwright.session import cancellable, slots

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Workers"]

log = logging.getLogger(__name__)

_LOOK_S = 15.0
"""Seconds without a worker after which the slots are counted."""

_WARN_S = 60.0
"""Seconds without a worker, though there are slots, after which the user is told."""

_NEWS_S = 2.0
"""How long the driver waits for what the workers that are left say of the one that is lost."""


class Workers:
    """What the driver knows of the workers of an attempt, from the events that pass through here.

    Args:
        spark: The session.
        emit: What events go on to.
    """

    def __init__(self, spark: "SparkSession", emit: Emit) -> None:
        self._spark = spark
        self._emit = emit
        self._started = threading.Event()
        self._lost = threading.Event()
        self._why = ""
        self._cancel: Callable[[], Any] | None = None
        self._refused: TrainingRefused | None = None

    def __call__(self, event: Event) -> None:
        """Take an event and pass it on."""
        if isinstance(event, WorkerLost):
            if self._lost.is_set():  # another worker says the same
                return
            self._why = event.message
            self._lost.set()
        elif isinstance(event, Progress):
            self._started.set()
        elif isinstance(event, TrainingRefused):
            self._refused = event
            if self._cancel is not None:
                self._cancel()
            return
        self._emit(event)

    @contextlib.contextmanager
    def expected(self, count: int) -> Iterator[None]:
        """Submit a stage of `count` workers inside, from this thread.

        Raises:
            WorkerError: A worker failed, named where Spark does not name it; or there are too few slots.
            SparkwrightError: What a worker refused the training with; the stage does not run again.
        """
        self._started.clear()
        self._lost.clear()
        self._why = ""
        self._refused = None
        self._emit(StageStarted("rows"))
        ended = threading.Event()
        try:
            with cancellable(self._spark) as self._cancel:
                args = (count, self._cancel, ended)
                threading.Thread(target=self._watch, args=args, daemon=True, name="sparkwright-slots").start()
                yield
        except Exception as error:
            if self._refused is not None:
                raise getattr(errors, self._refused.error, InputError)(self._refused.message) from error
            if self._why and not self._started.is_set():  # what Spark says is that it was interrupted
                raise WorkerError(self._why) from error
            if isinstance(error, WorkerError) and self._others_know(error):
                raise WorkerError(f"{self._why}\n{error}") from error
            raise
        finally:
            ended.set()

    def _others_know(self, error: WorkerError) -> bool:
        """Whether the workers that are left say more than an error does: Spark names no rank."""
        if str(error).startswith("Rank ") or not self._started.is_set():
            return False
        return self._lost.wait(_NEWS_S) and self._why not in str(error)

    def _watch(self, count: int, cancel: Callable[[], Any], ended: threading.Event) -> None:
        """Count the slots while no worker has started; end a stage that cannot start."""
        began, warned = time.monotonic(), False
        while not ended.wait(_LOOK_S) and not self._started.is_set():
            try:
                there = slots(self._spark, again=True)
            except Exception as error:  # the training, and the session with it, may end while slots are counted
                log.debug("The slots could not be counted: %s", error)
                return
            if ended.is_set() or self._started.is_set():
                return
            if there < count:
                self._why = f"The training needs {count} slots at once, but the cluster has {there} now."
                cancel()
                return
            if time.monotonic() - began > _WARN_S and not warned:
                warned = True
                self._emit(
                    Warned(
                        f"No worker has started yet. Rows are still on their way to them, or the {count} slots that "
                        "they need at once are not free: other jobs may hold them."
                    )
                )
