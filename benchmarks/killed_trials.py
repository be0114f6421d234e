"""A search on Spark during which workers are killed: what `tuning.py` compares with one that is left alone."""

import contextlib
import queue
import threading
import time
from typing import Any

import psutil

from sparkwright.events import Event, TrialMeasured, Warned


def search_with_kills(rows: Any, config: Any, kills: int, every: int) -> tuple[Any, list[str]]:
    """Search on a DataFrame with sides; after every so many measurements a job loses its worker, `kills` times.

    Returns:
        What `search_rows` gives, and what was said of the workers that were lost.
    """
    from sparkwright.tuning.search_rows import search_rows

    due: queue.Queue[int] = queue.Queue()
    measured, lost = 0, list[str]()

    def emit(event: Event) -> None:
        nonlocal measured
        if isinstance(event, Warned) and "lost its worker" in event.message:
            lost.append(event.message)
        elif isinstance(event, TrialMeasured):
            measured += 1
            if measured % every == 0:
                due.put(measured)

    threading.Thread(target=kill, args=(due, kills, lost), daemon=True).start()
    return search_rows(rows, config, split="split", emit=emit), lost


def kill(due: "queue.Queue[int]", kills: int, lost: list[str]) -> None:
    """Kill a worker of Spark below this process whenever it is due, until a job of the search has lost its own."""
    for number in range(kills):
        due.get()
        while len(lost) <= number:
            for victim in workers()[:1]:
                with contextlib.suppress(psutil.Error):
                    victim.kill()
            time.sleep(0.3)


def workers() -> list[psutil.Process]:
    """Return the Python workers that compute at this moment: forked by a daemon of Spark, and running."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            daemons = [each is not None and "pyspark.daemon" in " ".join(each.cmdline()) for each in (process, parent)]
            if all(daemons) and process.status() == psutil.STATUS_RUNNING:
                found.append(process)
    return found
