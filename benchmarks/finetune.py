"""How fast, and how good, is the training of a whole network on photos, beside a loop of plain torch?

    python benchmarks/finetune.py PHOTOS WEIGHTS [--runs 3] [--seeds 2]
    python benchmarks/finetune.py PHOTOS WEIGHTS --first 20 --augmentation photos --runs 0 --quality head ours

PHOTOS holds train/CLASS/… and test/CLASS/… (UC Merced, 80 and 20 photos a class), or with ``--first`` CLASS/…, of which
so many photos train and the others test (Caltech-101's subset, 20 and 11); WEIGHTS is MobileNet v1 0.75
(``.safetensors``). First a head is trained on the network's features; all that follows starts from it and trains all
layers with `RECIPE`; rates and epochs were looked at on validation rows (a fifth of UC Merced's training photos) alone.

Speed, in photos a second of the second epoch over a part of the training photos, augmentation included, each in a
fresh process: `plain`, a loop of plain torch on one thread; `plain_channels_last`, the same with the channels of a
pixel side by side in memory; `in_process`, ours without Spark, one replica on one thread; `gang`, ours on Spark,
``local[2]``: two workers, a replica and a thread each.

Quality: accuracy on the test photos, with 95 % interval, of the head alone, of ours with two replicas (in one process,
which gives the bits of the gang) and of the plain loop, each trained on all training photos.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 5e-5,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warmup": 1.0,
    "label_smoothing": 0.1,
    "batch_size": 16,
    "epochs": 10,
    "batch_norm": "frozen",
    "weight_average": "ema",
    "ema_decay": 0.98,
}
OURS: dict[str, Any] = {"replicas": 2, "sync_every": 8, "channels_last": True, "calibrate": False, "patience": None}
NETWORK = "mobilenet_v1_0.75"
PART = 420  # photos of an epoch in which speed is measured
QUALITY = ("head", "ours", "plain")
SPEED = ("plain", "plain_channels_last", "in_process", "gang")
LIMIT_S = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--runs", type=int, default=3, help="of the measurement of speed")
    parser.add_argument("--seeds", type=int, default=1, help="of the trainings whose accuracy is measured; 0: none")
    parser.add_argument("--quality", nargs="*", default=QUALITY, choices=QUALITY)
    parser.add_argument("--first", type=int, default=0, help="photos of each class that train, where no folders say it")
    parser.add_argument("--augmentation", default="aerial")
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"], help="fewer, to try the script")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "finetune.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--part", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(ONE[given.one](given)))
        return
    from sparkwright.models import library_versions

    report: dict[str, Any] = {
        "command": " ".join(["python benchmarks/finetune.py PHOTOS WEIGHTS", *sys.argv[3:]]),
        "recipe": RECIPE
        | {"epochs": given.epochs, "augmentation": given.augmentation, "network": NETWORK, "ours": OURS},
        "versions": library_versions(),
        "hardware": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "speed": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        given.scratch = Path(scratch)
        run("prepare", given)
        for _ in range(given.runs):
            report["speed"].append({mode: run(mode, given, part=PART, epochs=2) for mode in SPEED})
            report["ratios"] = ratios(report["speed"])
            write(given.out, report)
        if given.seeds:
            report["quality"] = quality(given)
            write(given.out, report)
    print(json.dumps({name: report.get(name) for name in ("ratios", "quality")}, indent=2))


def quality(given: argparse.Namespace) -> dict[str, Any]:
    """Return accuracies on the test photos: of the head alone, and of each seed's trainings."""
    found: dict[str, Any] = {"head": run("head", given)} if "head" in given.quality else {}
    for kind in [kind for kind in ("ours", "plain") if kind in given.quality]:
        mode = {"ours": "two_replicas", "plain": "plain_channels_last"}[kind]
        with ThreadPoolExecutor(2) as pool:  # on a thread each
            found[kind] = list(pool.map(partial(run, mode, given), range(given.seeds)))
        found[f"mean of {kind}"] = round(statistics.mean(each["accuracy"] for each in found[kind]), 4)
    return found


def ratios(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians of ratios within a run, because a machine's speed drifts."""
    found = {}
    for name, mode, times, base in (
        ("gang over 2 x plain", "gang", 2, "plain"),
        ("gang over 2 x plain_channels_last", "gang", 2, "plain_channels_last"),
        ("in_process over plain_channels_last", "in_process", 1, "plain_channels_last"),
    ):
        values = [round(one[mode]["photos_per_s"] / (times * one[base]["photos_per_s"]), 3) for one in runs]
        found[name] = {"median": statistics.median(values), "all": values}
    return found


def run(mode: str, given: argparse.Namespace, seed: int = 0, part: int = 0, epochs: int = 0) -> dict[str, Any]:
    """Measure one mode in a fresh process."""
    command = [sys.executable, __file__, str(given.photos), str(given.weights), "--one", mode, "--seed", str(seed)]
    command += ["--first", str(given.first), "--augmentation", given.augmentation]
    command += ["--part", str(part), "--epochs", str(epochs or given.epochs), "--scratch", str(given.scratch)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S).stdout
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    print(mode, json.dumps(result), flush=True)
    return result


def write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


# Rows, and the head that all start from.


def listed(given: argparse.Namespace, side: str) -> list[tuple[str, str]]:
    """Return path and class of each photo of a side; of a part, evenly over the classes."""
    folder, chosen = given.photos / side, slice(None)
    if given.first:
        folder, chosen = given.photos, slice(given.first) if side == "train" else slice(given.first, None)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    photos = [(str(path), label.name) for label in classes for path in sorted(label.iterdir())[chosen]]
    return photos[:: max(1, len(photos) // given.part)][: given.part] if given.part else photos


def prepare(given: argparse.Namespace) -> dict[str, Any]:
    """Train the head on features, and keep the model."""
    from sparkwright.models import Model
    from sparkwright.networks.catalogue import load_network
    from sparkwright.training.arrays import fit_arrays
    from sparkwright.training.config import TrainingConfig

    network = load_network(NETWORK, str(given.weights.resolve()))
    preprocessing = network.preprocessing
    if given.augmentation == "aerial":  # tiles are seen whole: their borders say as much as their centres
        preprocessing = dataclasses.replace(preprocessing, short_side=None)
    preprocessing = dataclasses.replace(preprocessing, augmentation=given.augmentation)
    body = network.with_preprocessing(preprocessing).cut(network.feature_layer or "")
    rows = listed(given, "train")
    x = np.concatenate([body.forward(read(body, rows[i : i + 32])) for i in range(0, len(rows), 32)])
    trained = fit_arrays(x.reshape(len(x), -1), [label for _, label in rows], TrainingConfig(patience=None))
    model = Model(body, trained.head, "classification", trained.classes)
    model.save(str(given.scratch / "model"))
    return {"photos": len(rows), "classes": len(trained.classes)}


def read(network: Any, rows: list[tuple[str, str]]) -> Any:
    return np.stack([network.preprocessing.apply(path) for path, _ in rows])


def accuracy(model: Any, given: argparse.Namespace) -> dict[str, Any]:
    """Return the accuracy on the test photos, with Wilson's interval."""
    rows = listed(given, "test")
    right = 0
    for start in range(0, len(rows), 32):
        some = rows[start : start + 32]
        best = model.full.forward(read(model.full, some)).argmax(1)
        right += sum(model.classes[place] == label for place, (_, label) in zip(best, some, strict=True))
    n, p, z = len(rows), right / len(rows), 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    interval = [round((middle + sign * half) / (1 + z * z / n), 4) for sign in (-1, 1)]
    return {"accuracy": round(p, 4), "interval": interval, "photos": n}


def head(given: argparse.Namespace) -> dict[str, Any]:
    from sparkwright.models import Model

    return accuracy(Model.load(str(given.scratch / "model")), given)


# The plain loop.


def plain(given: argparse.Namespace, channels_last: bool) -> dict[str, Any]:
    """Train as a careful script would: decoded photos in memory, augmented by the same code."""
    import torch
    from torch import nn
    from torch.nn import functional as F  # noqa: N812  its usual name

    from sparkwright.models import Model

    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    model = Model.load(str(given.scratch / "model"))
    rows = listed(given, "train")
    preprocessing = model.full.preprocessing
    assert preprocessing is not None
    assert preprocessing.augmentation is not None
    pixels = [preprocessing.crop(path) for path, _ in rows]
    targets = torch.tensor([model.classes.index(label) for _, label in rows])
    layers = model.full.to_module()
    if channels_last:
        layers = layers.to(memory_format=torch.channels_last)
    decayed = [p for p in layers.parameters() if p.dim() > 1]
    others = [p for p in layers.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": RECIPE["weight_decay"]}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RECIPE["learning_rate"])
    steps = math.ceil(len(rows) / RECIPE["batch_size"])
    means = [parameter.detach().clone() for parameter in layers.parameters()]
    rng, done, seconds = np.random.default_rng(given.seed), 0, 0.0
    for _ in range(given.epochs):
        started = time.perf_counter()
        layers.train()
        for layer in layers.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        for batch in np.array_split(rng.permutation(len(rows)), steps):
            rise = min(1.0, done / (RECIPE["warmup"] * steps))
            fall = (1 + math.cos(math.pi * done / (given.epochs * steps))) / 2
            for group in optimizer.param_groups:
                group["lr"] = RECIPE["learning_rate"] * rise * fall
            x = np.empty((len(batch), *preprocessing.shape), np.float32)
            for row, out in zip(batch, x, strict=True):
                preprocessing.normalise(preprocessing.augmentation.apply(pixels[row], rng), out)
            inputs = torch.from_numpy(x)
            inputs = inputs.to(memory_format=torch.channels_last) if channels_last else inputs
            loss = F.cross_entropy(layers(inputs), targets[batch], label_smoothing=RECIPE["label_smoothing"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            left = 1 - min(RECIPE["ema_decay"], (1 + done) / (10 + done))
            with torch.no_grad():
                torch._foreach_lerp_(means, list(layers.parameters()), left)
        seconds = time.perf_counter() - started
    found = {"photos_per_s": round(len(rows) / seconds, 2)}
    if given.part:
        return found
    with torch.no_grad():
        for parameter, mean in zip(layers.parameters(), means, strict=True):
            parameter.copy_(mean)
    trained = model.replace(network=model.full.with_weights(layers.state_dict()), head=None)
    return {**found, **accuracy(trained, given)}


# Ours.


def config(given: argparse.Namespace, **changes: Any) -> Any:
    from sparkwright.training.config import TrainingConfig

    return TrainingConfig(**{**RECIPE, **OURS, "epochs": given.epochs, "seed": given.seed, **changes})


def in_process(given: argparse.Namespace, replicas: int) -> dict[str, Any]:
    from sparkwright.models import Model
    from sparkwright.training.arrays import fit_table
    from sparkwright.training.subject import WholeNetwork

    paths, labels = zip(*listed(given, "train"), strict=True)
    model = Model.load(str(given.scratch / "model"))
    table = {"path": list(paths), "label": list(labels)}
    subject = WholeNetwork.of(model, train_from="all")
    result = fit_table(table, config(given, replicas=replicas), features="path", subject=subject)
    found = {"photos_per_s": of_last_epoch(result)}
    if given.part:
        return found
    trained = model.replace(network=result.network, head=result.head, classes=result.classes)
    return {**found, **accuracy(trained, given)}


def gang(given: argparse.Namespace) -> dict[str, Any]:
    from sparkwright.models import Model
    from sparkwright.session import start
    from sparkwright.training.cluster.fit import train
    from sparkwright.training.subject import WholeNetwork

    model = Model.load(str(given.scratch / "model"))
    spark = start("local[2]")
    rows = spark.createDataFrame(listed(given, "train"), "path string, label string").repartition(2)
    started = time.perf_counter()
    result = train(rows, config(given), features="path", subject=WholeNetwork.of(model, train_from="all"))
    seconds = round(time.perf_counter() - started, 1)
    spark.stop()
    return {"photos_per_s": of_last_epoch(result), "wall_s": seconds}


def of_last_epoch(result: Any) -> float:
    last = result.history[-1]
    return round(float(last.rows / last.seconds), 2)


ONE: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "prepare": prepare,
    "head": head,
    "plain": lambda given: plain(given, channels_last=False),
    "plain_channels_last": lambda given: plain(given, channels_last=True),
    "in_process": lambda given: in_process(given, replicas=1),
    "two_replicas": lambda given: in_process(given, replicas=2),
    "gang": gang,
}


if __name__ == "__main__":
    main()
