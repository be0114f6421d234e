"""What does a sync cost: how many bytes, how many seconds, with how many workers?

    python benchmarks/sync_cost.py [--parameters 1 25 138] [--workers 1 2 4 8] [--compression int8]

Workers are processes of this machine that host one replica each and talk over gloo on loopback, through the very
transport that a gang uses; a sync sums one float32 vector as long as the weights (averaging with an optimiser of s
vectors of state sums 1 + s such vectors at a time). Seconds are medians over syncs of the slowest worker's.

The model. Each of W workers gets its W-th of all, adds it up, and gives the result to the others, so (W - 1) / W of the
B bytes leave and reach each worker twice, at bandwidth b after a latency l for each of its W messages of a piece (of
4 MiB for each worker); adding takes B / a:

    seconds = pieces · W · l + 2 · (W - 1) / W · B / b + (W - 1) / W · B / a

On one machine all transfers share its cores: one that can carry `lanes` of them at a time takes W / `lanes` times as
long for the bytes. Latency and bandwidth are measured with two processes that pass vectors to and fro; so the syncs of
2, 4 and 8 workers, which the model foretells, test it.
"""

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing

from sparkwright.models import library_versions
from sparkwright.training.compression import make_codec
from sparkwright.training.config import TrainingConfig
from sparkwright.training.transports._base import hosting
from sparkwright.training.transports.gang import _PIECE_BYTES, Gang

PING_BYTES = (4, 1 << 20, 64 << 20)
SECONDS_AT_MOST = 3.0  # for the syncs of one measurement, about
LIMIT_S = 300  # for all measurements with some number of workers
COMPRESSED_AT_MOST = 4e8  # parameters of all workers: codecs need room for several copies


class Barrier:
    """Stands for Spark's barrier task: the ranks of one machine, whose messages go through queues."""

    def __init__(self, rank: int, boxes: Sequence["Queue[tuple[int, str]]"]) -> None:
        self._rank, self._boxes = rank, boxes

    def partitionId(self) -> int:  # noqa: N802  Spark's names
        return self._rank

    def getTaskInfos(self) -> list[Any]:
        return [argparse.Namespace(address="127.0.0.1:0") for _ in self._boxes]

    def allGather(self, message: str = "") -> list[str]:  # noqa: N802
        for box in self._boxes:
            box.put((self._rank, message))
        return [text for _, text in sorted(self._boxes[self._rank].get(timeout=LIMIT_S) for _ in self._boxes)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, nargs="+", default=[1, 25, 138], help="in millions")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--compression", nargs="*", default=["int8"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sync_cost.json")
    parser.add_argument("--page", type=Path, help="of the docs, whose table is to be replaced")
    given = parser.parse_args()
    link = measure_link()
    add = measure_add()
    report: dict[str, Any] = {
        "versions": library_versions(),
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "latency_s": link["latency_s"],
        "bandwidth": link["bandwidth"],
        "add": add,
        "lanes": max(1, (os.cpu_count() or 1) // 2),
        "syncs": [],
    }
    print(json.dumps({name: report[name] for name in ("latency_s", "bandwidth", "add", "lanes")}), flush=True)
    for workers in given.workers:
        wanted = [
            (int(1e6 * millions), compression)
            for millions in given.parameters
            for compression in (None, *given.compression)
            if compression is None or 1e6 * millions * workers < COMPRESSED_AT_MOST
        ]
        found = gang(workers, _syncs, wanted)
        for (parameters, compression), ranks in zip(wanted, zip(*found, strict=True), strict=True):
            row = {
                "parameters": parameters,
                "workers": workers,
                "compression": compression,
                "seconds": max(one["seconds"] for one in ranks),
                "syncs": ranks[0]["syncs"],
                "bytes_all": sum(one["bytes"] for one in ranks),
                "bytes_rank0": ranks[0]["bytes"],
            }
            if compression is None:
                row["model_s"] = model_s(4 * parameters, workers, report)
            report["syncs"].append(row)
            print(json.dumps(row), flush=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    if given.page:
        before, _, rest = given.page.read_text().partition("<!-- measured -->\n")
        after = rest.partition("<!-- end -->")[2]
        given.page.write_text(f"{before}<!-- measured -->\n{table(report)}\n<!-- end -->{after}")


def table(report: dict[str, Any]) -> str:
    """Return the bill as a table in Markdown."""
    lines = [
        "| parameters | workers | sent by all | seconds | foretold | compressed: sent, seconds |",
        "|" + "---|" * 6,
    ]
    for row in report["syncs"]:
        if row["compression"] is None:
            others = [
                f"{other['compression']}: {other['bytes_all'] / 1e6:,.1f} MB, {other['seconds']:.4f}"
                for other in report["syncs"]
                if other["compression"] and all(other[name] == row[name] for name in ("parameters", "workers"))
            ]
            lines.append(
                f"| {row['parameters'] / 1e6:g} M | {row['workers']} | {row['bytes_all'] / 1e6:,.1f} MB | "
                f"{row['seconds']:.4f} | {row['model_s']:.4f} | {'; '.join(others)} |"
            )
    lines += [
        "",
        f"{report['hardware']['cores']} cores; latency {1e6 * report['latency_s']:.0f} µs, bandwidth "
        f"{report['bandwidth'] / 1e9:.2f} GB/s, adding {report['add'] / 1e9:.1f} GB/s, {report['lanes']} lanes.",
    ]
    return "\n".join(lines)


def model_s(size: int, workers: int, report: dict[str, Any]) -> float:
    """Return the seconds that the model foretells for a sync of `size` bytes on one machine."""
    share = (workers - 1) / workers * size
    pieces = math.ceil(size / (workers * _PIECE_BYTES)) if workers > 1 else 0
    sharing = max(1.0, workers / report["lanes"])
    return pieces * workers * report["latency_s"] + share * (2 * sharing / report["bandwidth"] + 1 / report["add"])


def measure_link() -> dict[str, float]:
    """Return latency in seconds and bandwidth in bytes a second between two processes."""
    found = gang(2, _ping)[0]
    latency = found[PING_BYTES[0]]
    return {"latency_s": latency, "bandwidth": PING_BYTES[-1] / (found[PING_BYTES[-1]] - latency)}


def measure_add() -> float:
    """Return how many bytes of a vector are added to another in a second, by one thread."""
    torch.set_num_threads(1)
    left, right = torch.zeros(16 << 20), torch.zeros(16 << 20)
    return left.nbytes / timed(lambda: left.add_(right), 2.0)[0]


def gang(workers: int, work: Callable[..., Any], *parameters: Any) -> list[Any]:
    """Run `work(gang, *parameters)` in so many processes; return what each gave."""
    context = multiprocessing.get_context("spawn")
    boxes = [context.Queue() for _ in range(workers)]
    results = context.Queue()
    processes = [
        context.Process(target=_worker, args=(rank, boxes, results, work, parameters)) for rank in range(workers)
    ]
    for process in processes:
        process.start()
    found = {}
    while len(found) < workers:
        rank, found[rank] = results.get(timeout=LIMIT_S)
        if isinstance(found[rank], Exception):
            for process in processes:
                process.kill()
            raise found[rank]
    for process in processes:
        process.join()
    return [found[rank] for rank in range(workers)]


def _worker(
    rank: int, boxes: Sequence["Queue[tuple[int, str]]"], results: "Queue[Any]", work: Any, parameters: Any
) -> None:
    torch.set_num_threads(1)
    barrier = Barrier(rank, boxes)
    try:
        with Gang(barrier, hosting(len(boxes), len(boxes))) as joined:
            results.put((rank, work(joined, *parameters)))
            barrier.allGather()  # nobody leaves while another still needs its connection
    except Exception as error:
        results.put((rank, error))
        raise


def _ping(joined: Gang) -> dict[int, float]:
    """Return the seconds of one way, by size."""
    seconds = {}
    for size in PING_BYTES:
        ball = torch.zeros(size // 4)

        def once(ball: Tensor = ball) -> None:
            if joined.rank == 0:
                joined._send(ball, 1)
                joined._receive(ball, 1)
            else:
                joined._receive(ball, 0)
                joined._send(ball, 0)

        once()
        turns = 200 if size < 1 << 16 else 10
        started = [time.perf_counter()]
        for _ in range(turns):
            once()
            started.append(time.perf_counter())
        seconds[size] = statistics.median(b - a for a, b in itertools.pairwise(started)) / 2
    return seconds


def _syncs(joined: Gang, wanted: Sequence[tuple[int, str | None]]) -> list[dict[str, float]]:
    return [_sync(joined, parameters, compression) for parameters, compression in wanted]


def _sync(joined: Gang, parameters: int, compression: str | None) -> dict[str, float]:
    """Return what one sum over as many replicas as workers costs this one."""
    own = torch.empty(parameters).fill_(0.0)
    codec = make_codec(compression, TrainingConfig().compression_share)

    def once() -> float:
        started = time.perf_counter()
        joined.tree_sum([own], codec)
        return time.perf_counter() - started

    once()  # connects, and touches the memory
    milliseconds = joined.agree(int(1000 * once()))
    turns = max(3, min(50, int(1000 * SECONDS_AT_MOST / max(1, milliseconds))))
    before, taken = joined.sent_bytes, list[float]()
    for _ in range(turns):
        joined.agree(0)  # all begin together
        taken.append(once())
    return {"seconds": statistics.median(taken), "syncs": turns, "bytes": (joined.sent_bytes - before) // turns}


def timed(call: Callable[[], Any], seconds: float) -> tuple[float, int]:
    """Return the median seconds of a call, and how many were made."""
    call()
    taken: list[float] = []
    while sum(taken) < seconds:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), len(taken)


if __name__ == "__main__":
    main()
