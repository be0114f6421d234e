"""A worker of a gang without Spark, in a process of its own, to which a test does something."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from sparkwright.training.transports import gang as gang_module
from sparkwright.training.transports import heartbeat
from sparkwright.training.transports._base import hosting
from sparkwright.training.transports.gang import Gang


@dataclass
class Files:
    """What a barrier task has, by files that all workers see."""

    folder: Path
    rank: int
    workers: int
    calls: int = 0

    def partitionId(self) -> int:  # noqa: N802  as Spark calls it
        return self.rank

    def getTaskInfos(self) -> Sequence[SimpleNamespace]:
        return [SimpleNamespace(address="127.0.0.1:7")] * self.workers

    def allGather(self, message: str) -> list[str]:  # noqa: N802
        self.calls += 1
        (self.folder / "writing").mkdir(exist_ok=True)
        own = self.folder / "writing" / str(self.rank)
        own.write_text(message)
        own.rename(self.folder / f"{self.calls}-{self.rank}")
        files = [self.folder / f"{self.calls}-{rank}" for rank in range(self.workers)]
        while not all(file.exists() for file in files):
            time.sleep(0.01)
        return [file.read_text() for file in files]


def member(folder: Path, rank: int, workers: int, limit_s: float, what: str, at: int) -> None:
    """Take ten steps; in the third one, the worker `at` does `what`. How it ended is left in the folder."""
    gang_module._COURTESY_S = 0.5
    heartbeat.GRACE_S = 1.0
    torch.set_num_threads(1)
    sockets = gang_module._sockets()
    ended = "well"
    try:
        with Gang(Files(folder, rank, workers), hosting(2 * workers, workers), limit_s) as gang:
            train(gang, folder, what if rank == at else "", what)
            gang.gather("")
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("sparkwright")]
    report = {
        "ended": ended,
        "at": time.monotonic(),  # of the machine: the same clock in all processes
        "sockets": len(gang_module._sockets() - sockets),
        "threads": [name for name in left if name != "sparkwright-end"],
    }
    (folder / f"report-{rank}.writing").write_text(json.dumps(report))
    (folder / f"report-{rank}.writing").rename(folder / f"report-{rank}")


def train(gang: Gang, folder: Path, own: str, what: str) -> None:
    replicas = [SimpleNamespace(index=index, step=0) for index in gang.hosted]
    for step in range(1, 11):

        def work(step: int = step) -> list[torch.Tensor]:
            for replica in replicas:
                replica.step = step
                if step == 3 and replica is replicas[-1]:
                    (folder / f"third-{gang.rank}").write_text(str(time.monotonic()))
                    act(own)
                time.sleep(1.2 if own == "slow" and step == 3 else 0.01)
            return [torch.ones(3) for _ in replicas]

        if step == 3 and what == "cross":
            gang._receive(torch.ones(3), (gang.rank + 1) % len(gang.hosts))
        total = gang.sum_of(work, replicas=replicas)  # type: ignore[arg-type]
        assert total.tolist() == [gang.replicas] * 3


def sums(folder: Path, rank: int, replicas: int, workers: int) -> None:
    """Sum tensors that are sent whole, and such that are cut; leave the sums in the folder."""
    torch.set_num_threads(1)
    with Gang(Files(folder, rank, workers), hosting(replicas, workers), 30) as gang:
        parts = [parts_of(replica) for replica in gang.hosted]
        found = [gang.tree_sum([part[at] for part in parts]) for at in range(len(SHAPES))]
        assert gang.gather("é" * rank) == ["é" * other for other in range(workers)]
        assert gang.gather("") == [""] * workers
    torch.save(found, folder / f"sums-{rank}")


SHAPES = ((5,), (3, 70_001))


def parts_of(replica: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(replica)
    return [torch.randn(shape, generator=generator) * 10.0 ** (replica % 7 - 3) for shape in SHAPES]


def act(what: str) -> None:
    match what:
        case "raise":
            raise RuntimeError("the disk is on fire")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            while True:
                time.sleep(0.1)


if __name__ == "__main__":
    member(Path(sys.argv[1]), *map(int, sys.argv[2:4]), float(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
