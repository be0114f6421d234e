"""P8: a worker or the driver dies at any moment: the run goes on, and ends with the same bits."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import SparkSession

from sparkwright.errors import InputError
from sparkwright.events import EpochEnded, Event, Warned
from sparkwright.networks.mlp import mlp
from sparkwright.scoring.feature_key import FeatureKey
from sparkwright.scoring.feature_set import FeatureManifest
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.cluster import fit
from sparkwright.training.cluster.worker import TrainingJob
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica
from sparkwright.transfer import train_features

pytestmark = [pytest.mark.timeout(420)]

CONFIG = TrainingConfig(epochs=10, hidden=(8,), replicas=2, batch_size=8, learning_rate=1e-3, refit=True, patience=None)
SETTINGS = ["epochs=10", "hidden=[8]", "batch_size=8", "learning_rate=1e-3", "patience=null"]


@dataclass(frozen=True)
class Data:
    x: np.ndarray
    y: np.ndarray
    side: np.ndarray
    folder: str

    def digest(self, config: TrainingConfig) -> str:
        """The hash of the weights that training without Spark gives, which nothing disturbs."""
        train, validation = self.side == "train", self.side == "validation"
        result = fit_arrays(self.x[train], self.y[train], config, validation=(self.x[validation], self.y[validation]))
        return weights_digest(result.head)


def weights_digest(head: Any) -> str:
    return hashlib.sha256(b"".join(value.tobytes() for _, value in sorted(head.weights().items()))).hexdigest()


@pytest.fixture(scope="module")
def data(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Data:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(150, 4)).astype(np.float32)
    y = np.array(["a", "b"])[(x[:, 0] + rng.normal(size=150) > 0).astype(int)]
    side = np.array(["train"] * 90 + ["validation"] * 30 + ["test"] * 30)
    rows = [(f"{n}.jpg", f"{n}", str(y[n]), str(side[n]), f"{n:064x}", x[n].tolist(), None) for n in range(len(x))]
    ddl = "path string, key string, label string, split string, sha256 string, features array<float>, "
    frame = spark.createDataFrame(rows, ddl + "error struct<kind:string,message:string>")
    folder = tmp_path_factory.mktemp("p08") / "features"
    frame.coalesce(1).write.parquet(str(folder / "data-1" / "computed"))
    key = FeatureKey.of(mlp(4, 4))
    manifest = FeatureManifest(key, None, ("data-1/computed",), 150, 0, 150, 0, "2026-01-01T00:00:00+00:00")
    (folder / "features.json").write_bytes(manifest.to_json())
    return Data(x, y, side, str(folder))


def kill_when(condition: Callable[[], bool], command: list[str], cwd: Path) -> str:
    """Run a command and kill it, with SIGKILL, as soon as something is so; return what it wrote until then."""
    with (cwd / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, env=os.environ)
        try:
            deadline = time.monotonic() + 150
            while not condition():
                assert process.poll() is None, (cwd / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, (cwd / "log").read_text()[-3000:]
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return (cwd / "log").read_text()


@dataclass(frozen=True)
class KilledJob(TrainingJob):
    """Rank 1 is killed in the midst of a step, when it comes again while it writes a checkpoint, and then no more."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import BarrierTaskContext

        from sparkwright.training import checkpoints

        marks = Path((self.checkpoints or "").removeprefix("file://")).parent
        backward, write = Replica.backward, checkpoints.write_file

        def die_once(name: str) -> None:
            if not (marks / name).exists():
                (marks / name).touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def dying_backward(replica: Any, number: int, step: int) -> None:
            if step == 33:
                die_once("step")
            backward(replica, number, step)

        def dying_write(folder: str, name: str, tensors: Any) -> str:
            if "selection-00008" in folder:
                die_once("checkpoint")
            return write(folder, name, tensors)

        if BarrierTaskContext.get().partitionId() == 1:
            Replica.backward = dying_backward  # type: ignore[method-assign]
            checkpoints.write_file = dying_write
        try:
            yield from super().__call__(batches)
        finally:
            Replica.backward = backward  # type: ignore[method-assign]  # the process may be used again
            checkpoints.write_file = write


@pytest.mark.connect(only=True)
def test_a_worker_that_is_killed_twice_changes_no_bit(
    spark: SparkSession, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(fit, "TrainingJob", KilledJob)
    events: list[Event] = []
    rows = spark.read.parquet(f"{data.folder}/data-1/computed")
    result = fit.train(
        rows, CONFIG, split="split", run=str(tmp_path), checkpoint_s=0, num_workers=2, emit=events.append
    )
    assert weights_digest(result.head) == data.digest(CONFIG)
    told = [event.message for event in events if isinstance(event, Warned)]
    assert [message.partition(":")[0].partition(", ")[0] for message in told] == [
        f"Attempt {number} of the training failed and is followed by another" for number in (1, 2)
    ]
    assert "from its checkpoint in the selection at epoch" in told[1]
    assert [event.epoch for event in events if isinstance(event, EpochEnded)] == list(range(1, 11))  # each once
    kept = {"config.json", "events.jsonl", "metrics.json", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint", "step", *kept}


@pytest.mark.cluster
def test_a_driver_that_is_killed_in_the_refit_goes_on_from_its_checkpoint_to_the_same_bits(
    spark: SparkSession, data: Data, tmp_path: Path
) -> None:
    """In the selection it is killed in `test_p08_networks_go_on`."""
    run = tmp_path / "run"
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "sparkwright", "train", data.folder, "--out", str(run), "--replicas", "2"]
    command += ["--checkpoint-s", "0", "--master", "local[2]", *settings]
    kill_when(lambda: any(run.glob("checkpoints/refit-*/manifest.json")), command, tmp_path)
    assert not (run / "metrics.json").exists()
    with pytest.raises(InputError, match=r"another configuration.* training\.epochs: 10 → 11\."):
        train_features(spark, data.folder, str(run), CONFIG.replace(epochs=11), resume=True)
    result = train_features(spark, data.folder, str(run), CONFIG, resume=True)
    assert weights_digest(result.model.head) == data.digest(CONFIG)
    assert not (run / "checkpoints").exists()
    assert not list(run.glob(".*"))
