"""Handwritten digits: a convolutional network trained from scratch on two workers, with an asserted figure.

    python examples/lenet.py MNIST

MNIST is the folder with the four files of the data set (`train-images-idx3-ubyte.gz` …). Two workers train the
catalogue's `lenet`, which begins with random weights, for ten epochs on the 60,000 training digits, and average their
weights every eight steps. The settings were chosen with a sixth of these digits as validation rows. At most 0.8 % of
the 10,000 test digits, which are looked at once, may be wrong.
"""

import gzip
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparkwright import NetworkClassifier, load_network, session
from sparkwright.evaluation.metrics import wilson_interval

EXPECTED = 0.992  # it was 0.9941

SETTINGS = {
    "epochs": 10,
    "batchSize": 64,
    "learningRate": 0.0015,
    "weightDecay": 0.1,
    "warmup": 0,
    "replicas": 2,
    "syncEvery": 8,
    "channelsLast": True,
}


def read(path: Path, header: int) -> NDArray[np.uint8]:
    """Read a file of the data set: bytes behind a header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def side(folder: str, name: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the digits of one side, of shape (rows, 784) with mean 0 and deviation 1, and their labels."""
    pixels = read(Path(folder) / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784) / np.float32(255)
    labels = read(Path(folder) / f"{name}-labels-idx1-ubyte.gz", 8)
    return (pixels - np.float32(0.1307)) / np.float32(0.3081), labels


def main(folder: str) -> None:
    """Train, test, and assert how many digits are right."""
    spark = session.start("local[2]")
    pixels, labels = side(folder, "train")
    features = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 784).cast(pa.list_(pa.float32()))
    rows = spark.createDataFrame(pa.table({"features": features, "label": labels.astype(np.int32)}))
    network = load_network("lenet", weights="random", dropout=0.5).with_preprocessing(None)  # it takes numbers
    model = NetworkClassifier(network=network, newHead=False, featuresCol="features", **SETTINGS).fit(rows)
    print(model.history[["epoch", "train_loss", "train_accuracy", "seconds"]].to_string(index=False))
    pixels, labels = side(folder, "t10k")
    right = int((model.transform({"features": pixels})["prediction"] == labels).sum())
    accuracy, (low, high) = right / len(labels), wilson_interval(right, len(labels))
    print(f"{len(labels)} digits: accuracy {accuracy:.4f} ({low:.4f} to {high:.4f})")
    assert accuracy >= EXPECTED, f"expected at least {EXPECTED}"
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
