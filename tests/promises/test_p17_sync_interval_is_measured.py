"""P17: the sync interval can be measured instead of guessed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from torch import Tensor

from sparkwright.errors import InputError
from sparkwright.events import Event, SyncIntervalChosen
from sparkwright.training import arrays
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.checkpoints import Checkpoints, Snapshot
from sparkwright.training.cluster.fit import train
from sparkwright.training.compression import PLAIN, Codec
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import train_rows
from sparkwright.training.result import TrainingResult
from sparkwright.training.strategies import make_strategy
from sparkwright.training.sync_interval import SyncCost
from sparkwright.training.transports._base import Transport
from sparkwright.training.transports.in_process import InProcess


class Simulated(InProcess):
    """All replicas in this process, on a clock that knows only steps and syncs."""

    def __init__(self, replicas: int, step_s: float, sync_s: float) -> None:
        super().__init__(replicas)
        self._step_s, self._sync_s, self._now = step_s, sync_s, 0.0

    def clock(self) -> float:
        return self._now

    def sum_of(
        self, local: Callable[[], Sequence[Tensor]], codec: Codec = PLAIN, replicas: Sequence[Any] = ()
    ) -> Tensor:
        if not replicas:  # counts and metrics are summed
            return self.tree_sum(local(), codec)
        with mock.patch.object(replicas[0], "backward", wraps=replicas[0].backward) as backward:
            total = self.tree_sum(local(), codec)
        self._now += self._step_s * backward.call_count + self._sync_s
        self.seconds += self._sync_s
        return total


CONFIG = TrainingConfig(sync_every="auto", epochs=3, batch_size=4, hidden=(6,), patience=None)


def fit(
    config: TrainingConfig,
    patch: pytest.MonkeyPatch,
    step_s: float = 0.001,
    sync_s: float = 0.001,
    checkpoints: Checkpoints | None = None,
) -> tuple[TrainingResult, list[SyncIntervalChosen]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5)).astype(np.float32)
    seen: list[Event] = []
    patch.setattr(arrays, "InProcess", lambda replicas: Simulated(replicas, step_s, sync_s))
    patch.setattr(arrays, "train_rows", lambda *given: train_rows(*given[:5], checkpoints, *given[6:]))
    validation = (x[300:], x[300:, 0] > 0)
    result = fit_arrays(x[:300], x[:300, 0] > 0, config, validation=validation, emit=seen.append)
    return result, [event for event in seen if isinstance(event, SyncIntervalChosen)]


def same(result: TrainingResult, other: TrainingResult) -> bool:
    pairs = zip(result.head.weights().items(), other.head.weights().items(), strict=True)
    return all(name == other_name and np.array_equal(a, b) for (name, a), (other_name, b) in pairs)


@pytest.mark.parametrize(
    ("sync_s", "share", "every"), [(0.001, 0.05, 19), (0.001, 0.2, 4), (0.0, 0.05, 1), (9.0, 0.5, 9000)]
)
def test_the_interval_is_the_shortest_whose_syncs_keep_to_their_share(sync_s: float, share: float, every: int) -> None:
    cost = SyncCost(step_s=0.001, sync_s=sync_s)
    assert cost.interval(share) == every
    assert cost.share(every) <= share + 1e-9
    assert every == 1 or cost.share(every - 1) > share


def test_syncs_take_the_share_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    result, (chosen,) = fit(CONFIG.replace(sync_share=0.2, batch_size=1, epochs=1), monkeypatch)
    assert (chosen.every, chosen.wanted) == (4, 0.2)
    assert chosen.step_s == pytest.approx(0.001)
    assert chosen.sync_s == pytest.approx(0.001)
    assert chosen.share == pytest.approx(0.2)
    assert result.history[0].sync_share == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("settings", [{}, {"strategy": "outer", "compression": "topk"}, {"refit": True}])
def test_a_measured_interval_gives_the_bits_of_the_same_interval_asked_for(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG.replace(**settings)
    measured, chosen = fit(config, monkeypatch, sync_s=0.0003)
    told, none = fit(config.replace(sync_every=6), monkeypatch)
    assert (measured.sync_every, told.sync_every, len(chosen), none) == (6, 6, 1, [])
    assert same(measured, told)


def test_a_repeat_in_the_run_takes_the_interval_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = fit(CONFIG, monkeypatch, sync_s=0.0003, checkpoints=Checkpoints(f"{tmp_path}/checkpoints"))
    record = json.loads((tmp_path / "sync_interval.json").read_text())
    assert (record["every"], record["wanted"]) == (6, 0.05)
    again, chosen = fit(CONFIG, monkeypatch, sync_s=0.1, checkpoints=Checkpoints(f"{tmp_path}/checkpoints"))
    assert (again.sync_every, chosen) == (6, [])
    assert same(first, again)


def test_who_goes_on_from_a_checkpoint_takes_its_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(Checkpoints):
        def due(self, transport: Transport) -> bool:
            return True

        def save(self, snapshot: Snapshot, transport: Transport) -> None:
            super().save(snapshot, transport)
            if (snapshot.epoch, snapshot.number) == (2, 6):
                raise KeyboardInterrupt

    expected, _ = fit(CONFIG, monkeypatch, sync_s=0.0003)
    with pytest.raises(KeyboardInterrupt):
        fit(CONFIG, monkeypatch, sync_s=0.0003, checkpoints=Dying(f"{tmp_path}/checkpoints"))
    (tmp_path / "sync_interval.json").unlink()
    resumed = Checkpoints(f"{tmp_path}/checkpoints", "selection-00002-00000006")
    result, chosen = fit(CONFIG, monkeypatch, sync_s=0.1, checkpoints=resumed)
    assert (result.sync_every, chosen) == (6, [])
    assert same(result, expected)


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sync_interval.json").write_text("{}")
    with pytest.raises(InputError, match=r"sync_interval\.json does not tell how many steps .* Remove it"):
        fit(CONFIG, monkeypatch, checkpoints=Checkpoints(f"{tmp_path}/checkpoints"))


def test_gradients_are_summed_at_each_step_whatever_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    result, chosen = fit(CONFIG.replace(strategy="all_reduce"), monkeypatch)
    assert (result.sync_every, chosen) == (1, [])


def test_an_interval_is_measured_on_real_clocks_too() -> None:
    seen: list[Event] = []
    x = np.random.default_rng(0).normal(size=(300, 5))
    result = fit_arrays(x, x[:, 0] > 0, CONFIG, emit=seen.append)
    (chosen,) = (event for event in seen if isinstance(event, SyncIntervalChosen))
    assert result.sync_every == chosen.every >= 1
    assert chosen.share <= 0.05


def test_a_gang_measures_and_compresses_to_the_bits_of_one_process(spark: Any) -> None:
    x = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
    rows = spark.createDataFrame(
        [(values.tolist(), int(values[0] > 0)) for values in x], "features array<float>, label long"
    )
    seen: list[Event] = []
    config = CONFIG.replace(compression="int8", epochs=2)
    result = train(rows, config, num_workers=2, emit=seen.append)
    assert [event.every for event in seen if isinstance(event, SyncIntervalChosen)] == [result.sync_every]
    assert same(result, fit_arrays(x, (x[:, 0] > 0).astype(int), config.replace(sync_every=result.sync_every)))
    assert all(event.saved_bytes > 2 * event.sent_bytes > 0 for event in result.history)


def test_a_strategy_is_not_made_before_the_interval_is_known() -> None:
    with pytest.raises(InputError, match="'auto' must be measured first"):
        make_strategy(CONFIG)
