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
ONE: dict[str, Callable[..., dict[str, Any]]] = {}


if __name__ == "__main__":
    main()
