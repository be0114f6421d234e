"""The run of a search: what it tried, its figures and its report in a folder."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sparkwright import storage
from sparkwright.errors import InputError
from sparkwright.events import Emit, Event
from sparkwright.runs import METRICS, SEARCH, SPACE, TRIALS, TUNING, Run, opened
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.result import Searched

__all__ = ["keep", "recorded", "searching"]

Look = Callable[[str | None, Emit], Searched]
"""A search: takes the run's folder in which it goes on, and what takes its events."""


def recorded(
    search: Look, config: TuningConfig, asked: Mapping[str, Any], run: str | None, folder: str | None, emit: Emit
) -> Searched:
    """Search in a run's folder that Python asked for: what happens is kept there, and a report, however it ends.

    A search of the same configuration that was interrupted goes on; one that has ended is replaced.

    Args:
        search: The search.
        config: How it is done.
        asked: The run's configuration.
        run: The run's folder; None keeps no run.
        folder: Without a run: that of the caller's own; None is none.
        emit: What takes the events, too.

    Raises:
        ExistsError: The folder holds another run, or something else; or another process works there.
        InputError: It holds a search of another configuration; the differences are listed. Or both are named.
    """
    if run is not None and folder is not None:
        raise InputError("Name `run`, whose folder keeps the search, or the `folder` of your own; both are named.")
    if run is None:
        return search(folder, emit)
    with opened(run, SEARCH, asked, lambda: _interrupted(run)) as kept:

        def tell(event: Event) -> None:
            kept.emit(event)
            emit(event)

        with searching(kept, config):
            found = search(kept.uri, tell)
        kept.metrics = {"validation": found.figures}
        keep(kept, config, found)
    return found


def _interrupted(run: str) -> bool:
    """Whether a search was begun in a run's folder, and has not ended."""
    begun = storage.list_files(storage.join(run, TUNING))
    return bool(begun) and not storage.exists(storage.join(run, METRICS))


@contextlib.contextmanager
def searching(run: Run, config: TuningConfig) -> Iterator[None]:
    """Keep what is searched; a refusal before the first result leaves nothing of it in the run's folder."""
    run.write(SPACE, config.searched.to_dict())
    try:
        yield
    except InputError:
        if not storage.list_files(run.path(TUNING, "results")):
            storage.remove(run.path(TUNING))
            storage.remove(run.path(SPACE))
        raise


def keep(run: Run, config: TuningConfig, found: Searched, tested: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keep what came of a search, for its report; return what ``metrics.json`` holds.

    Args:
        run: Its run.
        config: How was searched.
        found: What came of it.
        tested: What is told besides: ``"test"``, the figures of the test rows; None where nothing was tested.
    """
    tested = tested or {}
    test = tested.get("test")
    metrics = {"validation": found.figures, **tested, "search": found.summary(config, test)}
    metrics["seconds"] = {**found.seconds, **run.seconds}
    run.write(TRIALS, found.document(config, test))
    run.write(METRICS, metrics)
    for name in ("rows", "trials"):  # what is left tells what was tried
        storage.remove(run.path(TUNING, name))
    return metrics
