"""P10: training on N workers equals training on one. P11: what comes back to the driver is one copy of the weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, because a process can hold one session and this one needs four slots.
PROGRAM = """
import hashlib
import numpy as np, pandas as pd
from sparkwright.session import start
from sparkwright.training.cluster import fit
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.config import TrainingConfig

rng = np.random.default_rng(0)
y = rng.integers(3, size=300)
x = ((rng.normal(size=(3, 9)) * 2)[y] + rng.normal(size=(300, 9))).astype(np.float32)
side = rng.choice(["train", "validation"], 300, p=[0.8, 0.2])
config = TrainingConfig(replicas=8, hidden=(8,), dropout=0.2, epochs=2, batch_size=8, refit=True)

def digest(result):
    return hashlib.sha256(b"".join(v.tobytes() for _, v in sorted(result.head.weights().items()))).hexdigest()

train, validation = side == "train", side == "validation"
expected = digest(fit_arrays(x[train], y[train], config, validation=(x[validation], y[validation])))
spark = start("local[4]")
schema = "features array<float>, label long, split string"
df = spark.createDataFrame(pd.DataFrame({"features": x.tolist(), "label": y, "split": side}), schema)
pieces = []
read = fit._read
fit._read = lambda rows: (pieces.append(len(rows)), read(rows))[1]
for workers, table in [(1, df), (3, df.orderBy("label")), (4, df.repartition(16))]:
    assert digest(fit.train(table, config, split="split", num_workers=workers)) == expected, workers
assert pieces == [2] * 3, pieces  # a summary and one piece of weights, from rank 0 alone
print("equal")
spark.stop()
"""


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_one_three_and_four_workers_and_none_give_the_same_bits(tmp_path: Path) -> None:
    """Two workers are compared on the tests' own session, in `training/test_fit.py`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=280, cwd=tmp_path, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("equal")
