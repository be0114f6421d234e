"""Handwritten digits as arrays of NumPy, in one process, without Spark, with an asserted figure.

    python examples/mnist.py MNIST

MNIST is the folder with the four files of the data set (`train-images-idx3-ubyte.gz` …). A sixth of the training rows
validate and choose the number of epochs; then training begins again with all 60,000. At most 2.2 % of the 10,000 test
digits, which are looked at once, may be wrong.
"""

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkwright import MLPClassifier
from sparkwright.evaluation.metrics import wilson_interval

EXPECTED = 0.978  # it was 0.9823


def read(path: Path, header: int) -> NDArray[np.uint8]:
    """Read a file of the data set: bytes behind a header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def side(folder: str, name: str) -> dict[str, NDArray[Any]]:
    """Return the digits of one side, of shape (rows, 784) and between 0 and 1, and their labels."""
    images = read(Path(folder) / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28 * 28)
    return {"features": images / np.float32(255), "label": read(Path(folder) / f"{name}-labels-idx1-ubyte.gz", 8)}


def main(folder: str) -> None:
    """Train, test, and assert how many digits are right."""
    classifier = MLPClassifier(
        hiddenLayers=[200, 200],
        learningRate=0.002,
        weightDecay=0.1,
        dropout=0.2,
        epochs=10,
        batchSize=128,
        replicas=1,
        standardise=False,
        validationFraction=1 / 6,
        refit=True,
    )
    model = classifier.fit(side(folder, "train"))
    print(model.history[["epoch", "train_loss", "validation_loss", "validation_accuracy"]].to_string(index=False))
    test = side(folder, "t10k")
    predicted = model.transform({"features": test["features"]})
    right = int((predicted["prediction"] == test["label"]).sum())
    accuracy = right / len(predicted)
    low, high = wilson_interval(right, len(predicted))
    print(f"{len(predicted)} digits: accuracy {accuracy:.4f} ({low:.4f} to {high:.4f})")
    assert accuracy >= EXPECTED, f"expected at least {EXPECTED}"


if __name__ == "__main__":
    main(*sys.argv[1:])
