"""What does a search find, for how many epochs, and how many trials a minute does it get through?

    python benchmarks/tuning.py --mnist MNIST --features FEATURES [--cases mnist …] [--ray-python PYTHON] [--runs 3]

MNIST is a folder with the four idx files, gzipped; FEATURES holds ``caltech.npz`` and ``ucmerced.npz`` (x, y and test),
which are made if SPARKWRIGHT_TEST_DATA names the photos. Each case runs in fresh processes:

- `mnist`: an exhaustive grid of 96 points against three searches by successive halving with TPE, each of which may
  spend a tenth of the grid's epochs, in a space of learning rate, width, momentum, dropout and schedule of an MLP
  trained by SGD. All see the same 10,000 training rows and the same 5,000 that validate, and compare by the calibrated
  loss there, as searches do if nobody says otherwise; what each chooses is trained on all 60,000 with three seeds, and
  only then are the test rows looked at.
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
import dataclasses
import functools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))

CASES = ("mnist", "features", "rate", "shared", "killed")
SEEDS = (0, 1, 2)
ROWS, VALIDATION = 10_000, 5_000  # of MNIST's training rows: what the searches train on, and what validates
EPOCHS, FINAL_EPOCHS = 16, 16  # of a trial on the 10,000 rows; of the chosen ones on all 60,000
FIXED: dict[str, Any] = {
    "optimizer": "sgd",
    "nesterov": False,
    "weight_decay": 1e-4,
    "batch_size": 128,
    "replicas": 1,
    "standardise": False,
    "calibrate": False,
    "patience": None,
}
LAYERS = {"hidden.layers": 2}
ONE_EACH: dict[str, Any] = {"candidates": 1, "seeds": 1}  # what is chosen is the best trial
GRID: dict[str, list[Any]] = {
    "learning_rate": [0.001, 0.01, 0.1, 1.0],  # at lower ones nothing is learnt in so many steps
    "hidden.width": [64, 256, 1024],
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
    """Return what grid and searches spent and chose, and the difference of the test errors of what they chose."""
    digits(given)
    kinds = ["grid", *(f"search-{seed}" for seed in SEEDS)]
    grid, *searches = (run(f"digits:{kind}", given) for kind in kinds)
    pairs = [(kind, seed) for kind in kinds for seed in SEEDS]
    with ThreadPoolExecutor(2) as pool:
        finals = list(pool.map(lambda pair: run(f"chosen:{pair[0]},{pair[1]}", given), pairs))
    wrong = {kind: np.array([np.load(given.scratch / f"{kind}-{seed}.npy") for seed in SEEDS]) for kind in kinds}
    for kind, found in zip(kinds, [grid, *searches], strict=True):
        found["test_errors"] = [final["error"] for (of, _), final in zip(pairs, finals, strict=True) if of == kind]
        if kind != "grid":
            found["less grid"] = paired(wrong[kind], wrong["grid"])
    return {
        "grid": grid,
        "searches": searches,
        "epochs over the grid's": statistics.mean(found["epochs"] for found in searches) / grid["epochs"],
        "trial-seconds over the grid's": statistics.mean(found["trial_s"] for found in searches) / grid["trial_s"],
        "searches less grid": paired(np.mean([wrong[kind] for kind in kinds[1:]], axis=0), wrong["grid"]),
    }


def features(given: argparse.Namespace) -> dict[str, Any]:
    """Return test accuracies by set, and the tuned head's gains over the defaults and over LogisticRegressionCV."""
    found = {}
    for name in ("caltech",) if given.small else ("caltech", "ucmerced"):
        searched = run(f"tuned:{name}", given)
        found[name] = {"search": searched, **run(f"heads:{name}", given)}
    return found


def rate(given: argparse.Namespace) -> dict[str, Any]:
    """Return trials a minute, the efficiency of two slots, and what a trial costs beside its training."""
    found: dict[str, Any] = {"runs": []}
    for _ in range(1 if given.small else given.runs):
        runs = {f"{how}_{slots}": run(f"{how}:{slots}", given) for how in ("spark", "joblib") for slots in (1, 2)}
        runs["threads_2"] = run("threads:2", given)
        if given.ray_python:
            runs["ray_2"] = run("ray:2", given, given.ray_python)
        found["runs"].append(runs)
    ratios = {
        "efficiency of two slots": lambda r: a_minute(r["spark_2"]) / (2 * a_minute(r["spark_1"])),
        "the same of plain trials": lambda r: a_minute(r["joblib_2"]) / (2 * a_minute(r["joblib_1"])),
        "two slots over Optuna with joblib": lambda r: a_minute(r["spark_2"]) / a_minute(r["joblib_2"]),
        "two slots over Optuna with threads": lambda r: a_minute(r["spark_2"]) / a_minute(r["threads_2"]),
        "two slots over Ray Tune": lambda r: a_minute(r["spark_2"]) / a_minute(r["ray_2"]),
        "overhead of a trial in seconds, one slot": lambda r: overhead_s(r["spark_1"], 1),
        "overhead of a trial in seconds, two slots": lambda r: overhead_s(r["spark_2"], 2),
    }
    for name, ratio in ratios.items():
        if "Ray" not in name or given.ray_python:
            values = [round(ratio(runs), 3) for runs in found["runs"]]
            found[name] = {"median": statistics.median(values), "all": values}
    return found


def shared(given: argparse.Namespace) -> dict[str, Any]:
    """Return trials a minute of the shared pass, over those of a trial a task."""
    runs = [
        {how: run(f"{how}:2", given) for how in ("spark", "shared")} for _ in range(1 if given.small else given.runs)
    ]
    values = [round(a_minute(one["shared"]) / a_minute(one["spark"]), 2) for one in runs]
    return {"runs": runs, "shared over a trial a task": {"median": statistics.median(values), "all": values}}


def killed(given: argparse.Namespace) -> dict[str, Any]:
    """Return whether a search whose workers are killed ends with the trials of one that is left alone."""
    left, disturbed = run("alone:0", given), run("alone:5", given)
    same = {name: left[name] == disturbed[name] for name in ("best", "scores", "states")}
    return {"same": same, "killed": len(disturbed["lost"]), "alone": left, "disturbed": disturbed}


def a_minute(found: dict[str, Any]) -> float:
    return 60 * float(found["trials"]) / float(found["seconds"])


def overhead_s(found: dict[str, Any], slots: int) -> float:
    """Return what a slot spends for a trial outside of its epochs."""
    return float((slots * found["seconds"] - found["inside_s"]) / found["trials"])


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


# Searches of ours.


def session(slots: int) -> Any:
    """Start Spark and run a small job of Python: what comes before a search costs the same in all."""
    from sparkwright.session import start

    spark = start(f"local[{slots}]", conf={"spark.driver.memory": "2g"})
    spark.range(slots, numPartitions=slots).mapInArrow(lambda batches: batches, "id long").collect()
    return spark


def of_digits(given: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Search on MNIST: the exhaustive grid, or successive halving with TPE and a seed (``"search-0"``)."""
    from sparkwright.training.config import TrainingConfig
    from sparkwright.tuning.config import TuningConfig
    from sparkwright.tuning.space import Choice, Float, Int

    epochs = 4 if given.small else EPOCHS
    points = {name: values[-2:] if given.small else values for name, values in GRID.items()}
    grid = math.prod(map(len, points.values()))
    seed = int(kind.rpartition("-")[2]) if kind != "grid" else 0
    common = {
        "base": TrainingConfig(**FIXED, epochs=epochs, seed=seed),
        "parallel_trials": 2,
        "together": "trial",
        **ONE_EACH,
    }
    if kind == "grid":
        config = TuningConfig({**points, **LAYERS}, trials=grid, sampler="grid", min_epochs=epochs, **common)
    else:
        space = {"learning_rate": Float(1e-4, 1.0, log=True), "hidden.width": Int(64, 1024, log=True)}
        space |= {"momentum": Float(0.0, 0.98), "dropout": Float(0.0, 0.5), "schedule": Choice(GRID["schedule"])}
        most = 2 * epochs if given.small else grid * epochs // 10
        config = TuningConfig({**space, **LAYERS}, trials=grid, min_epochs=1, eta=4, max_epochs=most, **common)
    return search(given, given.scratch / "digits", config, kind)


def of_features(given: argparse.Namespace, name: str) -> dict[str, Any]:
    """Search for a head on a set's features in the library's space, on five folds of the rows that train."""
    from head_defaults import FOLDS, load

    from sparkwright.training.config import TrainingConfig
    from sparkwright.tuning.config import TuningConfig

    data = load(given.features, name)
    kept = ~data["test"]
    write(given.scratch / name, data["x"][kept], data["y"][kept], np.full(kept.sum(), "train"))
    trials, base = (4, TrainingConfig(epochs=3)) if given.small else (100, TrainingConfig())
    config = TuningConfig(trials=trials, base=base, folds=FOLDS, parallel_trials=2)
    return search(given, given.scratch / name, config, name)


def search(given: argparse.Namespace, rows: Path, config: Any, name: str) -> dict[str, Any]:
    """Search on two slots; keep what was chosen, and return what it took."""
    from sparkwright.tuning.search_rows import search_rows

    spark = session(2)
    started = time.perf_counter()
    found = search_rows(spark.read.parquet(str(rows)), config, split="split")
    seconds = time.perf_counter() - started
    spark.stop()
    (given.scratch / f"{name}.json").write_text(json.dumps(found.chosen.values))
    best = found.trials[found.chosen.trial]
    return {
        **told(found.trials),
        "wall_s": seconds,
        "chosen": found.chosen.values,
        "validation": best.folds[0].values,
        "candidates": [candidate.to_dict() for candidate in found.candidates],
    }


def told(trials: list[Any]) -> dict[str, Any]:
    """Return what trials took and how they ended."""
    return {
        "trials": len(trials),
        "epochs": sum(trial.epochs for trial in trials),
        "trial_s": sum(trial.seconds for trial in trials),
        "inside_s": sum(epoch.seconds for trial in trials for fold in trial.folds for epoch in fold.history),
        "seconds": max(job.stopped for trial in trials for job in trial.jobs)
        - min(job.started for trial in trials for job in trial.jobs),
        "states": dict(Counter(trial.state for trial in trials)),
    }


# Trials a minute.


def small_heads(given: argparse.Namespace) -> tuple[Path, Any]:
    """Write Caltech's features for all that is timed; return where, and how heads on them are searched."""
    from head_defaults import load
    from plain_trials import BATCH, SPACE

    from sparkwright.training.config import TrainingConfig
    from sparkwright.tuning.config import TuningConfig
    from sparkwright.tuning.space import Float

    path = given.scratch / "heads"
    if not path.exists():
        data = load(given.features, "caltech")
        held = np.arange(len(data["y"])) % 5 == 0
        write(path, data["x"], data["y"], np.where(held, "validation", "train"))
        sides = {"x": data["x"][~held], "y": data["y"][~held], "xv": data["x"][held], "yv": data["y"][held]}
        np.savez(given.scratch / "heads.npz", **sides)
    base = TrainingConfig(
        epochs=epochs_of(given), batch_size=BATCH, replicas=1, standardise=False, calibrate=False, patience=None
    )
    space = {name: Float(low, high, log=log) for name, (low, high, log) in SPACE.items()}
    config = TuningConfig(space, trials_of(given), base, "random", base.epochs, together="trial", **ONE_EACH)
    return path, config


def epochs_of(given: argparse.Namespace) -> int:
    return 2 if given.small else 50


def trials_of(given: argparse.Namespace) -> int:
    return 6 if given.small else 30


def timed(given: argparse.Namespace, slots: str, together: str = "trial") -> dict[str, Any]:
    """Time the trials alone, from the first one's start to the last one's end; rows are on the worker by then."""
    from sparkwright.tuning.search_rows import search_rows

    path, config = small_heads(given)
    spark = session(int(slots))
    config = dataclasses.replace(config, together=together)
    found = search_rows(spark.read.parquet(str(path)), config, split="split")
    spark.stop()
    return told(found.trials)


def plain(given: argparse.Namespace, jobs: str, how: str) -> dict[str, Any]:
    import plain_trials

    if not (given.scratch / "heads.npz").exists():
        small_heads(given)
    runs = {"joblib": plain_trials.optuna_joblib, "threads": plain_trials.optuna_threads, "ray": plain_trials.ray_tune}
    return runs[how](str(given.scratch / "heads.npz"), trials_of(given), int(jobs), epochs_of(given))


def alone(given: argparse.Namespace, kills: str) -> dict[str, Any]:
    """Search in the deterministic mode, while so many workers are killed."""
    from killed_trials import search_with_kills

    path, config = small_heads(given)
    spark = session(2)
    trials = trials_of(given) if given.small else 60
    halved = {"sampler": "tpe", "min_epochs": 1 if given.small else 6}
    config = dataclasses.replace(config, trials=trials, parallel_trials=2, **halved)
    found, lost = search_with_kills(spark.read.parquet(str(path)), config, int(kills), every=2 if given.small else 8)
    spark.stop()
    return {
        **told(found.trials),
        "lost": [message.partition(":")[0] for message in lost],
        "best": [found.chosen.trial, found.chosen.values],
        "scores": [trial.value for trial in found.trials],
    }


# What is trained outside of searches.


def chosen(given: argparse.Namespace, name: str, seed: str) -> dict[str, Any]:
    """Train what a search chose on all of MNIST's training rows, and test it."""
    from sparkwright.training.arrays import fit_arrays
    from sparkwright.training.config import TrainingConfig
    from sparkwright.tuning.space import configure

    rows, settings = np.load(given.scratch / "all.npz"), json.loads((given.scratch / f"{name}.json").read_text())
    config = configure(TrainingConfig(**FIXED), settings)
    config = config.replace(epochs=2 if given.small else FINAL_EPOCHS, seed=int(seed))
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
    from sparkwright.tuning.space import configure

    data, settings = load(given.features, name), json.loads((given.scratch / f"{name}.json").read_text())
    fold, test = folds(data["y"][~data["test"]]), data["test"]
    x, y, xt, yt = data["x"][~test], data["y"][~test], data["x"][test], data["y"][test]
    wrong: dict[str, list[Any]] = {"tuned": [], "defaults": []}
    for kind, changes in (("tuned", settings), ("defaults", {})):
        for seed in SEEDS:
            config, held = configure(TrainingConfig(refit=True, seed=seed), changes), fold == seed
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
    found: dict[str, Any] = {"difference": float(by_row.mean()), "by_rows": [float(low), float(high)]}
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
ONE: dict[str, Callable[..., dict[str, Any]]] = {
    "digits": of_digits,
    "chosen": chosen,
    "tuned": of_features,
    "heads": heads,
    "spark": timed,
    "shared": functools.partial(timed, together="shared"),
    "joblib": functools.partial(plain, how="joblib"),
    "threads": functools.partial(plain, how="threads"),
    "ray": functools.partial(plain, how="ray"),
    "alone": alone,
}


if __name__ == "__main__":
    main()
