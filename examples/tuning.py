"""Handwritten digits: a search for the settings of a small network, on Spark, with an asserted figure.

    python examples/tuning.py MNIST RUN

MNIST is the folder with the four files of the data set (`train-images-idx3-ubyte.gz` …); RUN is where the run goes,
with its report. Forty configurations are tried on 10,000 of the training digits, most of them for one or three epochs;
2,000 others compare them, and the best two are trained again with three seeds. The 10,000 test digits are looked at
once, after the choice: at least 95.5 % must be right.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparkwright import Float, Int, TrainingConfig, session
from sparkwright.tuning.config import TuningConfig
from sparkwright.tuning.tune import tune

EXPECTED = 0.955
TRAIN, VALIDATE = 10_000, 2_000  # digits of the training files
TRIALS = 40
SPACE = {
    "learning_rate": Float(1e-4, 0.1, log=True),
    "hidden.width": Int(64, 512, log=True),
    "hidden.layers": [1, 2],
    "dropout": Float(0.0, 0.5),
    "schedule": ["cosine", "one_cycle"],
}


def read(path: Path, header: int) -> NDArray[np.uint8]:
    """Read a file of the data set: bytes behind a header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def write_table(folder: Path, path: Path) -> None:
    """Write the digits as a table: 784 numbers between 0 and 1, the digit, and the side."""
    tables = []
    for name, sides in (("train", ["train"] * TRAIN + ["validation"] * VALIDATE), ("t10k", None)):
        images = read(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28 * 28) / np.float32(255)
        digits = read(folder / f"{name}-labels-idx1-ubyte.gz", 8)
        split = sides or ["test"] * len(digits)
        pixels = pa.array(list(images[: len(split)]), pa.list_(pa.float32()))
        tables.append(pa.table({"pixels": pixels, "digit": digits[: len(split)].astype(str), "split": split}))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables), path)


def main(folder: str, out: str) -> None:
    """Search, and assert how many test digits the chosen configuration gets right."""
    spark = session.start()
    table = Path(out) / "digits.parquet"
    write_table(Path(folder), table)
    base = TrainingConfig(batch_size=128, weight_decay=0.1, epochs=9, replicas=1, standardise=False)
    config = TuningConfig(SPACE, trials=TRIALS, base=base, min_epochs=1, candidates=2)
    result = tune(
        spark, str(table), f"{out}/search", config, columns=["pixels"], label="digit", split="split", overwrite=True
    )
    epochs = sum(trial.epochs for trial in result.trials)
    print(f"{len(result.trials)} configurations, {epochs} epochs instead of {len(result.trials) * base.epochs}")
    print(f"chosen: {result.chosen.values}")
    test = result.metrics["test"]
    low, high = test["accuracy_interval"]
    print(f"{test['rows']} test digits: accuracy {test['accuracy']:.4f} ({low:.4f} to {high:.4f})")
    assert test["accuracy"] >= EXPECTED, f"expected at least {EXPECTED}"
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
