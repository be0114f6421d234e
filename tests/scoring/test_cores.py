import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sparkwright.scoring.process.cores import Cores
from sparkwright.scoring.process.engine import score

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")


class Slow:
    """A block whose rows take 20 ms each; tells how many were read at the same time."""

    now = most = 0
    lock = threading.Lock()

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def read(self, row: int, out: np.ndarray) -> None:
        with self.lock:
            Slow.now += 1
            Slow.most = max(Slow.most, Slow.now)
        time.sleep(0.02)
        out[:] = row
        with self.lock:
            Slow.now -= 1


def scored(cores: Cores | None, threads: int) -> tuple[int, list[float]]:
    Slow.most = 0
    blocks = list(score([Slow(60)], lambda x: x, (1,), batch_size=2, threads=threads, cores=cores))
    assert blocks[0].outputs is not None
    return Slow.most, blocks[0].outputs[:, 0].tolist()


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
    most, values = scored(mine, threads=1)
    assert most == 3
    assert values == list(range(60))
    busy = [others.take(), others.take()]
    most, values = scored(mine, threads=1)
    assert most == 1
    assert values == list(range(60))
    others.give(busy[0])
    assert scored(mine, threads=1)[0] == 2
    mine.close()
    others.close()


def test_own_threads_work_without_a_free_core(tmp_path: Path) -> None:
    mine, others = Cores(tmp_path, 2), Cores(tmp_path, 2)
    assert [others.take(), others.take()] == [0, 1]
    most, values = scored(mine, threads=2)
    assert most == 2
    assert values == list(range(60))
    assert mine.take() is None
    mine.close()
    others.close()
