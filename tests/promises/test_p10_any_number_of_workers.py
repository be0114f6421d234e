"""P10: training on N workers equals training on one, and training without Spark: the same weights, bit for bit."""

import subprocess
import sys

import pytest

PROGRAM = """
import hashlib
import numpy as np
from sparkwright import session
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fit import train

rng = np.random.default_rng(10)
x = rng.normal(size=(150, 12)).astype(np.float32)
y = np.array(["abc"[n] for n in rng.integers(3, size=150)])
split = np.where(np.arange(150) % 5 == 0, "validation", "train")
config = TrainingConfig(hidden=(8,), dropout=0.2, epochs=4, replicas=4, sync_every=2, batch_size=8, refit=True,
                        class_weights="balanced")

def digest(result):
    weights = sorted(result.head.weights().items())
    history = [(event.train_loss, event.validation) for event in result.history]
    return hashlib.sha256(b"".join(v.tobytes() for _, v in weights) + repr(history).encode()).hexdigest()

side = {name: (x[split == name], y[split == name]) for name in ("train", "validation")}
print(digest(fit_arrays(*side["train"], config, validation=side["validation"])))
spark = session.start("local[3]")
rows = [(values.tolist(), str(label), str(name)) for values, label, name in zip(x, y, split)]
table = spark.createDataFrame(rows, "features array<float>, label string, split string")
for workers in (1, 2, 3):
    print(digest(train(table.repartition(workers + 1), config, split="split", num_workers=workers)))
spark.stop()
"""


@pytest.mark.cluster
@pytest.mark.timeout(200)
def test_four_replicas_on_one_two_and_three_workers_and_without_spark_give_the_same_bits(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=180, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    digests = done.stdout.split()
    assert len(digests) == 4
    assert len(set(digests)) == 1, digests
