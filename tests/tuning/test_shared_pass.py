"""Heads that train together over one stream of batches end as those that train one by one."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from sparkwright.errors import InputError, NotFiniteError
from sparkwright.events import EpochEnded, Event
from sparkwright.networks.dropout import Dropout
from sparkwright.training.checkpoints import Checkpoints, Paused, newest
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import Outcome, train_rows
from sparkwright.training.rows.columns import Columns, LabelKind
from sparkwright.training.rows.encoding import Encoding
from sparkwright.training.rows.population import Population, examine
from sparkwright.training.rows.store import Rows, Store
from sparkwright.training.transports.in_process import InProcess
from sparkwright.tuning import batch_stream, head_passes, shared_pass
from sparkwright.tuning.batch_stream import Batch, BatchStream, Draws
from sparkwright.tuning.shared_pass import TOLERANCE, Ended, heads_at_once, structure_key, train_together

CONFIG = TrainingConfig(replicas=1, epochs=4, batch_size=16, learning_rate=0.01, patience=None, calibrate=False)

Population_ = tuple[Population, dict[int, Rows]]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


def made(config: TrainingConfig) -> Population_:
    """Return 160 rows, a third of which validates."""
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=160)
    x = ((rng.normal(size=(3, 6)) * 2)[y] + rng.normal(size=(160, 6))).astype(np.float32)
    label: Any = y
    if config.task == "regression":
        label = x @ np.arange(6.0)
    if config.task == "multilabel":
        label = [[name for name, has in zip("abc", row > 0, strict=True) if has] for row in x[:, :3]]
    side = np.where(rng.random(160) < 0.7, "train", "validation")
    columns, workers = Columns(("x",), "y", None, "split"), (0,) * config.replicas
    table = pa.table({"x": x.tolist(), "y": label, "split": side})
    store = Store(range(config.replicas), 1 << 40, Path("/nowhere"))
    for batch in Encoding(columns, config.task, config.seed, workers)(iter(table.to_batches())):
        store.add(batch)
    kind: LabelKind = "text" if config.task == "multilabel" else "int"
    return examine(store.census, config, columns, kind), store.finish(6)


def alone(config: TrainingConfig, data: Population_, checkpoints: Checkpoints | None = None) -> Outcome:
    return train_rows(config, *data, InProcess(config.replicas), checkpoints=checkpoints)


def trained(ends: Sequence[Ended]) -> list[Outcome]:
    outcomes = [end.outcome for end in ends if isinstance(end.outcome, Outcome)]
    assert len(outcomes) == len(ends), ends
    return outcomes


def assert_alike(together: Outcome, alone: Outcome) -> None:
    """Assert the tolerance that the module states."""
    assert len(together.history) == len(alone.history)
    for a, b in zip(together.history, alone.history, strict=True):
        assert (a.epoch, a.epochs, a.learning_rate, a.rows) == (b.epoch, b.epochs, b.learning_rate, b.rows)
        assert a.train_loss == pytest.approx(b.train_loss, rel=TOLERANCE, abs=TOLERANCE)
        assert a.validation == pytest.approx(b.validation, rel=TOLERANCE, abs=TOLERANCE)
        assert a.training == pytest.approx(b.training, rel=TOLERANCE, abs=TOLERANCE)
    for name, expected in alone.weights.items():
        assert np.abs(together.weights[name] - expected).max() <= TOLERANCE * max(1e-2, expected.std()), name


def assert_same_bits(a: Outcome, b: Outcome) -> None:
    assert [(e.train_loss, e.training, e.validation) for e in a.history] == [
        (e.train_loss, e.training, e.validation) for e in b.history
    ]
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in b.weights)


HEADS: list[dict[str, Any]] = [
    {},
    {"dropout": 0.0},
    {"dropout": 0.55, "learning_rate": 0.002},
    {"hidden": (5,)},
    {"hidden": (7, 4), "dropout": 0.0, "activation": "tanh"},
    {"hidden": (4, 4, 4), "activation": "gelu", "dropout": 0.2},
    {"hidden": (20,), "activation": "silu", "label_smoothing": 0.1, "epochs": 6},
    *({"optimizer": name} for name in ("sgd", "adam", "rmsprop", "adadelta", "adagrad", "lamb", "lars")),
    {"optimizer": "sgd", "momentum": 0.5, "nesterov": False, "clip_norm": 0.1},
    {"weight_decay": 0.0, "clip_value": 0.01},
    {"weight_average": "ema", "ema_decay": 0.9},
    {"weight_average": "swa", "swa_from": 0.4},
    {"schedule": "plateau", "plateau_patience": 1},
    {"schedule": "one_cycle", "warmup": 1.0, "validate_every": 2},
    {"loss": "focal"},
    {"loss": "ordinal"},
    {"monitor": "macro_f1", "patience": 1},
    {"sync_every": 1, "on_not_finite": "retry"},
    {"strategy": "all_reduce"},
    {"calibrate": True},
]


def test_heads_of_any_kind_end_as_one_by_one_and_whatever_others_there_are() -> None:
    configs, data = [CONFIG.replace(**head) for head in HEADS], made(CONFIG)
    together = trained(train_together(configs, *data))
    for config, outcome in zip(configs, together, strict=True):
        assert_alike(outcome, alone(config, data))
    for few in ([5], [2, 8, 3]):
        for number, outcome in zip(few, trained(train_together([configs[n] for n in few], *data)), strict=True):
            assert_same_bits(outcome, together[number])


SHARED: list[dict[str, Any]] = [
    {"replicas": 3, "sync_every": 2},
    {"class_weights": "balanced"},
    {"class_weights": {"0": 2.0}, "standardise": False},
    {"sampling": "balanced", "seed": 3},
    {"task": "regression"},
    {"task": "multilabel", "class_weights": "balanced"},
]


@pytest.mark.parametrize("settings", SHARED, ids=lambda s: "-".join(map(str, s.values())))
def test_heads_of_other_tasks_and_replicas_end_as_one_by_one(settings: dict[str, Any]) -> None:
    base = CONFIG.replace(**settings)
    configs, data = [base, base.replace(hidden=(5,), dropout=0.3), base.replace(learning_rate=0.003)], made(base)
    for config, outcome in zip(configs, trained(train_together(configs, *data)), strict=True):
        assert_alike(outcome, alone(config, data))


def test_heads_drop_what_each_would_alone() -> None:
    draws, layer, ones = Draws(99, common=[0.3]), Dropout(), torch.ones(10, 13)
    for layer.p in (0.3, 0.7, 0.3, 0.25):
        torch.default_generator.manual_seed(99)
        expected = [layer(ones), layer(ones[:, :5])]
        for noise, mask in zip(draws.noise(10, (13, 5), layer.p), expected, strict=True):
            assert torch.equal(noise, mask)
    assert draws.noise(10, (13, 5), 0.3) is draws.noise(10, (13, 5), 0.3)


def test_a_loss_that_is_not_finite_fails_its_trial_alone() -> None:
    data = made(CONFIG)
    wild = CONFIG.replace(optimizer="sgd", learning_rate=1e36, schedule="constant", clip_norm=None)
    first, broken, last = train_together([CONFIG, wild, CONFIG.replace(dropout=0.1)], *data)
    assert isinstance(broken.outcome, NotFiniteError)
    assert "learningRate" in str(broken.outcome)
    for end, config in ((first, CONFIG), (last, CONFIG.replace(dropout=0.1))):
        assert isinstance(end.outcome, Outcome)
        assert_alike(end.outcome, alone(config, data))


def test_a_trial_pauses_one_way_and_goes_on_the_other(tmp_path: Path) -> None:
    configs = [CONFIG, CONFIG.replace(hidden=(5,), weight_average="ema"), CONFIG.replace(epochs=6)]
    data = made(CONFIG)
    uris = [str(tmp_path / name) for name in "abc"]
    with pytest.raises(Paused):
        alone(configs[0], data, Checkpoints(uris[0], pause_after=2))
    kept = [Checkpoints(uri, newest(uri), pause_after=3) for uri in uris]
    ends = train_together(configs, *data, checkpoints=kept)
    for end in ends:
        assert isinstance(end.outcome, Paused)
        assert [event.epoch for event in end.outcome.history] == [1, 2, 3]
    with pytest.raises(Paused):
        alone(configs[2], data, Checkpoints(uris[2], newest(uris[2]), pause_after=4))
    kept = [Checkpoints(uri, newest(uri)) for uri in uris[1:]]
    rest = trained(train_together(configs[1:], *data, checkpoints=kept))
    finished = [alone(configs[0], data, Checkpoints(uris[0], newest(uris[0]))), *rest]
    for config, outcome in zip(configs, finished, strict=True):
        assert_alike(outcome, alone(config, data))


def test_trials_that_pause_together_go_on_together_to_the_same_bits(tmp_path: Path) -> None:
    configs, data = [CONFIG.replace(**head) for head in HEADS[:5]], made(CONFIG)
    uris = [str(tmp_path / str(number)) for number in range(5)]
    train_together(configs, *data, checkpoints=[Checkpoints(uri, pause_after=2) for uri in uris])
    ends = trained(train_together(configs, *data, checkpoints=[Checkpoints(uri, newest(uri)) for uri in uris]))
    for a, b in zip(ends, trained(train_together(configs, *data)), strict=True):
        assert_same_bits(a, b)


def test_batches_that_do_not_fit_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    configs, data = [CONFIG, CONFIG.replace(dropout=0.1)], made(CONFIG)
    expected = trained(train_together(configs, *data))
    monkeypatch.setattr(batch_stream, "_STREAM_BYTES", 0)
    monkeypatch.setattr(batch_stream, "_VALIDATION_BYTES", 0)
    for a, b in zip(trained(train_together(configs, *data)), expected, strict=True):
        assert_same_bits(a, b)


def test_what_waits_counts_with_all_that_heads_draw_for_it() -> None:
    heads = [(0.3, (8, 4)), (0.3, (8, 4)), (0.3, (30,)), (0.5, (20,)), (0.0, (99,))]
    stream, x = BatchStream(heads), torch.ones(10, 3)
    batch = stream.batch((1, 0, 0), lambda: Batch(x, x, x, stream.draws(7)))
    masks = {id(mask): mask for p, widths in heads if p for mask in batch.draws.noise(10, widths, p)}
    common = [mask.nbytes for mask in masks.values() if mask.shape[1] != 20]
    assert stream._bytes["batches"] == x.nbytes + 2 * 10 * 30 + sum(common)
    stream.passed((1, 1))
    assert stream._bytes["batches"] == 0


def test_heads_that_pause_leave_no_memory_behind(tmp_path: Path) -> None:
    data, kept = made(CONFIG), [Checkpoints(str(tmp_path / name), pause_after=2) for name in "ab"]
    gc.collect()
    gc.disable()  # tensors are large, and it counts objects
    try:
        assert all(isinstance(end.outcome, Paused) for end in train_together([CONFIG] * 2, *data, checkpoints=kept))
        assert not [thing for thing in gc.get_objects() if type(thing) is shared_pass._Member]
    finally:
        gc.enable()


def test_products_are_torchs_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> torch.Tensor:
        raise RuntimeError("mkldnn::_linear_pointwise() is missing value for argument 'scalars'")

    rng = torch.Generator().manual_seed(1)
    a, b, bias = (torch.rand(*shape, generator=rng) for shape in ((5, 3), (4, 3), (4,)))
    expected = torch.nn.functional.linear(a, b, bias)
    torch.testing.assert_close(head_passes._product(a, b, bias), expected)
    monkeypatch.setattr(head_passes, "_of_onednn", refuse)
    monkeypatch.setattr(head_passes, "_has_onednn", head_passes._has_onednn.__wrapped__)
    assert torch.equal(head_passes._product(a, b, bias), expected)


def test_each_trial_tells_of_its_own_epochs_and_time() -> None:
    told: list[list[Event]] = [[], []]
    configs, data = [CONFIG, CONFIG.replace(epochs=2)], made(CONFIG)
    ends = train_together(configs, *data, emits=[told[0].append, told[1].append])
    for end, config, events in zip(ends, configs, told, strict=True):
        epochs = [event for event in events if isinstance(event, EpochEnded)]
        assert [event.epochs for event in epochs] == [config.epochs] * config.epochs
        assert 0 < sum(event.seconds for event in epochs) <= end.seconds


def test_what_must_agree_is_in_the_key() -> None:
    key = structure_key(CONFIG)
    assert key is not None
    assert all(structure_key(CONFIG.replace(**head)) == key for head in HEADS)
    for settings in (*SHARED, {"batch_size": 8}):
        assert structure_key(CONFIG.replace(**settings)) not in (None, key)
    apart: list[dict[str, Any]] = [{"accumulate": 2}, {"refit": True}, {"unfreeze": {1: "all"}}, {"sync_every": "auto"}]
    for settings in apart:
        assert structure_key(CONFIG.replace(**settings)) is None
        assert heads_at_once(CONFIG.replace(**settings), 1000) == 1
    assert heads_at_once(CONFIG, 768 * 100) > heads_at_once(CONFIG, 10_000_000) == 1


def test_heads_that_cannot_share_are_refused_and_none_are_nothing() -> None:
    data = made(CONFIG)
    with pytest.raises(InputError, match="must agree in task, replicas, batch_size, seed"):
        train_together([CONFIG, CONFIG.replace(batch_size=8)], *data)
    with pytest.raises(InputError, match="without accumulate, unfreeze and refit"):
        train_together([CONFIG.replace(refit=True)], *data)
    assert train_together([], *data) == []
