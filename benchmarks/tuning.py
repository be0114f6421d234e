"""What does a search find, for how many epochs, and how many trials a minute does it get through?

    python benchmarks/tuning.py --mnist MNIST --features FEATURES [--cases mnist …] [--ray-python PYTHON] [--runs 3]

MNIST is a folder with the four idx files, gzipped; FEATURES holds ``caltech.npz`` and ``ucmerced.npz`` (x, y and test),
which are made if SPARKWRIGHT_TEST_DATA names the photos. Each case runs in fresh processes:

- `mnist`: an exhaustive grid of 96 points against successive halving with TPE that may spend a tenth of the grid's
  epochs, in a space of learning rate, width, momentum, dropout and schedule of an MLP trained by SGD. Both see the same
  10,000 training rows and the same 5,000 that validate; what each chooses is trained on all 60,000 with three seeds,
  and only then are the test rows looked at.
- `features`: heads on photos' features: the tuned one (five folds of the training rows), the defaults, and
  scikit-learn's LogisticRegressionCV on the same folds; three seeds where there are seeds.
- `rate`: trials a minute of heads 768 → 100 with one slot and with two, as Spark tasks and in this process, beside
  Optuna with joblib and Ray Tune whose trials are loops of plain torch that do the same work.
- `shared`: the same heads, many in one process over one stream of batches, over a trial a task.
- `killed`: a search of 60 trials in the deterministic mode while five workers are killed, and undisturbed.

A difference's interval is of pairs: of the same test rows (bootstrap of rows, each the mean over the seeds), and of the
same seeds (Student's t); the wider one is what a claim rests on.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

CASES = ("mnist", "features", "rate", "shared", "killed")
SEEDS = (0, 1, 2)
ROWS, VALIDATION = 10_000, 5_000  # of MNIST's training rows: what the searches train on, and what validates
EPOCHS, FINAL_EPOCHS = 16, 16  # of a trial on the 10,000 rows; of the chosen ones on all 60,000
FIXED = {"optimizer": "sgd", "weight_decay": 1e-4, "batch_size": 128, "replicas": 1, "standardise": False}
FIXED |= {"calibrate": False, "patience": None}
GRID = {
    "learning_rate": [0.001, 0.01, 0.1, 1.0],
    "width": [64, 256, 1024],
    "momentum": [0.0, 0.9],
    "dropout": [0.0, 0.3],
    "schedule": ["constant", "cosine"],
}
LIMIT_S = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--ray-python", help="a Python that has ray[tune], torch and numpy")
    parser.add_argument("--runs", type=int, default=3, help="repeats of what is timed")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tuning.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, _, arguments = given.one.partition(":")
        print(json.dumps(ONE[name](given, *filter(None, arguments.split(",")))))
        return
    from sparkwright.models import library_versions

    report: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    report |= {
        "command": "python benchmarks/tuning.py --mnist MNIST --features FEATURES --ray-python PYTHON",
        "versions": library_versions(),
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    with tempfile.TemporaryDirectory() as scratch:
        given.scratch = Path(scratch)
        for case in given.cases:
            report[case] = MEASURED[case](given)
            given.out.parent.mkdir(exist_ok=True)
            given.out.write_text(json.dumps(report, indent=2) + "\n")
            print(case, json.dumps(report[case], indent=2), flush=True)


def run(one: str, given: argparse.Namespace, python: str = sys.executable) -> dict[str, Any]:
    """Measure one thing in a fresh process."""
    command = [python, __file__, "--one", one, "--scratch", str(given.scratch)]
    command += ["--features", str(given.features.resolve())] if given.features else []
    command += ["--small"] if given.small else []
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S).stdout
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    print(one, json.dumps(result)[:600], flush=True)
    return result


# The cases: what is run, and what is made of it.


def mnist(given: argparse.Namespace) -> dict[str, Any]:
    """Return what grid and search spent and chose, and the difference of the test errors of what they chose."""
    raise NotImplementedError


def features(given: argparse.Namespace) -> dict[str, Any]:
    """Return test accuracies by set, and the tuned head's gains over the defaults and over LogisticRegressionCV."""
    raise NotImplementedError


def rate(given: argparse.Namespace) -> dict[str, Any]:
    """Return trials a minute, the efficiency of two slots, and what a trial costs beside its training."""
    raise NotImplementedError


def shared(given: argparse.Namespace) -> dict[str, Any]:
    """Return trials a minute of the shared pass, over those of a trial a task."""
    raise NotImplementedError


def killed(given: argparse.Namespace) -> dict[str, Any]:
    """Return whether a search whose workers are killed ends with the trials of one that is left alone."""
    raise NotImplementedError


# Rows: made once, for all.


def digits(given: argparse.Namespace) -> None:
    """Write MNIST: the rows of the searches, all that train, and those that test."""
    from training import read_idx

    sides = []
    for name in ("train", "t10k"):
        x = read_idx(given.mnist / f"{name}-images-idx3-ubyte.gz").reshape(-1, 784).astype(np.float32) / 255
        sides += [x, read_idx(given.mnist / f"{name}-labels-idx1-ubyte.gz").astype(np.int64)]
    x, y, xt, yt = sides
    rows, held = (600, 300) if given.small else (ROWS, VALIDATION)
    picked = np.random.default_rng(0).permutation(len(x))[: rows + held]
    split = np.where(np.arange(len(picked)) < rows, "train", "validation")
    write(given.scratch / "digits", x[picked], y[picked], split)
    few = slice(2000) if given.small else slice(None)
    np.savez(given.scratch / "all.npz", x=x[few], y=y[few], xt=xt, yt=yt)


def write(path: Path, x: NDArray[np.float32], y: NDArray[Any], split: NDArray[Any]) -> None:
    """Write rows as Parquet for Spark, in four files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1]).cast(pa.list_(pa.float32()))
    table = pa.table({"features": features, "label": y, "split": split})
    path.mkdir(exist_ok=True)
    for part, place in enumerate(np.array_split(np.arange(len(y)), 4)):
        pq.write_table(table.take(place), path / f"{part}.parquet")


# What is trained outside of searches.


def chosen(given: argparse.Namespace, name: str, seed: str) -> dict[str, Any]:
    """Train what a search chose on all of MNIST's training rows, and test it."""
    from sparkwright.training.arrays import fit_arrays
    from sparkwright.training.config import TrainingConfig

    rows, settings = np.load(given.scratch / "all.npz"), json.loads((given.scratch / f"{name}.json").read_text())
    config = TrainingConfig(**{**FIXED, **settings, "epochs": 2 if given.small else FINAL_EPOCHS, "seed": int(seed)})
    result = fit_arrays(rows["x"], rows["y"], config)
    assert result.head is not None
    wrong = result.head.forward(rows["xt"]).argmax(1) != rows["yt"]
    np.save(given.scratch / f"{name}-{seed}.npy", wrong)
    return {"error": 100 * float(wrong.mean()), "seconds": result.seconds["selection"]}


def heads(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """Test the defaults, what a search chose, and scikit-learn's LogisticRegressionCV on the features of a set."""
    from head_defaults import FOLDS, folds, load
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sparkwright.training.arrays import fit_arrays
    from sparkwright.training.config import TrainingConfig

    data, settings = load(given.features, name), json.loads((given.scratch / f"{name}.json").read_text())
    fold, test = folds(data["y"][~data["test"]]), data["test"]
    x, y, xt, yt = data["x"][~test], data["y"][~test], data["x"][test], data["y"][test]
    wrong: dict[str, list[Any]] = {"tuned": [], "defaults": []}
    for kind, changes in (("tuned", settings), ("defaults", {})):
        for seed in SEEDS:
            config, held = TrainingConfig(**{**changes, "refit": True, "seed": seed}), fold == seed
            head = fit_arrays(x[~held], y[~held], config, validation=(x[held], y[held])).head
            assert head is not None
            wrong[kind].append(head.forward(xt).argmax(1) != yt)
    regression = LogisticRegressionCV(
        Cs=[1e-3] if given.small else [3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
        cv=[(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(FOLDS)],
        max_iter=300,
        l1_ratios=(0,),
        use_legacy_attributes=False,
        scoring="accuracy",
    )
    wrong["regression"] = [make_pipeline(StandardScaler(), regression).fit(x, y).predict(xt) != yt]
    arrays = {kind: np.array(values) for kind, values in wrong.items()}
    return {
        "accuracies": {kind: (1 - values.mean(1)).round(4).tolist() for kind, values in arrays.items()},
        "rows": len(yt),
        "tuned less defaults": paired(arrays["tuned"], arrays["defaults"]),
        "tuned less regression": paired(arrays["tuned"], arrays["regression"]),
    }


# Intervals.


def paired(wrong: NDArray[Any], other: NDArray[Any]) -> dict[str, Any]:
    """Return `wrong` less `other`, in points of the error, with 95 % intervals over test rows and over seeds.

    Args:
        wrong: Whether a row is predicted wrongly, of shape (seeds, rows).
        other: The same of what it is compared with, of shape (seeds or 1, rows).
    """
    from scipy.stats import t

    by_row = 100 * (wrong.mean(0) - other.mean(0))
    draws = np.random.default_rng(0).integers(len(by_row), size=(2000, len(by_row)), dtype=np.int32)
    low, high = np.quantile(by_row[draws].mean(1), [0.025, 0.975])
    found = {"difference": float(by_row.mean()), "by_rows": [float(low), float(high)]}
    if len(wrong) == len(other) > 1:
        by_seed = 100 * (wrong.mean(1) - other.mean(1))
        half = t.ppf(0.975, len(by_seed) - 1) * by_seed.std(ddof=1) / len(by_seed) ** 0.5
        found["by_seeds"] = [float(by_seed.mean() - half), float(by_seed.mean() + half)]
    return {name: np.round(value, 3).tolist() for name, value in found.items()}


MEASURED: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "mnist": mnist,
    "features": features,
    "rate": rate,
    "shared": shared,
    "killed": killed,
}
ONE: dict[str, Callable[..., dict[str, Any]]] = {"chosen": chosen, "heads": heads}


if __name__ == "__main__":
    main()
