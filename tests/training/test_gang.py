"""What becomes of a gang when one of its workers fails: real processes and connections, without Spark."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from training.gang_member import SHAPES, parts_of, sums

from sparkwright.training.transports.in_process import InProcess

LIMIT_S = 2.0
WORKERS = 3
RANKS = [f"Rank {rank} of 3 (host 127.0.0.1, replicas {2 * rank}, {2 * rank + 1})" for rank in range(WORKERS)]


@dataclass
class Started:
    """A gang whose worker `at` does something in its third step."""

    folder: Path
    at: int
    processes: list[Any]

    def reports(self, *ranks: int, within_s: float = 40) -> list[dict[str, Any]]:
        """Wait until some workers have ended; none may leave a connection or thread."""
        files = [self.folder / f"report-{rank}" for rank in ranks]
        wait_for(lambda: all(file.exists() for file in files), within_s)
        found = [json.loads(file.read_text()) for file in files]
        assert [(report["sockets"], report["threads"]) for report in found] == [(0, [])] * len(ranks)
        return found

    def others(self) -> list[dict[str, Any]]:
        """Return what the other workers report; they have ended soon."""
        found = self.reports(*{*range(WORKERS)} - {self.at})
        began = float((self.folder / f"third-{self.at}").read_text())
        assert all(report["at"] - began < 15 for report in found)
        return found


def wait_for(condition: Any, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def run(folder: Path, *arguments: Any) -> None:
    from training.gang_member import member

    member(folder, *arguments)


@pytest.fixture(scope="module")
def context() -> Any:
    """Starts processes that have torch already."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["sparkwright.training.transports.gang"])
    return made


@pytest.fixture(scope="module")
def gangs(context: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, int], Started]]:
    """All gangs of this module, which fail at the same time: most of it is waiting."""
    started = {}
    what = [("", 0), ("slow", 1), ("die", 0), ("die", 1), ("stop", 0), ("stop", 2), ("hang", 1), ("cross", 1)]
    for how, at in [*what, ("raise", 1)]:
        folder = tmp_path_factory.mktemp("gang")
        processes = [
            context.Process(target=run, args=(folder, rank, WORKERS, LIMIT_S, how, at)) for rank in range(WORKERS)
        ]
        for process in processes:
            process.start()
        started[how, at] = Started(folder, at, processes)
    yield started
    for process in (process for gang in started.values() for process in gang.processes):
        process.kill()  # a stopped one too
        process.join(10)
        process.close()


Gangs = dict[tuple[str, int], Started]


def test_workers_that_get_on_end_well(gangs: Gangs) -> None:
    assert [report["ended"] for report in gangs["", 0].reports(0, 1, 2)] == ["well"] * 3


def test_a_slow_worker_is_not_dead_though_others_wait_longer_than_the_limit(gangs: Gangs) -> None:
    assert [report["ended"] for report in gangs["slow", 1].reports(0, 1, 2)] == ["well"] * 3


@pytest.mark.parametrize("at", [0, 1])
def test_a_killed_worker_is_named_by_the_others(gangs: Gangs, at: int) -> None:
    for report in gangs["die", at].others():
        assert report["ended"].startswith(f"WorkerError: {RANKS[at]} is gone: its process or its machine ended")


@pytest.mark.parametrize("at", [0, 2])
def test_a_stopped_worker_is_named_by_the_others(gangs: Gangs, at: int) -> None:
    for report in gangs["stop", at].others():
        assert report["ended"].startswith(f"WorkerError: {RANKS[at]} has been silent for 2 s")
    os.kill(gangs["stop", at].processes[at].pid, signal.SIGCONT)
    (report,) = gangs["stop", at].reports(at)  # it learns that the gang is over
    assert report["ended"].startswith("WorkerError: Rank ")


def test_a_worker_that_hangs_in_a_step_is_named_and_its_process_ends(gangs: Gangs) -> None:
    for report in gangs["hang", 1].others():
        assert report["ended"] == (
            f"WorkerError: {RANKS[1]} has neither got on nor waited for another for 2 s; it is in step 3 of replica 3. "
            "If a step may take that long, raise the limit (`stall_limit_s`)."
        )
    process = gangs["hang", 1].processes[1]
    process.join(10)
    assert process.exitcode == 1


def test_workers_that_wait_for_one_another_end_together(gangs: Gangs) -> None:
    for report in gangs["cross", 1].reports(0, 1, 2):
        assert report["ended"].startswith("WorkerError: All workers have waited for one another for 2 s: Rank 0")


def test_the_others_carry_the_error_of_a_worker_that_fails_and_let_it_speak_first(gangs: Gangs) -> None:
    first, failed, last = gangs["raise", 1].reports(0, 1, 2)
    assert failed["ended"] == "RuntimeError: the disk is on fire"
    for report in (first, last):
        assert report["ended"] == (
            f"WorkerError: {RANKS[1]} failed in step 3 of replica 3: RuntimeError: the disk is on fire"
        )
        assert report["at"] > failed["at"]


@pytest.mark.parametrize(("replicas", "workers"), [(2, 2), (8, 2), (8, 3), (7, 4), (3, 3)])
def test_the_sum_has_the_same_bits_whether_it_is_cut_into_slices_or_not(
    context: Any, tmp_path: Path, replicas: int, workers: int
) -> None:
    processes = [
        context.Process(target=sums, args=(tmp_path, rank, replicas, workers), daemon=True) for rank in range(workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    parts = [parts_of(replica) for replica in range(replicas)]
    for at, shape in enumerate(SHAPES):
        expected = InProcess(replicas).tree_sum([part[at] for part in parts])
        assert expected.shape == shape
        for rank in range(workers):
            assert torch.equal(torch.load(tmp_path / f"sums-{rank}")[at], expected)


def test_workers_end_when_the_process_that_started_them_is_killed(context: Any, tmp_path: Path) -> None:
    parent = context.Process(target=_start_two, args=(tmp_path,))
    parent.start()
    files = [tmp_path / f"pid-{rank}" for rank in range(2)]
    wait_for(lambda: all(file.exists() for file in files))
    parent.kill()
    parent.join(10)
    parent.close()
    wait_for(lambda: not any(_runs(int(file.read_text())) for file in files))


def _start_two(folder: Path) -> None:
    children = []
    for rank in range(2):
        if not (pid := os.fork()):
            threading.Thread(target=_tell_when_training, args=(folder, rank), daemon=True).start()
            run(folder, rank, 2, 60.0, "hang", rank)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def _tell_when_training(folder: Path, rank: int) -> None:
    while not (folder / f"third-{rank}").exists():
        time.sleep(0.02)
    (folder / f"pid-{rank}.writing").write_text(str(os.getpid()))
    (folder / f"pid-{rank}.writing").rename(folder / f"pid-{rank}")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
