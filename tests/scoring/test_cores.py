import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparkwright.scoring.process.cores import Cores
from sparkwright.scoring.process.engine import score

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")

ROWS = 60  # in pairs and in threes


class Meeting:
    """A block each of whose rows waits until so many are being read at the same time; tells the most that were.

    So that the number is not the machine's to choose: how many threads have something to do at a moment is.

    Args:
        together: How many.
        met: Called when they are.
    """

    def __init__(self, together: int, met: Callable[[], object] | None = None) -> None:
        self._now = self.most = 0
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(together, met, timeout=60)

    def __len__(self) -> int:
        return ROWS

    def read(self, row: int, out: np.ndarray) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        self._barrier.wait()
        time.sleep(0.01)
        out[:] = row
        with self._lock:
            self._now -= 1


def most_at_once(rows: Meeting, cores: Cores, threads: int) -> int:
    blocks = list(score([rows], lambda x: x, (1,), batch_size=2, threads=threads, cores=cores))
    assert blocks[0].outputs is not None
    assert blocks[0].outputs[:, 0].tolist() == list(range(ROWS))
    return rows.most


def test_a_core_is_taken_once(tmp_path: Path) -> None:
    here, there = Cores(tmp_path, 2), Cores(tmp_path, 2)
    first, second = here.take(), there.take()
    assert {first, second} == {0, 1}
    assert here.take() is None
    here.give(first)
    assert there.take() == first
    there.close()
    assert here.take() is not None
    here.close()


def test_the_core_of_a_process_that_dies_is_free_again(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sparkwright.scoring.process.cores import Cores; "
        "c = Cores(Path(sys.argv[1]), 1); print(c.take(), flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "0\n"
    cores = Cores(tmp_path, 1)
    assert cores.take() is None
    other.kill()
    other.communicate(timeout=20)
    assert cores.take() == 0
    cores.close()


def test_spare_threads_use_free_cores_alone(tmp_path: Path) -> None:
    mine, others = Cores(tmp_path, 3), Cores(tmp_path, 3)
    left: list[int | None] = []
    assert most_at_once(Meeting(3, lambda: left.append(others.take())), mine, threads=1) == 3
    assert set(left) == {None}  # each of the three has a core
    given_back = others.take()
    others.take()
    assert most_at_once(Meeting(1), mine, threads=1) <= 2  # a spare one may have the core while its own thread waits
    last = others.take()
    assert most_at_once(Meeting(1), mine, threads=1) == 1
    others.give(given_back)
    others.give(last)
    assert most_at_once(Meeting(2), mine, threads=1) >= 2
    mine.close()
    others.close()


def test_own_threads_work_without_a_free_core(tmp_path: Path) -> None:
    mine, others = Cores(tmp_path, 2), Cores(tmp_path, 2)
    assert [others.take(), others.take()] == [0, 1]
    assert most_at_once(Meeting(2), mine, threads=2) == 2
    assert mine.take() is None
    mine.close()
    others.close()
