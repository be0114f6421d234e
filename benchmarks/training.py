"""How fast does training go, beside plain torch, TorchDistributor and H2O?

    python benchmarks/training.py MNIST [--features caltech.npz] [--h2o-python PYTHON] [--runs 3]

MNIST is a folder with the four idx files, gzipped. All train the network 784-200-200-10 on the same 55,000 rows, 128
rows a step of each copy of the weights, with AdamW on a cosine schedule and dropout, and look at the other 5,000 after
each epoch. In turn, each in a fresh process:

- `plain_1`, `plain_2`: a loop of plain torch on rows in memory, with one and two threads; `plain_1_fused`: with the
  optimiser's fused steps;
- `in_process_1`, `in_process_2`: ours without Spark, one replica, with one and two threads;
- `gang`: ours on Spark, ``local[2]``: two workers, a replica each, a thread each, that average;
- `distributor`: Spark's TorchDistributor, the plain loop under DistributedDataParallel in two processes;
- `h2o`: H2O's deep learning on two threads (one epoch), by a Python that has h2o and numpy.

Then the test error with 2 and 8 replicas (settings chosen on the validation rows, three seeds, trained on all 60,000
rows), and the seconds of a head (768 → 100) on photos' features, an ``.npz`` file with x and y. ``rows_per_s`` counts
training alone, its looks at the validation rows included; ``wall_s`` is from the call that trains to its model;
``spark_s`` is the part of it that is not training: stage's start, moving rows, result.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HIDDEN = (200, 200)
BATCH = 128
VALIDATION = 5000
RATE, DECAY, DROPOUT = 0.003, 0.0, 0.1
SETTINGS: dict[int, dict[str, Any]] = {  # by replicas; the best of those tried on the validation rows
    1: {"learning_rate": RATE},
    2: {"learning_rate": RATE, "sync_every": 16},
    8: {"learning_rate": 4 * RATE, "sync_every": 4},
}
SEEDS = (0, 1, 2)
MODES = ("plain_1", "plain_1_fused", "plain_2", "in_process_1", "in_process_2", "gang", "distributor")
LIMIT_S = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--h2o-python")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rows", type=int, default=60_000, help="fewer, to try the script")
    parser.add_argument("--modes", nargs="*", default=MODES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(ONE[given.one](given)))
        return
    from sparkwright.models import library_versions

    report: dict[str, Any] = {
        "command": "python benchmarks/training.py MNIST --features FEATURES --h2o-python PYTHON",
        "settings": {str(replicas): vars(config(replicas, given.epochs)) for replicas in SETTINGS},
        "versions": library_versions(),
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        given.scratch = prepare(given, Path(scratch))  # what a mode takes in MNIST's place
        for _ in range(given.runs):
            report["runs"].append({mode: run(mode, given) for mode in given.modes})
            report["ratios"] = ratios(report["runs"])
            write(given.out, report)
        if given.h2o_python:
            report["h2o"] = run("h2o", given, given.h2o_python)
            report["ratios"] = ratios(report["runs"], report["h2o"])
            write(given.out, report)
        report["errors"] = run("errors", given)
        write(given.out, report)
        if given.features:
            report["head"] = run("head", given)
    write(given.out, report)
    print(json.dumps({name: report.get(name) for name in ("ratios", "errors", "head", "h2o")}, indent=2))


def ratios(runs: list[dict[str, Any]], h2o: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what is asked: medians of ratios within a run, because a machine's speed drifts."""
    found: dict[str, Callable[[dict[str, Any]], float]] = {
        "in_process_1 over plain_1": lambda r: speed(r, "in_process_1") / speed(r, "plain_1"),
        "in_process_1 over plain_1_fused": lambda r: speed(r, "in_process_1") / speed(r, "plain_1_fused"),
        "in_process_2 over plain_2": lambda r: speed(r, "in_process_2") / speed(r, "plain_2"),
        "gang over 2 x plain_1": lambda r: speed(r, "gang") / (2 * speed(r, "plain_1")),
        "gang over distributor": lambda r: speed(r, "gang") / speed(r, "distributor"),
        "gang over distributor, wall": lambda r: r["distributor"]["wall_s"] / r["gang"]["wall_s"],
        "Spark's part of a training of a minute": lambda r: r["gang"]["spark_s"] / 60,
    }
    if h2o:
        found["gang over h2o"] = lambda r: speed(r, "gang") / h2o["rows_per_s"]
    result = {}
    for name, ratio in found.items():
        try:
            values = [round(ratio(one), 3) for one in runs]
        except KeyError:  # a mode that was not asked for
            continue
        result[name] = {"median": statistics.median(values), "all": values}
    return result


def speed(run: dict[str, Any], mode: str) -> float:
    return float(run[mode]["rows_per_s"])


def run(mode: str, given: argparse.Namespace, python: str = sys.executable) -> dict[str, Any]:
    """Measure one mode in a fresh process."""
    command = [python, __file__, str(given.scratch), "--one", mode, "--epochs", str(given.epochs)]
    command += ["--features", str(given.features.resolve())] if given.features else []
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S).stdout
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    print(mode, json.dumps(result), flush=True)
    return result


def write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


# Rows: made once, for all.


def prepare(given: argparse.Namespace, folder: Path) -> Path:
    """Write the rows as an array file for plain loops, and as Parquet for Spark; the last column says the side."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sides = {}
    for side, name in (("train", "train"), ("test", "t10k")):
        x = read_idx(given.mnist / f"{name}-images-idx3-ubyte.gz").reshape(-1, 784).astype(np.float32) / 255
        sides[side] = (x, read_idx(given.mnist / f"{name}-labels-idx1-ubyte.gz").astype(np.int64))
    x, y = sides["train"]
    shuffled = np.random.default_rng(0).permutation(len(x))[: given.rows]
    held = min(VALIDATION, given.rows // 6)
    order, split = shuffled, np.where(np.arange(len(shuffled)) < held, "validation", "train")
    np.savez(folder / "rows.npz", x=x[order], y=y[order], held=held, xt=sides["test"][0], yt=sides["test"][1])
    features = pa.FixedSizeListArray.from_arrays(pa.array(x[order].reshape(-1)), 784).cast(pa.list_(pa.float32()))
    table = pa.table({"features": features, "label": y[order], "split": split})
    (folder / "rows").mkdir()
    for part in range(4):
        few = table.slice(part * len(order) // 4, (part + 1) * len(order) // 4 - part * len(order) // 4)
        pq.write_table(few, folder / "rows" / f"{part}.parquet")
    return folder


def read_idx(path: Path) -> NDArray[np.uint8]:
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def load(folder: Path) -> dict[str, NDArray[Any]]:
    return dict(np.load(folder / "rows.npz"))


# The plain loop, alone and under DistributedDataParallel.


def plain_loop(folder: str, epochs: int, threads: int, rank: int = 0, world: int = 1, fused: bool = False) -> Any:
    """Train as a careful script would; return the weights, and what was measured.

    It imports and looks up all it needs itself: TorchDistributor sends it to other processes.
    """
    import time
    from pathlib import Path

    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812  its usual name

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows = np.load(Path(folder) / "rows.npz")
    held, all_x, all_y = int(rows["held"]), torch.from_numpy(rows["x"]), torch.from_numpy(rows["y"])
    x, y = all_x[held:], all_y[held:]
    layers: list[nn.Module] = []
    for width, size in ((784, 200), (200, 200)):
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(0.1)]
    network = nn.Sequential(*layers, nn.Linear(200, 10))
    model: nn.Module = network
    if world > 1:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003, weight_decay=0.0, fused=fused)
    steps = -(-len(x) // (128 * world))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    started, errors = time.perf_counter(), []
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for batch in order[rank : len(x) - len(x) % world : world].split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            right = sum(int((network(xv).argmax(1) == yv).sum()) for xv, yv in
                        zip(all_x[:held].split(1024), all_y[:held].split(1024), strict=True))  # fmt: skip
        network.train()
        errors.append(1 - right / held)
    seconds = time.perf_counter() - started
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    return weights, {"rows_per_s": epochs * len(x) / seconds, "seconds": seconds, "validation_error": errors[-1]}


def plain(given: argparse.Namespace, threads: int, fused: bool = False) -> dict[str, Any]:
    started = time.perf_counter()
    _, found = plain_loop(str(given.mnist), given.epochs, threads, fused=fused)
    return {**found, "wall_s": time.perf_counter() - started}


def distributor(given: argparse.Namespace) -> dict[str, Any]:
    from pyspark.ml.torch.distributor import TorchDistributor

    spark = session()
    folder, epochs, loop = str(given.mnist), given.epochs, plain_loop

    def train() -> Any:
        import os

        return loop(folder, epochs, 1, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    started = time.perf_counter()
    _, found = TorchDistributor(num_processes=2, local_mode=False, use_gpu=False).run(train)
    wall = time.perf_counter() - started
    spark.stop()
    return {**found, "wall_s": wall, "spark_s": wall - found["seconds"]}


def session() -> Any:
    """Start Spark and run a small job of Python: what comes before a training costs the same in all modes."""
    from sparkwright.session import start

    spark = start("local[2]", conf={"spark.driver.memory": "3g"})
    spark.range(2, numPartitions=2).mapInArrow(lambda batches: batches, "id long").collect()
    return spark


# Ours.


def config(replicas: int, epochs: int, **changes: Any) -> Any:
    from sparkwright.training.config import TrainingConfig

    settings = {"hidden": HIDDEN, "batch_size": BATCH, "weight_decay": DECAY, "dropout": DROPOUT, "epochs": epochs}
    settings |= {"replicas": replicas, "standardise": False, "calibrate": False, "patience": None}
    return TrainingConfig(**{**settings, **SETTINGS[replicas], **changes})


def in_process(given: argparse.Namespace, threads: int) -> dict[str, Any]:
    from sparkwright.training.arrays import fit_arrays

    started = time.perf_counter()
    rows = load(given.mnist)
    x, y, held = rows["x"], rows["y"], int(rows["held"])
    chosen = config(1, given.epochs, threads=threads)
    result = fit_arrays(x[held:], y[held:], chosen, validation=(x[:held], y[:held]))
    return {**of_history(result), "wall_s": time.perf_counter() - started}


def gang(given: argparse.Namespace) -> dict[str, Any]:
    from sparkwright.training.cluster.fit import train

    spark = session()
    table = spark.read.parquet(str(given.mnist / "rows"))
    started = time.perf_counter()
    result = train(table, config(2, given.epochs), split="split")
    wall = time.perf_counter() - started
    spark.stop()
    return {**of_history(result), "wall_s": wall, "spark_s": wall - result.seconds["selection"]}


def of_history(result: Any) -> dict[str, Any]:
    """Return what the epochs of a training tell."""
    seconds = sum(epoch.seconds for epoch in result.history)
    return {
        "rows_per_s": sum(epoch.rows for epoch in result.history) / seconds,
        "seconds": result.seconds,
        "sync_share": statistics.mean(epoch.sync_share for epoch in result.history),
        "validation_error": 1 - result.history[-1].validation["accuracy"],
    }


def errors(given: argparse.Namespace) -> dict[str, Any]:
    """Return the test error after training on all rows, by replicas; one seed a value."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name

    from sparkwright.training.cluster.fit import train

    spark, rows = session(), load(given.mnist)
    table = spark.read.parquet(str(given.mnist / "rows")).withColumn("split", F.lit("train"))
    found: dict[str, Any] = {}
    for replicas in (2, 8):
        values = []
        for seed in SEEDS:
            head = train(table, config(replicas, given.epochs, seed=seed), split="split").head
            values.append(float((head.forward(rows["xt"]).argmax(1) != rows["yt"]).mean()))
        found[f"{replicas} replicas"] = {"mean": statistics.mean(values), "deviation": statistics.stdev(values)}
        found[f"{replicas} replicas"]["seeds"] = values
    spark.stop()
    return {**found, "rows": len(rows["yt"])}


def head(given: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of a head on features, with all defaults, once rows are on the workers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from sparkwright.training.cluster.fit import train
    from sparkwright.training.config import TrainingConfig

    spark, rows = session(), np.load(given.features)
    split = np.where(np.arange(len(rows["y"])) % 5 == 0, "validation", "train")
    features = pa.FixedSizeListArray.from_arrays(pa.array(rows["x"].reshape(-1)), rows["x"].shape[1])
    table = pa.table({"features": features.cast(pa.list_(pa.float32())), "label": rows["y"], "split": split})
    path = str(given.mnist / "head.parquet")
    pq.write_table(table, path)
    found = []
    for _ in range(3):
        started = time.perf_counter()
        result = train(spark.read.parquet(path), TrainingConfig(), split="split")
        found.append({"wall_s": time.perf_counter() - started, **result.seconds, "epochs": len(result.history)})
    spark.stop()
    return {"on_workers_s": statistics.median(one["selection"] for one in found), "rows": table.num_rows, "runs": found}


# H2O, by another Python.


def h2o(given: argparse.Namespace) -> dict[str, Any]:
    import h2o
    from h2o.estimators import H2ODeepLearningEstimator

    h2o.init(nthreads=2, max_mem_size="6G")
    rows = load(given.mnist)
    held = int(rows["held"])
    path = given.mnist / "rows.csv"
    np.savetxt(path, np.column_stack([np.round(rows["x"][held:] * 255), rows["y"][held:]]), "%d", ",")
    frame = h2o.import_file(str(path), header=-1)
    label = frame.columns[-1]
    frame[label] = frame[label].asfactor()
    model = H2ODeepLearningEstimator(hidden=list(HIDDEN), epochs=1, activation="Rectifier", score_interval=1e9, seed=0)
    started = time.perf_counter()
    model.train(x=frame.columns[:-1], y=label, training_frame=frame)
    wall = time.perf_counter() - started
    h2o.cluster().shutdown()
    return {"rows_per_s": (len(rows["x"]) - held) / wall, "wall_s": wall, "version": h2o.__version__}


ONE: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "plain_1": lambda given: plain(given, 1),
    "plain_1_fused": lambda given: plain(given, 1, fused=True),
    "plain_2": lambda given: plain(given, 2),
    "in_process_1": lambda given: in_process(given, 1),
    "in_process_2": lambda given: in_process(given, 2),
    "gang": gang,
    "distributor": distributor,
    "h2o": h2o,
    "errors": errors,
    "head": head,
}


if __name__ == "__main__":
    main()
