"""P12: memory is bounded: rows of four times the limit train within it."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, whose memory is nobody else's.
PROGRAM = """
import sys, threading, time
from pathlib import Path
import numpy as np, psutil, pyarrow as pa
from sparkwright.training.rows.columns import Columns
from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.encoding import Encoding
from sparkwright.training.fitting import train_rows
from sparkwright.training.rows.population import examine
from sparkwright.training.rows.files import RowFiles
from sparkwright.training.transports.in_process import InProcess

MIB, WIDTH, ROWS = 1 << 20, 1024, 32_768
LIMIT = WIDTH * ROWS * 4 // 4
columns, config = Columns(("x",), "y", None, "split"), TrainingConfig(replicas=2, epochs=1, batch_size=256)
encoding, rng = Encoding(columns, "classification", 0, (0, 0)), np.random.default_rng(0)

def batches():
    for _ in range(ROWS // 1024):
        x = rng.normal(size=(1024, WIDTH)).astype(np.float32)
        split = np.where(np.arange(1024) % 4 == 0, "validation", "train")
        features = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)
        yield encoding.encode(pa.record_batch({"x": features, "y": (x[:, 0] > 0).astype(int), "split": split}))

files, process = RowFiles("key", 0, Path(sys.argv[1])), psutil.Process()
census = files.keep(batches(), range(2)).census
pa.default_memory_pool().release_unused()

def grown(limit):
    before, most, over = process.memory_info().rss, [0], threading.Event()
    def watch():
        while not over.wait(0.002):
            most[0] = max(most[0], process.memory_info().rss)
    thread = threading.Thread(target=watch)
    thread.start()
    train_rows(config, examine(census, config, columns, "int"), files.load(range(2), WIDTH, limit), InProcess(2))
    over.set(), thread.join()
    return most[0] - before

grown(LIMIT)  # what torch needs for itself
print(LIMIT // MIB, grown(LIMIT) // MIB, grown(LIMIT * 8) // MIB)
"""


@pytest.mark.timeout(120)
def test_rows_of_four_times_the_limit_train_within_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    limit, bounded, unbounded = map(int, done.stdout.split())
    assert limit == 32
    assert bounded <= 1.5 * limit  # with the batches on their way
    assert unbounded > 2 * limit  # a limit above the rows' size lets them stay
