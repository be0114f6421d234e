"""Checkpoints: a training that was stopped goes on to the same bits; what does not fit is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkwright.errors import InputError, NotFiniteError, WorkerError
from sparkwright.events import EpochEnded, Event, Warned
from sparkwright.training.arrays import fit_table
from sparkwright.training.checkpoints import Checkpoints, age, newest
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica
from sparkwright.training.result import TrainingResult

CONFIG = TrainingConfig(epochs=4, hidden=(4,), replicas=3, batch_size=8, refit=True, patience=None)


@pytest.fixture(scope="module")
def table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(120, 3))
    side = np.array(["train"] * 90 + ["validation"] * 30)
    return {"features": x, "label": np.where(x[:, 0] + rng.normal(size=120) > 0, "a", "b"), "split": side}


def digest(result: TrainingResult) -> str:
    return hashlib.sha256(b"".join(v.tobytes() for _, v in sorted(result.head.weights().items()))).hexdigest()


class Stop(Exception):  # noqa: N818
    """The power fails."""


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training stop after so many backward passes."""
    original, done = Replica.backward, [0]

    def backward(replica: Replica, number: int, count: int) -> None:
        done[0] += 1
        if done[0] == step:
            raise Stop
        original(replica, number, count)

    monkeypatch.setattr(Replica, "backward", backward)


def interrupted(table: dict[str, np.ndarray], config: TrainingConfig, run: Path, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(Stop):
            fit_table(table, config, split="split", run=str(run), checkpoint_s=0)


@pytest.mark.parametrize("step", [5, 20, 47, 55, 80, 107])
def test_a_training_goes_on_to_the_same_bits(table: dict[str, np.ndarray], tmp_path: Path, step: int) -> None:
    expected = fit_table(table, CONFIG, split="split")
    interrupted(table, CONFIG, tmp_path, step)
    result = fit_table(table, CONFIG, split="split", run=str(tmp_path))
    assert digest(result) == digest(expected)
    assert [event.validation for event in result.history] == [event.validation for event in expected.history]
    assert not (tmp_path / "checkpoints").exists()


def test_the_last_two_are_kept(table: dict[str, np.ndarray], tmp_path: Path) -> None:
    interrupted(table, CONFIG, tmp_path, 40)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert len(names) == 2
    assert newest(str(tmp_path / "checkpoints")) == names[-1]


def test_another_configuration_and_other_data_are_refused_with_the_differences(
    table: dict[str, np.ndarray], tmp_path: Path
) -> None:
    interrupted(table, CONFIG, tmp_path, 40)
    with pytest.raises(InputError, match=r"another configuration.*training\.seed: 0 → 1\."):
        fit_table(table, CONFIG.replace(seed=1), split="split", run=str(tmp_path))
    other = table | {"features": np.where(np.arange(120)[:, None] == 7, 1.5, table["features"])}
    with pytest.raises(InputError, match=r"now\): data\.train: '90 rows, hash \w+' → '90 rows, hash \w+'\. Choose"):
        fit_table(other, CONFIG, split="split", run=str(tmp_path))
    shuffled = np.random.default_rng(0).permutation(120)
    fit_table({name: column[shuffled] for name, column in table.items()}, CONFIG, split="split", run=str(tmp_path))


def test_a_damaged_one_is_given_up_for_the_one_before(table: dict[str, np.ndarray], tmp_path: Path) -> None:
    interrupted(table, CONFIG, tmp_path, 40)
    last = newest(str(tmp_path / "checkpoints"))
    (tmp_path / "checkpoints" / last / "replica-1.safetensors").write_bytes(b"half")
    with pytest.raises(WorkerError, match=r"The checkpoint .* is damaged and was given up: replica-1 of"):
        fit_table(table, CONFIG, split="split", run=str(tmp_path))
    assert age(newest(str(tmp_path / "checkpoints"))) < age(last)
    assert digest(fit_table(table, CONFIG, split="split", run=str(tmp_path))) == digest(
        fit_table(table, CONFIG, split="split")
    )


def test_other_versions_are_told_of(table: dict[str, np.ndarray], tmp_path: Path) -> None:
    interrupted(table, CONFIG, tmp_path, 40)
    for path in (tmp_path / "checkpoints").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        manifest["environment"]["torch"] = "1.0"
        path.write_text(json.dumps(manifest))
    events: list[Event] = []
    fit_table(table, CONFIG, split="split", run=str(tmp_path), emit=events.append)
    (message,) = [event.message for event in events if isinstance(event, Warned)]
    assert "may differ in its last bits" in message
    assert "torch: '1.0' →" in message


def test_names_tell_how_far_a_training_is() -> None:
    names = [
        *(None, "selection-00001-00000004", "selection-00001-r01-00000002", "selection-00002-r01-00000001"),
        *("selection-00010-r01-00000001", "refit-00001-00000001"),
    ]
    assert sorted(names, key=age) == names


def test_checkpoints_are_rare_where_writing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparkwright.training import checkpoints
    from sparkwright.training.transports.in_process import InProcess

    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    kept, transport = Checkpoints("nowhere", None, 10), InProcess(1)
    kept._cost_s = 3.0
    due = []
    for second in range(1, 300):
        now[0] = float(second)
        if kept.due(transport):
            due.append(second)
            kept._last = now[0]
    assert due == [100, 200]


DIVERGING = TrainingConfig(
    task="regression",
    optimizer="sgd",
    learning_rate=64.0,
    momentum=0.0,
    nesterov=False,
    schedule="constant",
    replicas=3,
    batch_size=8,
    epochs=3,
    on_not_finite="retry",
)


@pytest.fixture(scope="module")
def numbers(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return table | {"label": table["features"] @ [1.0, -2, 0.5]}


def test_a_loss_that_is_not_finite_stops_the_training_or_halves_the_rate(numbers: dict[str, np.ndarray]) -> None:
    with pytest.raises(NotFiniteError, match=r"became (nan|inf) in step \d+ of replica \d.*Lower `learningRate`"):
        fit_table(numbers, DIVERGING.replace(on_not_finite="stop"), split="split")
    events: list[Event] = []
    result = fit_table(numbers, DIVERGING, split="split", emit=events.append)
    assert all(np.isfinite(value).all() for value in result.head.weights().values())
    halved = [event.message for event in events if isinstance(event, Warned)]
    assert halved
    assert halved[0].startswith("Epoch 1 begins anew with half the rate.")
    assert [event.epoch for event in result.history] == [1, 2, 3]
    assert result.history[-1].learning_rate == 64.0 / 2 ** len(halved)
    assert [event for event in events if isinstance(event, EpochEnded)] == result.history


@pytest.mark.parametrize("settings", [{}, {"strategy": "outer", "compression": "int8", "hidden": [4]}])
@pytest.mark.parametrize("step", [11, 50, 130])
def test_a_halved_rate_survives_a_stop(
    numbers: dict[str, np.ndarray], tmp_path: Path, step: int, settings: dict[str, Any]
) -> None:
    config = DIVERGING.replace(**settings)
    interrupted(numbers, config, tmp_path, step)
    result = fit_table(numbers, config, split="split", run=str(tmp_path))
    assert digest(result) == digest(fit_table(numbers, config, split="split"))


def test_a_time_limit_ends_the_selection_and_keeps_its_best_epoch(table: dict[str, np.ndarray]) -> None:
    result = fit_table(table, CONFIG.replace(epochs=2000, validate_every=50, time_limit_s=0.3), split="split")
    assert 1 < len(result.history) < 2000
    assert result.history[-1].validation
    assert sum(event.seconds for event in result.history) < 0.6
