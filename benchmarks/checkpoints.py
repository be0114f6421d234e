"""What do checkpoints cost: how long does one take, and what share of a training?

    python benchmarks/checkpoints.py [--parameters 0.2 1 25] [--every 1 10 60] [--seconds 120] [--out FOLDER]

In one process, with AdamW: a checkpoint holds the weights, two moments of each, the best weights so far, and what the
epoch has measured. The first table writes and reads checkpoints of linear heads of so many million parameters; the
second trains 784-200-200-10 on random rows of MNIST's size, and measures the time inside `Checkpoints.save`.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparkwright.models import library_versions
from sparkwright.training.arrays import fit_table
from sparkwright.training.checkpoints import Checkpoints, Snapshot
from sparkwright.training.config import TrainingConfig
from sparkwright.training.transports.in_process import InProcess

TIMES = 5


def one(millions: float, folder: str) -> dict[str, Any]:
    """Write and read checkpoints of a training of so many parameters."""
    count = int(millions * 1e6)
    generator = torch.Generator().manual_seed(0)
    common = {"state": torch.randn(3, count, generator=generator), "kept": torch.randn(count, generator=generator)}
    transport = InProcess(1)
    writing, reading = [], []
    for number in range(TIMES):
        snapshot = Snapshot("selection", 1, number, common, {0: {"loss_sum": torch.zeros(1)}})
        kept = Checkpoints(folder, snapshot.name)
        started = time.perf_counter()
        kept.save(snapshot, transport)
        writing.append(time.perf_counter() - started)
        started = time.perf_counter()
        assert kept.load([0]) is not None
        reading.append(time.perf_counter() - started)
    return {
        "millions": millions,
        "bytes": 16 * count,
        "write_s": round(statistics.median(writing), 4),
        "read_s": round(statistics.median(reading), 4),
    }


def share(every_s: float, seconds: float, folder: str) -> dict[str, Any]:
    """Train for so many seconds, and return the share of the time that went into checkpoints."""
    rng = np.random.default_rng(0)
    rows = 20_000
    table = {"features": rng.normal(size=(rows, 784)).astype(np.float32), "label": rng.integers(10, size=rows)}
    config = TrainingConfig(
        hidden=(200, 200), batch_size=128, replicas=2, epochs=100_000, dropout=0.0, time_limit_s=seconds, seed=1
    )
    spent: list[float] = []
    save = Checkpoints.save

    def timed(kept: Checkpoints, *arguments: Any) -> None:
        started = time.perf_counter()
        save(kept, *arguments)
        spent.append(time.perf_counter() - started)

    Checkpoints.save = timed  # type: ignore[method-assign]
    try:
        result = fit_table(table, config, run=folder, checkpoint_s=every_s)
    finally:
        Checkpoints.save = save  # type: ignore[method-assign]
    trained = result.seconds["selection"]
    return {
        "every_s": every_s,
        "checkpoints": len(spent),
        "seconds": round(sum(spent), 3),
        "share": round(sum(spent) / trained, 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, nargs="+", default=[0.2, 1, 25], metavar="MILLIONS")
    parser.add_argument("--every", type=float, nargs="+", default=[1, 10, 60], metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--out", type=Path, help="where checkpoints lie; by default a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.out) as scratch:
        result = {
            "versions": library_versions(),
            "one": [one(millions, f"{scratch}/{millions}") for millions in arguments.parameters],
            "training": [share(every, arguments.seconds, f"{scratch}/run-{every}") for every in arguments.every],
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
