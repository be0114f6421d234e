"""What does each way to live with a rare class do to accuracy, balanced accuracy, F1 and probabilities?

UCI Adult (Kohavi 1996) with a tenth of the rows that earn more than 50,000 dollars, in training and test alike: 3 % of
the rows. A hidden layer of 64; a fifth of the training rows validate, and choose epoch and threshold; the test rows are
scored once a seed and way. The seed chooses the rows that stay, too.

    python benchmarks/imbalance.py TRAIN TEST

TRAIN and TEST are Adult's `adult.data` and `adult.test`.
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn import metrics

from sparkwright import MLPClassifier
from sparkwright.models import library_versions

SEEDS = (0, 1, 2)
RARE, KEPT = ">50K", 0.1
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "monitor macro F1": {"monitor": "macro_f1"},
    "threshold for F1": {"thresholdMetric": "f1"},
    "threshold for balanced accuracy": {"thresholdMetric": "balanced_accuracy"},
    "focal loss": {"loss": "focal"},
    "balanced weights": {"classWeights": "balanced"},
    "balanced sampling": {"sampling": "balanced"},
}
SETTINGS = {"hiddenLayers": [64], "weightDecay": 0.01, "epochs": 12, "batchSize": 64, "validationFraction": 0.2}
TEXTS = ["workclass", "education", "marital_status", "occupation", "relationship", "race", "sex", "native_country"]
COLUMNS = [
    *("age", "workclass", "weight", "education", "education_num", "marital_status", "occupation", "relationship"),
    *("race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country", "income"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "imbalance.json")
    arguments = parser.parse_args()
    x, y, is_test = read(arguments.train, arguments.test)
    rows = []
    for name, params in WAYS.items():
        found = [measure(x, y, is_test, seed, params) for seed in SEEDS]
        spread = {key: round(float(np.std([row[key] for row in found])), 4) for key in found[0]}
        means = {key: round(float(np.mean([row[key] for row in found])), 4) for key in found[0]}
        rows.append({"way": name, "params": params, "mean": means, "deviation": spread})
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "settings": SETTINGS,
        "seeds": SEEDS,
        "machine": platform.processor() or platform.machine(),
        "versions": library_versions(),
        "ways": rows,
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def read(train: Path, test: Path) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_]]:
    """Return features, labels, and which rows are of TEST."""
    tables = [pd.read_csv(path, names=COLUMNS, skipinitialspace=True, comment="|") for path in (train, test)]
    table = pd.concat(tables, keys=["train", "test"]).dropna(subset=["income"])
    for name in ("capital_gain", "capital_loss"):
        table[name] = np.log1p(table[name].astype(float))
    x = pd.get_dummies(table.drop(columns=["income", "weight"]), columns=TEXTS).to_numpy(np.float32)
    is_test = np.asarray(table.index.get_level_values(0) == "test")
    return x, table["income"].str.rstrip(".").to_numpy(), is_test


def measure(
    x: NDArray[np.float32], y: NDArray[Any], is_test: NDArray[np.bool_], seed: int, params: dict[str, Any]
) -> dict[str, float]:
    """Train on what stays of the training rows, and return figures of what stays of the test rows."""
    stays = (y != RARE) | (np.random.default_rng(seed).random(len(y)) < KEPT)
    train, test = stays & ~is_test, stays & is_test
    model = MLPClassifier(**SETTINGS, seed=seed, progress=False, **params).fit(
        {"features": x[train], "label": y[train]}
    )
    scored, rare = model.transform({"features": x[test]}), y[test] == RARE
    predicted, p = scored["prediction"] == RARE, np.stack(scored["probabilities"])[:, 1].astype(float)
    return {
        "accuracy": metrics.accuracy_score(rare, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(rare, predicted),
        "f1": metrics.f1_score(rare, predicted),
        "recall": metrics.recall_score(rare, predicted),
        "precision": metrics.precision_score(rare, predicted, zero_division=0),
        "log_loss": metrics.log_loss(rare, p),
        "average_precision": metrics.average_precision_score(rare, p),
    }


if __name__ == "__main__":
    main()
