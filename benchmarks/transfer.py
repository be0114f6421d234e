"""What does the main job cost, beside a plain script that does the same without Spark?

    python benchmarks/transfer.py PHOTOS NETWORK [--runs 3] [--out benchmarks/results/transfer.json]

PHOTOS is a folder with a folder a class (the Caltech-101 subset), NETWORK a file or folder with a network. In turn, on
the same cores:

- `plain`: a script without Spark: threads that decode and run ONNX Runtime, then scikit-learn's logistic regression on
  the same features and rows (standardised, C chosen on the validation rows, fitted again on training and validation);
- `sparkwright`: `sparkwright transfer` in a process of its own. Its peak memory, that of all its processes together, is
  taken in one more run: looking at it takes time.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil

from sparkwright.models import library_versions

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from caltech import write_split


def plain_features(photos: list[Path], network, threads: int) -> np.ndarray:
    """Compute features as a careful script would: a thread decodes a few photos, then runs the network on them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(network.to_onnx(), options, providers=["CPUExecutionProvider"])
    features = np.empty((len(photos), *network.output_shape), np.float32)
    batch = 8

    def work(start: int) -> None:
        part = photos[start : start + batch]
        x = np.empty((len(part), *network.input_shape), np.float32)
        for row, path in enumerate(part):
            network.preprocessing.apply(path.read_bytes(), x[row])
        features[start : start + len(part)] = session.run(None, {"input": x})[0]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, len(photos), batch)))
    return features


def plain_head(features: np.ndarray, labels: np.ndarray, sides: np.ndarray) -> float:
    """Return scikit-learn's accuracy on the test rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fit(c: float, rows: np.ndarray):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(features[rows], labels[rows])

    train, validation, test = (sides == side for side in ("train", "validation", "test"))
    best = max((1e-4, 1e-3, 1e-2, 1e-1), key=lambda c: fit(c, train).score(features[validation], labels[validation]))
    return float(fit(best, train | validation).score(features[test], labels[test]))


def run_plain(folder: Path, network_name: str, table: Path) -> dict[str, float]:
    from sparkwright.networks.catalogue import load_network

    network = load_network(network_name)
    network = network.cut(network.feature_layer)
    rows = [line.rsplit(",", 1) for line in table.read_text().splitlines()[1:]]
    start = time.monotonic()
    features = plain_features([folder / name for name, _ in rows], network, os.cpu_count() or 1)
    seconds = {"features": time.monotonic() - start}
    start = time.monotonic()
    labels = np.array([name.split("/")[0] for name, _ in rows])
    accuracy = plain_head(features, labels, np.array([side for _, side in rows]))
    return seconds | {"head": time.monotonic() - start, "accuracy": accuracy}


class PeakMemory(threading.Thread):
    """Samples the proportional memory of a process and all its children, in MiB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self.mib: dict[str, float] = {}

    def run(self) -> None:
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            now = {"jvm": 0.0, "python": 0.0}
            for process in [self._process, *self._process.children(recursive=True)]:
                try:
                    now["jvm" if process.name() == "java" else "python"] += process.memory_full_info().pss / 2**20
                except psutil.Error:
                    continue
            now["all"] = sum(now.values())
            self.mib = {key: max(value, self.mib.get(key, 0.0)) for key, value in now.items()}
            time.sleep(0.5)


def run_sparkwright(
    folder: Path, network: str, table: Path, out: Path, *, watch_memory: bool = False
) -> dict[str, object]:
    command = [sys.executable, "-m", "sparkwright", "transfer", str(folder), "--network", network]
    command += ["--split", str(table), "--out", str(out), "--json"]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    memory = PeakMemory(process.pid)
    if watch_memory:
        memory.start()
    output, _ = process.communicate()
    wall = time.monotonic() - start
    if process.returncode:
        sys.exit(f"the run failed: {output}")
    metrics = json.loads(output)["metrics"]
    shutil.rmtree(out)
    seconds = metrics["seconds"]
    if watch_memory:
        return {key: round(value) for key, value in memory.mib.items()}
    return {
        "seconds": seconds,
        "wall": wall,
        "beyond_start": sum(seconds.values()),
        "accuracy": metrics["test"]["accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("network")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "transfer.json")
    arguments = parser.parse_args()
    plain, spark = [], []
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "split.csv"
        write_split(arguments.photos, table, seed=0)
        for run in range(arguments.runs):
            plain.append(run_plain(arguments.photos, arguments.network, table))
            spark.append(run_sparkwright(arguments.photos, arguments.network, table, Path(scratch) / f"run-{run}"))
            print(json.dumps({"plain": plain[-1], "sparkwright": spark[-1]}), flush=True)
        peak = run_sparkwright(
            arguments.photos, arguments.network, table, Path(scratch) / "run-memory", watch_memory=True
        )
    ratios = [s["seconds"]["features"] / p["features"] for s, p in zip(spark, plain, strict=True)]
    result = {
        "command": "python benchmarks/transfer.py PHOTOS NETWORK",
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine(), "gpu": None},
        "versions": library_versions(),
        "seed": 0,
        "photos": len(list(arguments.photos.glob("*/*"))),
        "feature_stage_over_plain": {"median": statistics.median(ratios), "all": ratios},
        "beyond_start_s": {"median": statistics.median(s["beyond_start"] for s in spark)},
        "peak_mib": peak,
        "plain": plain,
        "sparkwright": spark,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("feature_stage_over_plain", "beyond_start_s")}, indent=2))


if __name__ == "__main__":
    main()
