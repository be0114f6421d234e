"""P12: Memory is bounded, estimated before the job, and the estimate is tested."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sparkwright.errors import EnvironmentNotReadyError
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.scoring.features import featurize
from sparkwright.scoring.forward import memory
from sparkwright.scoring.forward.graph import Graph
from sparkwright.scoring.forward.memory import estimate
from sparkwright.session import Room

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkwright.networks.network import Network

BATCH, SIZE = 128, (28, 28)

# What a scoring process does, with the photos' decoding left out. Prints what it has of its own after the imports, and
# its peak. Pages of library files are left out of both: how many are mapped at once is the kernel's choice.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np
import sparkwright.scoring.process.child
from sparkwright.scoring.forward import runtime
from sparkwright.scoring.process.engine import score

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0])

class Block:
    def __len__(self): return 640
    def read(self, row, out): out[:] = row

path, sha256, shape, batch = json.loads(sys.argv[1])
own = status("RssAnon")
network = runtime.load(Path(path), sha256, 1)
list(score([Block(), Block()], network, tuple(shape), batch_size=batch, threads=1))
print(own, status("VmHWM") - status("RssFile"))
"""


@pytest.fixture(scope="module")
def network() -> "Network":
    preprocessing = Preprocessing(SIZE, resize="exact", channels="grey", mean=(0.0,), std=(1.0,))
    return load_network("small_cnn", weights="random").with_preprocessing(preprocessing)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to measure a process's peak")
def test_the_estimate_lies_within_a_quarter_of_the_measured_peak(network: "Network", tmp_path: Path) -> None:
    graph = Graph.of_network(network)
    (tmp_path / "network.onnx").write_bytes(graph.onnx)
    told = json.dumps([str(tmp_path / "network.onnx"), graph.sha256, graph.input_shape, BATCH])
    done = subprocess.run([sys.executable, "-c", CHILD, told], capture_output=True, text=True, timeout=100, check=True)
    own, peak = (int(kib) << 10 for kib in done.stdout.split())
    expected = estimate(graph, BATCH)
    # No photos are decoded, and no rows come from Spark.
    counted = replace(expected, arrow=0, queues=expected.queues - memory._DECODED)
    assert 0.75 < (counted.peak - counted.libraries) / (peak - own) < 1.25
    assert 0.25 * counted.libraries < own < counted.libraries


def test_a_job_that_would_not_fit_is_refused_before_it_runs(
    spark: "SparkSession", network: "Network", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = spark.createDataFrame([("a", b"")], "path string, content binary")
    room = Room(64 << 20, 2, "spark.executor.memoryOverhead", "--conf spark.executor.memoryOverhead")
    monkeypatch.setattr(memory, "python_room", lambda _: room)
    with pytest.raises(EnvironmentNotReadyError, match=r"needs about .* there are 64 MiB .*--conf spark.executor.memo"):
        featurize(spark, rows, network, str(tmp_path / "features"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to measure a process's memory")
def test_the_drivers_memory_does_not_grow_with_the_rows(spark: "SparkSession", tmp_path: Path) -> None:
    from sparkwright.networks.mlp import mlp
    from sparkwright.scoring.model_transformer import predict

    def score(rows: int) -> int:
        """Score so many rows of numbers; return by how much this process grew, in bytes."""
        numbers = spark.range(rows).selectExpr("transform(sequence(1, 64), i -> float(id % 97 + i)) AS content")
        before = _resident()
        scored = predict(numbers, mlp(64, 3).with_classes(["a", "b", "c"]), input_column="content")
        scored.write.mode("overwrite").parquet(str(tmp_path / "scored"))
        return _resident() - before

    score(1000)
    score(100_000)
    assert spark.read.parquet(str(tmp_path / "scored")).where("error IS NULL").count() == 100_000
    assert np.median([score(100_000) for _ in range(2)]) < 8 << 20  # the numbers alone are 24 MiB


def _resident() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) << 10
