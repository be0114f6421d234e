"""What it costs to score in a supervised process instead of in the Spark task itself.

    python benchmarks/supervisor.py PHOTOS NETWORK [--rows 3000] [--runs 5]

Runs the engine over the same photos with and without a supervisor, in turn, each time in a fresh Python, without
Spark. Reported are CPU seconds of all processes (a busy machine changes them less than seconds of the clock), at two
numbers of rows: their difference is what a photo costs, the rest is the start. ``own`` is the process that stands for
the Spark task; supervised, that is the supervisor.
"""

import argparse
import hashlib
import json
import os
import pickle
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sparkwright.models import library_versions

FEW = 50


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("photos", type=Path)
    arguments.add_argument("network")
    arguments.add_argument("--rows", type=int, default=3000)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "supervisor.json")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(given.network, Path(folder))
        runs: dict[str, list[dict[str, float]]] = {"alone": [], "supervised": []}
        for _ in range(given.runs):
            for mode, found in runs.items():
                few, many = (measure(mode, plan, given.photos, rows) for rows in (FEW, given.rows))
                per_photo = (many["cpu_s"] - few["cpu_s"]) / (given.rows - FEW)
                found.append(
                    {
                        "cpu_ms_per_photo": 1000 * per_photo,
                        "cpu_s_start": few["cpu_s"] - FEW * per_photo,
                        "first_rows_s": few["first_s"],
                        "own_cpu_ms_per_photo": 1000 * (many["own_cpu_s"] - few["own_cpu_s"]) / (given.rows - FEW),
                    }
                )
                print(mode, found[-1], flush=True)
    medians = {
        mode: {name: statistics.median(run[name] for run in found) for name in found[0]} for mode, found in runs.items()
    }
    pairs = zip(runs["alone"], runs["supervised"], strict=True)  # neighbours, on a machine whose speed drifts
    more = statistics.median(b["cpu_ms_per_photo"] / a["cpu_ms_per_photo"] - 1 for a, b in pairs)
    result = {
        "rows": given.rows,
        "network": Path(given.network).name,
        "command": "python benchmarks/supervisor.py PHOTOS NETWORK",
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": library_versions(),
        "medians": medians,
        "more_cpu_per_photo": more,
        "runs": runs,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{more:+.1%} CPU time per photo")


def prepare(name: str, folder: Path) -> Path:
    from sparkwright.networks.catalogue import load_network
    from sparkwright.scoring.forward.graph import Graph
    from sparkwright.scoring.outputs import Features
    from sparkwright.scoring.process.arrow import ScoringPlan

    network = load_network(name)
    graph = Graph.of_network(network.cut(network.feature_layer or network.layers[-1]))
    onnx = folder / "network.onnx"
    onnx.write_bytes(graph.onnx)
    plan = ScoringPlan(
        network=onnx.name,
        sha256=hashlib.sha256(graph.onnx).hexdigest(),
        preprocessing=graph.preprocessing,
        input_shape=graph.input_shape,
        output_shape=graph.output_shape,
        input_column="content",
        keep=("path",),
        outputs=(Features("features"),),
        error_column="error",
        digest_column="sha256",
        threads=2,
    )
    file = folder / "plan.pickle"
    file.write_bytes(pickle.dumps((plan, onnx)))
    return file


def measure(mode: str, plan: Path, photos: Path, rows: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", mode, str(plan), str(photos), str(rows)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def child(mode: str, plan_file: str, photos: str, rows: str) -> None:
    import pyarrow as pa

    plan, onnx = pickle.loads(Path(plan_file).read_bytes())
    contents = [path.read_bytes() for path in sorted(Path(photos).rglob("*.jpg"))[: int(rows)]]

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(contents), 500):
            some = contents[start : start + 500]
            yield pa.RecordBatch.from_pydict({"path": [str(row) for row in range(len(some))], "content": some})

    begin, first_s, done = time.perf_counter(), 0.0, 0
    if mode == "alone":
        from sparkwright.scoring.forward import runtime
        from sparkwright.scoring.process.arrow import run

        answers = run(batches(), plan, runtime.load(onnx, plan.sha256, 1))
    else:
        from sparkwright.scoring.process.supervisor import supervise

        answers = supervise(batches(), plan, onnx)
    for answer in answers:
        first_s = first_s or time.perf_counter() - begin
        done += answer.num_rows
    assert done == len(contents)
    if mode != "alone":
        from sparkwright.scoring.process import scorer

        scorer.take().kill()
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, children = (used.ru_utime + used.ru_stime for used in usage)
    print(json.dumps({"cpu_s": own + children, "own_cpu_s": own, "first_s": first_s}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
