"""A search for hyperparameters, made up: what a run's ``trials.json`` holds, of any number of trials."""

import heapq

import numpy as np

SPACE = {
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "optimizer": {"choices": ["adamw", "sgd", "lamb"]},
    "momentum": [
        {"type": "float", "low": 0.5, "high": 0.99, "when": {"optimizer": "sgd"}},
        {"type": "float", "low": 0.8, "high": 0.95, "when": {"optimizer": "adamw"}},
    ],
    "hidden.layers": {"type": "int", "low": 0, "high": 3},
    "hidden.width": {"type": "int", "low": 64, "high": 1024, "log": True, "when": {"hidden.layers": [1, 2, 3]}},
    "dropout": {"type": "float", "low": 0.0, "high": 0.6},
    "schedule": {"choices": ["constant", "cosine", "one_cycle", "linear"]},
    "batch_size": {"choices": [16, 32, 64, 128]},
    "epochs": {"value": 27},
}
RUNGS, EPOCHS, START = (1, 3, 9, 27), 27, 1.7e9


def draw(rng):
    values = {
        "learning_rate": float(10 ** rng.uniform(-4, 0)),
        "optimizer": str(rng.choice(["adamw", "sgd", "lamb"])),
        "hidden.layers": int(rng.integers(0, 4)),
        "dropout": float(rng.uniform(0, 0.6)),
        "schedule": str(rng.choice(["constant", "cosine", "one_cycle", "linear"])),
        "batch_size": int(rng.choice([16, 32, 64, 128])),
        "epochs": 27,
    }
    if values["optimizer"] != "lamb":
        values["momentum"] = float(rng.uniform(0.8, 0.95))
    if values["hidden.layers"]:
        values["hidden.width"] = int(2 ** rng.uniform(6, 10))
    return values


def skill(values):
    """The accuracy that a configuration reaches in the end, and how fast."""
    rate = {"adamw": 3e-3, "sgd": 5e-2, "lamb": 1e-2}[values["optimizer"]]
    units = values["hidden.layers"] * values.get("hidden.width", 0)
    off = np.log10(values["learning_rate"] / rate) + 0.4 * (units > 1000)
    lost = 0.018 * off**2 + 0.02 * (off > 1.2) * off**3 + 0.004 * abs(values["dropout"] - 0.25)
    lost += 0.012 * (units == 0) + 0.004 * (values["schedule"] == "constant") + 0.002 * (units > 2000)
    return max(0.1, 0.975 - lost), 1.5 + 1.2 * max(0, -off)


def made_up_search(count=200, slots=2, seed=0, metric="accuracy", objectives=None, faults=True):
    """Asynchronous successive halving as a clock of events plays it."""
    rng = np.random.default_rng(seed)
    trials, free, clock = [], [(START, slot) for slot in range(slots)], START
    heapq.heapify(free)
    waiting = []
    while len(trials) < count or waiting:
        clock, slot = heapq.heappop(free)
        trial = _promoted(trials, len(trials) >= count)
        if trial is None:
            if len(trials) >= count:
                break
            values = _near(trials, rng) if len(trials) > 12 and rng.random() < 0.7 else draw(rng)
            trial = _begun(len(trials), values, rng, faults)
            trials.append(trial)
        stopped = _trained(trial, f"worker-{slot % 2 + 1}/{4000 + slot}", clock, rng, metric)
        heapq.heappush(free, (stopped + 0.05, slot))
        waiting = [t for t in trials if t["state"] == "paused"]
    for trial in trials:
        if trial["state"] == "paused":
            trial["state"] = "stopped"
        for key in [key for key in trial if key.startswith("_")]:
            del trial[key]
        trial["metrics"] = _metrics(trial, metric)
    return _document(trials, slots, seed, metric, objectives, rng)


def _near(trials, rng):
    best = max(trials, key=lambda trial: trial["value"] or 0.0)
    values = dict(draw(rng)) if rng.random() < 0.15 else dict(best["values"])
    values["learning_rate"] = float(np.clip(values["learning_rate"] * 10 ** rng.normal(0, 0.35), 1e-4, 1))
    values["dropout"] = float(np.clip(values["dropout"] + rng.normal(0, 0.1), 0, 0.6))
    if "hidden.width" in values:
        values["hidden.width"] = int(np.clip(values["hidden.width"] * 2 ** rng.normal(0, 0.5), 64, 1024))
    if rng.random() < 0.2:
        values["schedule"] = str(rng.choice(["constant", "cosine", "one_cycle", "linear"]))
    return values


def _begun(number, values, rng, faults):
    trial = {
        "number": number, "values": values, "state": "paused", "reason": "", "folds": [], "value": None,
        "metrics": {}, "rungs": {}, "seconds": 0.0, "attempts": 0, "jobs": [], "_noise": float(rng.normal(0, 0.003)),
    }  # fmt: skip
    if faults and number % 29 == 17:
        trial |= {
            "state": "rejected",
            "reason": f"InputError: max_parameters is 500,000; this network has 1,2{number:02d},004.",
        }
    elif faults and (number == 7 or (values["learning_rate"] > 0.6 and number % 2)):
        trial |= {
            "state": "failed",
            "reason": f"NotFiniteError: Rank 0 failed at step {number}: loss is nan. Hint: lower `learning_rate`.",
        }
    return trial


def _promoted(trials, last):
    for rung in reversed(RUNGS[:-1]):
        there = sorted((t for t in trials if str(rung) in t["rungs"]), key=lambda t: -t["rungs"][str(rung)])
        for trial in there[: max(len(there) // 3, 1 if last else 0)]:
            if trial["state"] == "paused" and max(map(int, trial["rungs"])) == rung:
                return trial
    return None


def _trained(trial, where, clock, rng, metric):
    if trial["state"] == "rejected":
        return clock
    seconds_each = 0.4 + 0.002 * trial["values"].get("hidden.width", 0) + 4 / trial["values"]["batch_size"]
    done = trial["folds"][0]["epoch"] if trial["folds"] else 0
    until = next(rung for rung in RUNGS if rung > done)
    top, slow = skill(trial["values"])
    history = trial["folds"][0]["history"] if trial["folds"] else []
    for epoch in range(done + 1, until + 1):
        accuracy = float(top + trial["_noise"] - (top - 0.3) * np.exp(-epoch / slow) + rng.normal(0, 0.0015))
        figures = {"accuracy": accuracy, "loss": float(-np.log(max(1e-3, accuracy)) * 1.3)}
        history = [
            *history,
            {"epoch": epoch, "epochs": EPOCHS, "train_loss": 0.1, "replica_losses": [0.1], "validation": figures},
        ]
    stopped = clock + seconds_each * (until - done)
    trial["attempts"] += 1
    trial["seconds"] += stopped - clock
    trial["jobs"].append({"fold": 0, "until": until, "where": where, "started": clock, "stopped": stopped})
    if trial["state"] == "failed":
        trial["folds"] = [{"trial": trial["number"], "fold": 0, "epoch": 0, "history": []}]
        return stopped
    best = (max if metric == "accuracy" else min)(history, key=lambda epoch: epoch["validation"][metric])
    trial["folds"] = [
        {"trial": trial["number"], "fold": 0, "epoch": until, "history": history, "values": best["validation"]}
    ]
    trial["value"] = best["validation"][metric]
    trial["rungs"][str(until)] = trial["value"] if metric == "accuracy" else -trial["value"]
    trial["state"] = "complete" if until == EPOCHS else "paused"
    return stopped


def _metrics(trial, metric):
    if trial["value"] is None:
        return {}
    width, layers = trial["values"].get("hidden.width", 0), trial["values"]["hidden.layers"]
    parameters = 768 * (width or 100) + max(0, layers - 1) * width * width + 100 * width
    return {metric: trial["value"], "parameters": float(parameters), "seconds_per_row": 1e-6 + 3e-11 * parameters}


def _document(trials, slots, seed, metric, objectives, rng):
    direction = "max" if metric == "accuracy" else "min"
    full = [trial for trial in trials if trial["value"] is not None]
    best = sorted(full, key=lambda trial: -trial["value"] if direction == "max" else trial["value"])[:3]
    candidates = [
        {
            "trial": trial["number"],
            "scores": {str(seed): trial["value"] - 0.004 + float(rng.normal(0, 0.002)) for seed in (1, 2, 3)},
        }
        for trial in best
    ]
    mean = sum(candidates[0]["scores"].values()) / 3 if candidates else None
    return {
        "metric": metric,
        "direction": direction,
        "epochs": EPOCHS,
        "rungs": list(RUNGS[:-1]),
        "space": SPACE,
        "objectives": objectives or {metric: direction},
        "trials": trials,
        "candidates": candidates,
        "chosen": candidates[0]["trial"] if candidates else None,
        "test": None if mean is None else mean - 0.006,
        "slots": slots,
        "sampler": "tpe",
        "seed": seed,
        "repeats": True,
    }
