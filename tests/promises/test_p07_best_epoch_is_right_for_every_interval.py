"""P7: best model and early stopping are right for every interval, for metrics to minimise and to maximise."""

import numpy as np
import pytest

from sparkwright.training.arrays import fit_arrays
from sparkwright.training.config import TrainingConfig


@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
@pytest.mark.parametrize("interval", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("patience", [None, 4])
def test_the_best_epoch_is_kept_and_training_stops(monitor: str, interval: int, patience: int | None) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=120)
    x = rng.normal(size=(120, 12)) + y[:, None] * 0.5
    config = TrainingConfig(
        optimizer="sgd", learning_rate=0.5, weight_decay=0, schedule="constant", dropout=0.0, epochs=20, replicas=2,
        batch_size=8, monitor=monitor, validate_every=interval, patience=patience,
    )  # fmt: skip
    result = fit_arrays(x[:60], y[:60], config, validation=(x[60:], y[60:]))
    seen = {event.epoch: event.validation[monitor] for event in result.history if event.validation}
    last = len(result.history)
    assert set(seen) == {epoch for epoch in range(1, last + 1) if epoch % interval == 0 or epoch == 20}
    best = min(seen.values()) if monitor == "loss" else max(seen.values())
    assert result.best_epoch == next(epoch for epoch, value in seen.items() if value == best)
    assert last <= 20
    if patience is None:
        assert last == 20
    elif last < 20:
        assert last == min(epoch for epoch in seen if epoch >= result.best_epoch + patience)
    scores = result.head.forward(x[60:].astype(np.float32))
    assert (scores.argmax(1) == y[60:]).mean() == pytest.approx(result.validation["accuracy"])
