"""A training that pauses after epochs and goes on ends with the bits of one that never paused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.training.checkpoints import Checkpoints, Paused, newest
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import Outcome, train_rows
from sparkwright.training.rows.columns import Columns
from sparkwright.training.rows.encoding import Encoding
from sparkwright.training.rows.population import examine
from sparkwright.training.rows.store import Store
from sparkwright.training.transports.in_process import InProcess

CONFIG = TrainingConfig(
    replicas=3, hidden=(5,), dropout=0.2, sync_every=3, epochs=6, batch_size=16, learning_rate=0.01, patience=None
)
COLUMNS = Columns("x", "y", None, "split")


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


def train(config: TrainingConfig, checkpoints: Checkpoints | None = None) -> Outcome:
    """Train on rows that are the same each time, in this process."""
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=160)
    x = ((rng.normal(size=(3, 6)) * 2)[y] + rng.normal(size=(160, 6))).astype(np.float32)
    label = x @ np.arange(6.0) if config.task == "regression" else y
    side = np.where(rng.random(160) < 0.7, "train", "validation")
    table = pa.table({"x": x.tolist(), "y": label, "split": side})
    store = Store(range(config.replicas), 1 << 40, Path("/nowhere"))
    for batch in Encoding(COLUMNS, config.task, config.seed, (0,) * config.replicas)(iter(table.to_batches())):
        store.add(batch)
    population = examine(store.census, config, COLUMNS, "int")
    return train_rows(config, population, store.finish(6), InProcess(config.replicas), checkpoints=checkpoints)


def paused_and_resumed(config: TrainingConfig, folder: Path, pauses: Iterable[int]) -> Outcome:
    """Train as if each part were in a process of its own."""
    uri = str(folder)
    for epoch in pauses:
        with pytest.raises(Paused) as caught:
            train(config, Checkpoints(uri, newest(uri), pause_after=epoch))
        assert [event.epoch for event in caught.value.history] == list(range(1, epoch + 1))
        best = [event.epoch for event in caught.value.history if event.best]
        assert caught.value.best_epoch == (best[-1] if best else 0)
    return train(config, Checkpoints(uri, newest(uri)))


def assert_same(a: Outcome, b: Outcome) -> None:
    assert [(e.train_loss, e.replica_losses, e.training, e.validation, e.learning_rate, e.best) for e in a.history] == [
        (e.train_loss, e.replica_losses, e.training, e.validation, e.learning_rate, e.best) for e in b.history
    ]
    assert (a.temperature, a.best_epoch) == (b.temperature, b.best_epoch)
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in b.weights)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"refit": True},
    {"replicas": 1},
    *({"optimizer": name} for name in ("sgd", "adam", "rmsprop", "adadelta", "adagrad", "lamb", "lars")),
    {"strategy": "all_reduce"},
    {"strategy": "outer"},
    {"strategy": "outer", "pull": 0.3, "outer_momentum": 0.0},
    {"strategy": "outer", "compression": "int8", "pull": 0.5},
    {"compression": "topk"},
    {"weight_average": "ema"},
    {"weight_average": "swa", "swa_from": 0.4},
    {"schedule": "plateau", "plateau_patience": 1, "learning_rate": 0.2},
    {"schedule": "one_cycle", "warmup": 1.0},
    {"validate_every": 2},
    {"unfreeze": {1: "output", 3: "all"}},
    {"sampling": "balanced"},
    {"class_weights": "balanced"},
    {"on_not_finite": "retry"},
    {"accumulate": 2, "clip_norm": 0.5, "label_smoothing": 0.1},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())) or "defaults")
def test_paused_and_resumed_is_never_paused(settings: dict[str, Any], tmp_path: Path) -> None:
    config = CONFIG.replace(**settings)
    assert_same(paused_and_resumed(config, tmp_path, (1, 2, 4)), train(config))


def test_pauses_after_every_epoch_change_nothing(tmp_path: Path) -> None:
    assert_same(paused_and_resumed(CONFIG, tmp_path, range(1, 6)), train(CONFIG))


DIVERGING = CONFIG.replace(
    **{"task": "regression", "optimizer": "sgd", "learning_rate": 64.0, "momentum": 0.0, "nesterov": False},
    **{"schedule": "constant", "on_not_finite": "retry", "hidden": ()},
)


def test_a_halved_rate_stays_halved_over_a_pause(tmp_path: Path) -> None:
    result = paused_and_resumed(DIVERGING, tmp_path, (1, 3))
    assert result.history[-1].learning_rate < 64.0
    assert_same(result, train(DIVERGING))


def test_an_epoch_after_a_pause_that_diverges_begins_anew_from_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparkwright.training import loop

    original = loop.rate_at

    def leaping(config: TrainingConfig, epoch: float, steps: int, drops: int = 0) -> float:
        return original(config, epoch, steps, drops) * (1000 if epoch >= 2 else 1)

    monkeypatch.setattr(loop, "rate_at", leaping)
    config = DIVERGING.replace(learning_rate=0.05, epochs=3)
    result = paused_and_resumed(config, tmp_path, (2,))
    assert_same(result, train(config))
    assert result.history[1].learning_rate == 0.05
    assert result.history[2].learning_rate < 50


def test_patience_and_the_last_epoch_end_a_training_before_its_pause(tmp_path: Path) -> None:
    impatient = CONFIG.replace(patience=1, learning_rate=1.0, epochs=30)
    expected = train(impatient)
    assert len(expected.history) < 30
    for folder, epoch in (("patience", len(expected.history)), ("beyond", 40)):
        outcome = train(impatient, Checkpoints(str(tmp_path / folder), None, pause_after=epoch))
        assert_same(outcome, expected)
        assert newest(str(tmp_path / folder)) is None
    assert_same(train(CONFIG, Checkpoints(str(tmp_path / "last"), None, pause_after=6)), train(CONFIG))


def test_a_pause_that_is_asked_for_again_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path)
    with pytest.raises(Paused):
        train(CONFIG, Checkpoints(uri, None, pause_after=2))
    there = newest(uri)
    assert there == "selection-00003-00000000"
    with monkeypatch.context() as patch:
        patch.setattr("sparkwright.training.replica.replica.Replica.backward", None)
        with pytest.raises(Paused) as caught:
            train(CONFIG, Checkpoints(uri, there, pause_after=2))
    assert [event.epoch for event in caught.value.history] == [1, 2]
    assert newest(uri) == there


def test_a_worker_that_dies_between_pauses_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path)
    with pytest.raises(Paused):
        train(CONFIG, Checkpoints(uri, None, pause_after=2))
    from sparkwright.training.replica.replica import Replica

    original, done = Replica.backward, [0]

    def dying(replica: Replica, number: int, step: int) -> None:
        done[0] += 1
        if done[0] == 10:
            raise RuntimeError("the power fails")
        original(replica, number, step)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "backward", dying)
        with pytest.raises(RuntimeError, match="the power fails"):
            train(CONFIG, Checkpoints(uri, newest(uri), 0, pause_after=5))
    assert newest(uri) > "selection-00003-00000000"
    with pytest.raises(Paused):
        train(CONFIG, Checkpoints(uri, newest(uri), pause_after=5))
    assert_same(train(CONFIG, Checkpoints(uri, newest(uri))), train(CONFIG))
