"""How good, and how fast, is a convolutional network trained from scratch, beside a loop of plain torch?

    python benchmarks/from_scratch.py MNIST [--seeds 3]

MNIST is a folder with the four idx files, gzipped. All train the catalogue's `lenet` on the 60,000 rows for ten epochs
by `RECIPE`, which was chosen with a sixth of them as validation rows, and look at the 10,000 test rows once, at the
end. Each in a fresh process:

- `plain`: a loop of plain torch on one thread, 64 rows a step; `plain_channels_last`: the same with the channels of a
  pixel side by side in memory;
- `gang`: ours on Spark, ``local[2]``: two workers, a replica and a thread each, 64 rows a step each, that average their
  weights;
- `looks`: what looks at the layers cost, as often as by default (`health_every`). One process on one thread trains
  `lenet` on digits, and a linear head on made-up features, whose steps are the shortest, with looks and without in turn
  (``--modes looks --seeds 1`` is this alone, and takes some minutes).

``error_interval`` is Wilson's, of 95 %. ``rows_per_s`` counts training alone. The cost of looks is the ratio of the
epochs' seconds, with looks over without, less 1: the median over pairs of trainings that follow each other.
"""

import argparse
import gzip
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RECIPE: dict[str, Any] = {
    "learning_rate": 0.0015,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "batch_size": 64,
    "epochs": 10,
}
OURS: dict[str, Any] = {"replicas": 2, "sync_every": 8, "channels_last": True, "calibrate": False, "patience": None}
NETWORK: dict[str, Any] = {"dropout": 0.5}
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels
MODES = ("plain", "plain_channels_last", "gang", "looks")
PAIRS = 7  # of trainings with looks and without
LOOKED_AT_STEPS = 800  # of each of them: seven looks
LIMIT_S = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument("--rows", type=int, default=60_000, help="fewer, to try the script")
    parser.add_argument("--modes", nargs="*", default=MODES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "from_scratch.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(ONE[given.one](given)))
        return
    from sparkwright.models import library_versions

    report: dict[str, Any] = {
        "command": "python benchmarks/from_scratch.py MNIST",
        "recipe": RECIPE,
        "ours": OURS,
        "network": {"name": "lenet", **NETWORK},
        "versions": library_versions(),
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "runs": [],
    }
    for seed in range(given.seeds):
        report["runs"].append({mode: measure(mode, seed, given) for mode in given.modes})
        report["found"] = found(report["runs"])
        given.out.parent.mkdir(exist_ok=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report["found"], indent=2))


def found(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean errors, and medians of ratios within a run, because a machine's speed drifts."""
    result: dict[str, Any] = {
        f"test error, {mode}": round(statistics.mean(run[mode]["test_error"] for run in runs), 5)
        for mode in runs[0]
        if mode != "looks"
    }
    for what in runs[0].get("looks", {}):
        costs = [cost for run in runs for cost in run["looks"][what]["costs"]]
        result[f"cost of looks, {what}"] = {"median": round(statistics.median(costs), 4), "all": costs}
    pairs = {
        "gang over 2 x plain": ("gang", "plain", 2),
        "gang over 2 x plain_channels_last": ("gang", "plain_channels_last", 2),
    }
    for name, (one, other, times) in pairs.items():
        if one in runs[0] and other in runs[0]:
            ratios = [run[one]["rows_per_s"] / (times * run[other]["rows_per_s"]) for run in runs]
            result[name] = {"median": round(statistics.median(ratios), 3), "all": [round(ratio, 3) for ratio in ratios]}
    return result


def measure(mode: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one mode in a fresh process."""
    command = [sys.executable, __file__, str(given.mnist), "--one", mode, "--seed", str(seed)]
    command += ["--epochs", str(given.epochs), "--rows", str(given.rows)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S).stdout
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    print(mode, json.dumps(result), flush=True)
    return result


def side(folder: Path, name: str, rows: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the digits of one side, of shape (rows, 784), standardised by `MEAN` and `DEVIATION`; their labels."""
    parts = []
    for file, header in ((f"{name}-images-idx3-ubyte.gz", 16), (f"{name}-labels-idx1-ubyte.gz", 8)):
        parts.append(np.frombuffer(gzip.decompress((folder / file).read_bytes()), np.uint8, offset=header))
    pixels = (parts[0].reshape(-1, 784) / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)
    return pixels[:rows], parts[1][:rows].astype(np.int64)


def lenet(seed: int) -> Any:
    """Return the network with random weights, which takes numbers."""
    from sparkwright.networks.catalogue import load_network

    return load_network("lenet", weights="random", seed=seed, **NETWORK).with_preprocessing(None)


def tested(network: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Return the test error, with its interval."""
    x, y = side(given.mnist, "t10k", 10_000)
    wrong = sum(
        int((network.forward(x[at : at + 1000].reshape(-1, 1, 28, 28)).argmax(1) != y[at : at + 1000]).sum())
        for at in range(0, len(y), 1000)
    )
    return {"test_error": wrong / len(y), "error_interval": wilson(wrong, len(y))}


def wilson(count: int, rows: int) -> list[float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, share = 1.959964, count / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return [round(middle - half, 5), round(middle + half, 5)]


def plain(given: argparse.Namespace, *, channels_last: bool) -> dict[str, Any]:
    """Train as a careful script would."""
    import torch
    from torch.nn import functional as F  # noqa: N812  its usual name

    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    network = lenet(given.seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = network.to_module().train().to(memory_format=layout)
    pixels, labels = side(given.mnist, "train", given.rows)
    x, y = torch.from_numpy(pixels).view(-1, 1, 28, 28), torch.from_numpy(labels)
    decayed = [p for p in module.parameters() if p.dim() >= 2]
    rest = [p for p in module.parameters() if p.dim() < 2]
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RECIPE["learning_rate"], weight_decay=RECIPE["weight_decay"], fused=True)
    steps = given.epochs * -(-len(x) // RECIPE["batch_size"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    started = time.perf_counter()
    for _ in range(given.epochs):
        for batch in torch.randperm(len(x)).split(RECIPE["batch_size"]):
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch].to(memory_format=layout)), y[batch]).backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - started
    trained = network.with_weights(module.state_dict())
    return {**tested(trained, given), "rows_per_s": given.epochs * len(x) / seconds, "seconds": seconds}


def gang(given: argparse.Namespace, **settings: Any) -> dict[str, Any]:
    """Train on Spark with two workers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sparkwright.session import start
    from sparkwright.training.cluster.fit import train
    from sparkwright.training.config import TrainingConfig
    from sparkwright.training.subject import WholeNetwork

    x, y = side(given.mnist, "train", given.rows)
    spark = start("local[2]", conf={"spark.driver.memory": "3g"})
    config = TrainingConfig(**{**RECIPE, **OURS, "epochs": given.epochs, "seed": given.seed, **settings})
    with tempfile.TemporaryDirectory() as folder:
        for part, rows in enumerate(np.array_split(np.arange(len(y)), 4)):
            features = pa.FixedSizeListArray.from_arrays(pa.array(x[rows].reshape(-1)), 784).cast(
                pa.list_(pa.float32())
            )
            pq.write_table(pa.table({"features": features, "label": y[rows]}), f"{folder}/{part}.parquet")
        started = time.perf_counter()
        result = train(spark.read.parquet(folder), config, subject=WholeNetwork.of(lenet(given.seed)))
        wall = time.perf_counter() - started
    spark.stop()
    seconds = sum(epoch.seconds for epoch in result.history)
    return {
        **tested(result.network, given),
        "rows_per_s": sum(epoch.rows for epoch in result.history) / seconds,
        "seconds": seconds,
        "wall_s": wall,
        "sync_share": statistics.mean(epoch.sync_share for epoch in result.history),
    }


def looks(given: argparse.Namespace) -> dict[str, Any]:
    """Train with looks at the layers and without, in turn."""
    from sparkwright.training.arrays import fit_table
    from sparkwright.training.config import TrainingConfig
    from sparkwright.training.subject import WholeNetwork

    batch, steps = RECIPE["batch_size"], max(1, LOOKED_AT_STEPS * given.rows // 60_000)
    x, y = side(given.mnist, "train", min(200, steps) * batch)
    epochs = max(1, steps * batch // len(y))
    settings: dict[str, Any] = {"batch_size": batch, "epochs": epochs, "replicas": 1, "calibrate": False}
    made = np.random.default_rng(given.seed).standard_normal((len(y), 1280), np.float32)
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "lenet": ({"features": x, "label": y}, {"subject": WholeNetwork.of(lenet(given.seed))}),
        "linear head": ({"features": made, "label": y}, {}),
    }
    report: dict[str, Any] = {}
    for name, (table, what) in cases.items():
        fit_table(table, TrainingConfig(**{**settings, "epochs": 1}), **what)  # warms up
        taken: dict[bool, list[float]] = {True: [], False: []}
        for pair in range(PAIRS):
            for looked_at in (True, False) if pair % 2 else (False, True):
                every = {} if looked_at else {"health_every": None}
                config = TrainingConfig(**settings, seed=given.seed, **every)
                history = fit_table(table, config, **what).history
                taken[looked_at].append(round(sum(epoch.seconds for epoch in history), 3))
        costs = [round(on / off - 1, 4) for on, off in zip(taken[True], taken[False], strict=True)]
        report[name] = {"costs": costs, "with_looks_s": taken[True], "without_s": taken[False]}
    return report


ONE = {
    "plain": lambda given: plain(given, channels_last=False),
    "plain_channels_last": lambda given: plain(given, channels_last=True),
    "gang": lambda given: gang(given, health_every=None),
    "looks": looks,
}

if __name__ == "__main__":
    main()
