"""P8 for whole networks: a worker or the driver dies in their training, which ends with the bits of one undisturbed.

The worker while a network learns texts, the driver while one is fine-tuned on photos.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import SparkSession

from sparkwright.data.digits import write_digits
from sparkwright.events import Event, Warned
from sparkwright.models import Model
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.text import TextPreprocessing
from sparkwright.scoring.feature_set import open_features
from sparkwright.training.arrays import fit_table
from sparkwright.training.cluster import fit
from sparkwright.training.cluster.worker import TrainingJob
from sparkwright.training.config import FINETUNING, TrainingConfig
from sparkwright.training.replica.replica import Replica
from sparkwright.training.result import TrainingResult
from sparkwright.training.subject import WholeNetwork
from sparkwright.transfer import transfer

pytestmark = [pytest.mark.timeout(420)]

HEAD = TrainingConfig(epochs=3, replicas=2, patience=None)
TUNING = FINETUNING.replace(epochs=6, replicas=2, learning_rate=1e-3, batch_norm="local")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("p08") / "photos"
    write_digits(folder, digits=[5, 6])
    for number, path in enumerate(sorted(folder.glob("*/*.png"))):
        if number % 4:
            path.unlink()
    return folder


def assert_same(network: Any, head: Any, expected: TrainingResult) -> None:
    assert expected.network is not None
    assert (head is None) == (expected.head is None)  # what has its own outputs has none
    for there, wanted in ((network, expected.network), (head, expected.head)):
        for name, value in () if wanted is None else wanted.weights().items():
            np.testing.assert_array_equal(there.weights()[name], value, name)


@dataclass(frozen=True)
class KilledJob(TrainingJob):
    """Rank 1 is killed in the midst of a step, once."""

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import BarrierTaskContext

        mark = Path((self.checkpoints or "").removeprefix("file://")).parent / "killed"
        backward = Replica.backward

        def dying_backward(replica: Any, number: int, step: int) -> None:
            if step == 13 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            backward(replica, number, step)

        if BarrierTaskContext.get().partitionId() == 1:
            Replica.backward = dying_backward  # type: ignore[method-assign]
        try:
            yield from super().__call__(batches)
        finally:
            Replica.backward = backward  # type: ignore[method-assign]  # the process may be used again


def test_a_worker_that_is_killed_changes_no_bit(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(fit, "TrainingJob", KilledJob)
    rng, labels = np.random.default_rng(0), ["bad", "good"] * 20
    texts = [" ".join([*rng.choice(["a", "film", "so", "it"], rng.integers(1, 20)), label]) for label in labels]
    rows = spark.createDataFrame(list(zip(texts, labels, strict=True)), "text string, label string")
    network = load_network("gru", weights="random", preprocessing=TextPreprocessing.fit(texts), hidden=(8,))
    chosen = {"features": "text", "subject": WholeNetwork.of(network)}
    training = TUNING.replace(epochs=4, batch_size=4)
    events: list[Event] = []
    result = fit.train(rows, training, run=str(tmp_path), checkpoint_s=0, num_workers=2, emit=events.append, **chosen)
    (warned,) = [event.message for event in events if isinstance(event, Warned)]
    assert "is followed by another, from its checkpoint in the selection at epoch" in warned
    assert_same(result.network, result.head, fit_table({"text": texts, "label": labels}, training, **chosen))


@pytest.mark.cluster
def test_a_fine_tuning_whose_driver_is_killed_goes_on_to_the_same_bits(
    spark: SparkSession, photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "sparkwright", "transfer", str(photos), "--network", "digits_cnn"]
    command += ["--out", str(run), "--replicas", "2", "--checkpoint-s", "0", "--master", "local[2]"]
    command += ["--set", "epochs=3", "--set", "patience=null", "--finetune", "block2", "--finetune-epochs", "6"]
    command += ["--finetune-set", "learning_rate=1e-3", "--finetune-set", "batch_norm=local"]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 200
            while not any(run.glob("checkpoints/finetuning/selection-0000[2-9]-*/manifest.json")):
                assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert not (run / "metrics.json").exists()
    chosen = {"training": HEAD, "finetune": "block2", "finetuning": TUNING}
    result = transfer(spark, str(photos), "digits_cnn", str(run), resume=True, **chosen)
    rows = open_features(spark, f"{run}/features").rows.where("split <> 'test'").toPandas()
    sides = {"label": rows["label"].tolist(), "split": rows["split"].tolist()}
    head = fit_table({"features": np.stack(rows["features"]), **sides}, HEAD, split="split")
    model = Model(load_network("digits_cnn").cut("fc1"), head.head, "classification", head.classes)
    content = [(photos / key).read_bytes() for key in rows["key"]]
    expected = fit_table(
        {"content": content, **sides},
        TUNING,
        features="content",
        split="split",
        subject=WholeNetwork.of(model, train_from="block2"),
    )
    assert_same(result.model.network, result.model.head, expected)
    assert not (run / "checkpoints").exists()
