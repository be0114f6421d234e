"""Trials as loops of plain torch, by Optuna with joblib and by Ray Tune: what `tuning.py` compares ours with.

Each trial trains a linear head on rows in memory, looks at the validation rows after each epoch, and gives the best of
these losses; its values are drawn at random from one space. Optuna's workers are processes of joblib that share a
journal file, which its documentation recommends, or threads (``n_jobs``). Python, its libraries and torch are loaded in
the workers before the clock starts, except in Ray's, which live in ``ray.init`` and are warmed by trials of one epoch.
"""

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 128
SPACE = {"learning_rate": (1e-4, 1e-1, True), "weight_decay": (1e-3, 3.0, True), "dropout": (0.0, 0.6, False)}
"""Name → lowest, highest, whether logarithmic."""


@functools.cache
def load(path: str) -> dict[str, Any]:
    """Return training and validation rows as tensors; a process reads them once."""
    import torch

    torch.set_num_threads(1)
    rows = np.load(path)
    return {name: torch.from_numpy(rows[name]) for name in ("x", "y", "xv", "yv")}


def plain_trial(path: str, values: dict[str, float], epochs: int) -> float:
    """Train as a careful script would; return the best loss on the validation rows."""
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812  its usual name

    rows = load(path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(values["dropout"]), nn.Linear(rows["x"].shape[1], int(rows["y"].max()) + 1))
    weights = {"lr": values["learning_rate"], "weight_decay": values["weight_decay"]}
    optimizer = torch.optim.AdamW(model.parameters(), **weights, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(rows["x"]) // BATCH))
    best = float("inf")
    for epoch in range(epochs):
        model.train()
        for batch in torch.randperm(len(rows["x"]), generator=torch.Generator().manual_seed(epoch)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(rows["x"][batch]), rows["y"][batch]).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            best = min(best, float(F.cross_entropy(model(rows["xv"]), rows["yv"])))
    return best


def objective(trial: Any, path: str, epochs: int) -> float:
    values = {name: trial.suggest_float(name, low, high, log=log) for name, (low, high, log) in SPACE.items()}
    return plain_trial(path, values, epochs)


def optuna_joblib(path: str, trials: int, jobs: int, epochs: int) -> dict[str, Any]:
    """Run a study by `jobs` processes of joblib that share a journal."""
    import joblib
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = str(Path(path).with_name("journal.log"))
    Path(journal).unlink(missing_ok=True)
    study = optuna.create_study(study_name="plain", storage=JournalStorage(JournalFileBackend(journal)))
    with joblib.Parallel(n_jobs=jobs) as parallel:
        parallel(joblib.delayed(plain_trial)(path, dict.fromkeys(SPACE, 0.1), 1) for _ in range(4 * jobs))
        started = time.perf_counter()
        shares = [trials // jobs + (job < trials % jobs) for job in range(jobs)]
        parallel(joblib.delayed(_optimize)(journal, path, share, epochs, job) for job, share in enumerate(shares))
        seconds = time.perf_counter() - started
    return _told(study, seconds)


def _optimize(journal: str, path: str, trials: int, epochs: int, seed: int) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(journal))
    study = optuna.load_study(study_name="plain", storage=storage, sampler=optuna.samplers.RandomSampler(seed))
    study.optimize(functools.partial(objective, path=path, epochs=epochs), n_trials=trials)


def optuna_threads(path: str, trials: int, jobs: int, epochs: int) -> dict[str, Any]:
    """Run a study by `jobs` threads of this process."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plain_trial(path, dict.fromkeys(SPACE, 0.1), 1)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    started = time.perf_counter()
    study.optimize(functools.partial(objective, path=path, epochs=epochs), n_trials=trials, n_jobs=jobs)
    return _told(study, time.perf_counter() - started)


def _told(study: Any, seconds: float) -> dict[str, Any]:
    inside = sum(trial.duration.total_seconds() for trial in study.trials)
    return {"trials": len(study.trials), "seconds": seconds, "inside_s": inside, "best": study.best_value}


def ray_tune(path: str, trials: int, jobs: int, epochs: int) -> dict[str, Any]:
    """Run trials by Ray Tune, `jobs` at a time, on actors that it reuses."""
    import logging

    import ray
    from ray import tune

    ray.init(num_cpus=jobs, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    space = {name: (tune.loguniform if log else tune.uniform)(low, high) for name, (low, high, log) in SPACE.items()}
    started = 0.0
    for length, count in ((1, 2 * jobs), (epochs, trials)):
        started = time.perf_counter()
        found = tune.Tuner(
            tune.with_resources(tune.with_parameters(_ray_trial, path=path, epochs=length), {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(num_samples=count, reuse_actors=True, metric="loss", mode="min"),
            run_config=tune.RunConfig(verbose=0, storage_path=str(Path(path).parent / "ray")),
        ).fit()
    seconds = time.perf_counter() - started
    losses = [result.metrics["loss"] for result in found if result.metrics]
    inside = sum(result.metrics["inside_s"] for result in found if result.metrics)
    ray.shutdown()
    return {
        "trials": len(losses),
        "seconds": seconds,
        "inside_s": inside,
        "best": min(losses),
        "version": ray.__version__,
    }


def _ray_trial(values: dict[str, float], path: str, epochs: int) -> dict[str, float]:
    started = time.perf_counter()
    loss = plain_trial(path, values, epochs)
    return {"loss": loss, "inside_s": time.perf_counter() - started}
