"""Runs to report on, made up, of any number of classes."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sparkwright.evaluation.metrics import ClassificationState, RegressionState
from sparkwright.evaluation.report import RunRecord, Thumbnail, make_thumbnail
from sparkwright.events import EpochEnded, RunEnded, RunStarted, StageEnded, Stamped, TaskTimed, Warned

WORDS = ["airplane", "beaver", "canoe", "dolphin", "ewer", "flamingo", "gramophone", "harbour", "iguana", "joshua_tree"]


def class_names(count):
    if count <= 3:
        return ["benign", "malignant", "unclear"][:count]
    return [WORDS[i % len(WORDS)] + (f"_{i // len(WORDS)}" if i >= len(WORDS) else "") for i in range(count)]


def made_up_side(count, rows, seed, lift=3.5):
    """An `Evaluation.to_dict()` of a classifier that is right more often than not, and mixes up neighbours."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, count, rows)
    logits = rng.normal(size=(rows, count))
    logits[np.arange(rows), labels] += rng.normal(lift + np.log(count) / 2, 1.5, rows)
    logits[np.arange(rows), (labels + 1) % count] += rng.normal(0.8 * (labels % 3), 0.8, rows)
    odds = np.exp(1.3 * logits)
    state = ClassificationState(count)
    state.update((odds / odds.sum(1, keepdims=True)).astype(np.float32), labels)
    names = class_names(count)
    counts = {
        "rows": rows + 2,
        "evaluated": rows,
        "errors": 2,
        "error_kinds": {"unreadable": 2},
        "unlabelled": 0,
        "unknown_labels": {"rows": 0, "examples": []},
    }
    return {"task": "classification", **counts, "classes": names, **state.result(names)}


def made_up_photo(seed):
    rng = np.random.default_rng(seed)
    photo = Image.new("RGB", (300, 200 + 20 * (seed % 5)), tuple(int(x) for x in rng.integers(60, 220, 3)))
    draw = ImageDraw.Draw(photo)
    for _ in range(12):
        x, y, r = rng.integers(0, 300), rng.integers(0, 200), rng.integers(10, 60)
        draw.ellipse([x - r, y - r, x + r, y + r], tuple(int(v) for v in rng.integers(0, 255, 3)))
    out = io.BytesIO()
    photo.save(out, "JPEG")
    return out.getvalue()


def made_up_events(epochs=40, replicas=4):
    rng = np.random.default_rng(1)
    spent = {"read": 0.4, "decode": 4.1, "resize": 1.3, "forward": 17.2, "write": 0.2}
    events = [RunStarted("transfer"), TaskTimed("features", "0", 10, {"read": 99.0})]  # task 0 ran twice
    events += [TaskTimed("features", task, 1550, spent) for task in "01"]
    events.append(StageEnded("features", 48.2, 3100, 2))
    for epoch in range(1, epochs + 1):
        loss = 3.2 * np.exp(-epoch / 7) + 0.08
        losses = [float(x) for x in loss * rng.normal(1, 0.07, replicas)]
        validation = {
            "loss": float(2.9 * np.exp(-epoch / 8) + 0.34 + 0.002 * max(0, epoch - 26) + rng.normal(0, 0.008)),
            "accuracy": float(0.91 - 0.6 * np.exp(-epoch / 6) + rng.normal(0, 0.004)),
        }
        mean = float(np.mean(losses))
        events.append(
            EpochEnded(epoch, epochs, mean, losses, validation, 0.01, 2000, 0.21, 0.08, best=epoch in (5, 12, 26))
        )
    for epoch in range(1, 27):
        events.append(EpochEnded(epoch, 26, float(3.1 * np.exp(-epoch / 7) + 0.09), [0.1] * replicas, rows=2500))
    events.append(StageEnded("training", 9.4, 2000))
    events.append(Warned("Class `laptop` has one photo: it is in the training rows, and nothing tests it."))
    return [Stamped(event, "2026-01-01T00:00:00.000+00:00", float(i)) for i, event in enumerate(events)]


def made_up_record(count, rows=1100, photos=12):
    names = class_names(count)
    rng = np.random.default_rng(2)
    sides = {"train": 16, "validation": 4, "test": 11}
    data = {
        "rows": {side: {name: int(n + rng.integers(0, 3)) for name in names} for side, n in sides.items()},
        "errors": {
            "count": 2,
            "kinds": {"unreadable": 1, "too large": 1},
            "examples": [
                {"path": "photos/a b/<x>.jpg", "kind": "unreadable", "message": "image file is truncated"},
                {"path": "photos/big.png", "kind": "too large", "message": "30,000 by 30,000 pixels"},
            ],
        },
        "duplicates": {"count": 3, "across_sides": 1, "examples": [["photos/a/1.jpg", "photos/b/9.jpg"]]},
        "unmatched": {"count": 1, "examples": ["photos/readme/stray.jpg"]},
        "ignored": 4,
    }
    return RunRecord(
        title=f"Photos of {count} classes",
        config={
            "images": "hdfs://cluster/photos",
            "network": "mobilenet_v1_0.75_224",
            "split": [0.6, 0.2, 0.2],
            "training": {"replicas": 4, "sync_every": 1, "learning_rate": 0.01, "hidden": [], "class_weights": None},
        },
        metrics={
            "test": made_up_side(count, rows, 3),
            "validation": made_up_side(count, rows // 2, 4),
            "seconds": {"split": 1.9, "features": 48.2, "training": 9.4, "evaluation": 2.3},
            "data": data,
        },
        events=made_up_events(),
        versions={"sparkwright": "0.1.0", "torch": "2.9.0", "pyspark": "4.3.0", "python": "3.11.2"},
        command="sparkwright transfer hdfs://cluster/photos --network mobilenet_v1_0.75_224 --out run",
        thumbnails=[
            Thumbnail(
                f"file:///photos/{names[i % count]}/image%20{i:04d}.jpg",
                names[i % count],
                names[(i + 1) % count],
                0.999 - 0.011 * i,
                make_thumbnail(made_up_photo(i)),
            )
            for i in range(photos)
        ],
        created="2026-01-01 12:00 UTC",
    )


def made_up_regression():
    rng = np.random.default_rng(0)
    labels = rng.normal(50, 10, 500)
    state = RegressionState()
    state.update(labels + rng.normal(0, 3, 500), labels)
    counts = {"rows": 500, "evaluated": 500, "errors": 0, "error_kinds": {}, "unlabelled": 0}
    side = {"task": "regression", **counts, "unknown_labels": {"rows": 0, "examples": []}, **state.result()}
    return RunRecord(title="Ages", metrics={"test": side})


@pytest.fixture(scope="session")
def record_of():
    """Make a run of a number of classes."""
    return made_up_record


@pytest.fixture
def failed_record():
    ended = RunEnded(ok=False, message="ErrorRateError: 60 % of the rows <failed>")
    return RunRecord(title="Broken", events=[Stamped(ended, "", 0.0)])


@pytest.fixture
def regression_record():
    return made_up_regression()
