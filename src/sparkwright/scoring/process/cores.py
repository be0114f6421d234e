"""The cores of an executor, shared by its scoring processes: one that has nothing to do lends its core to the others.

Each task has its own threads, as many as Spark gives it cores. When other tasks of the executor wait, have ended or
were never started (one huge partition, the last one of a stage), their cores would idle; so a scoring process has a few
spare threads, which work only while a core is free.

A core is a file in a folder that the executor's processes share, locked while a thread uses it. The kernel lifts the
locks of a process that dies: no core is ever lost.
"""

import os
import threading
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks, hence no spare threads
    fcntl = None  # type: ignore[assignment]

__all__ = ["Cores"]


class Cores:
    """A process's view of the cores. Threads may call it at once.

    Args:
        folder: Shared by the processes of the executor, and writable.
        count: Cores of the executor; the same in all its processes.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.count = count
        self._held: set[int] = set()
        self._lock = threading.Lock()
        self._files: list[int] = []
        if fcntl is not None:
            for core in range(count):
                self._files.append(os.open(folder / f"sparkwright-core-{core}", os.O_RDWR | os.O_CREAT, 0o600))

    def take(self) -> int | None:
        """Take a free core; None if there is none."""
        with self._lock:
            for core, file in enumerate(self._files):
                if core in self._held:
                    continue
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:  # another process has it
                    continue
                self._held.add(core)
                return core
        return None

    def give(self, core: int | None) -> None:
        """Give a core back; None is no core."""
        if core is None:
            return
        with self._lock:
            fcntl.flock(self._files[core], fcntl.LOCK_UN)
            self._held.discard(core)

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            for file in self._files:
                os.close(file)
            self._files.clear()
            self._held.clear()
