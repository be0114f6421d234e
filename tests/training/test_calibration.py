import numpy as np
import pytest
import torch
from torch import nn

from sparkwright.training.arrays import fit_arrays
from sparkwright.training.calibration import find_temperature
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Shard
from sparkwright.training.rows.kept import Kept
from sparkwright.training.transports.in_process import InProcess

CONFIG = TrainingConfig(epochs=5, replicas=2, batch_size=16)


def shard(logits: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Shard:
    w = np.ones(len(y), np.float32) if weight is None else weight.astype(np.float32)
    x, order = torch.from_numpy(logits.astype(np.float32)), np.arange(len(y))
    return Shard(Kept(x.numpy()), torch.from_numpy(y), torch.from_numpy(w), order, order)


def drawn(rows: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and labels drawn as often as the logits divided by a temperature say."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, 5)) * 3
    noise = rng.gumbel(size=logits.shape)
    return logits, (logits / temperature + noise).argmax(1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_that_the_labels_were_drawn_with(temperature: float) -> None:
    logits, y = drawn(8000, temperature)
    shards = {0: shard(logits[:5000], y[:5000]), 1: shard(logits[5000:], y[5000:])}
    assert find_temperature(nn.Identity(), shards, InProcess(2)) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_less_log_loss() -> None:
    logits, y = drawn(400, 2.0)
    found = find_temperature(nn.Identity(), {0: shard(logits, y)}, InProcess(1))

    def loss(temperature: float) -> float:
        scaled = torch.from_numpy(logits / temperature)
        uniform = -scaled.log_softmax(1).mean(1)
        labelled = nn.functional.cross_entropy(scaled, torch.from_numpy(y), reduction="none")
        return float(((400 * labelled + uniform) / 401).mean())

    assert loss(found) <= min(loss(found * 1.001), loss(found / 1.001))


def test_rows_count_by_their_weight_and_none_that_weighs_leaves_the_logits() -> None:
    logits, y = drawn(2000, 2.0)
    wrong = (y + 1) % 5
    weight = np.repeat([1.0, 0.0], 2000)
    both = {0: shard(np.vstack([logits, logits]), np.concatenate([y, wrong]), weight)}
    alone = find_temperature(nn.Identity(), {0: shard(logits, y)}, InProcess(1))
    assert find_temperature(nn.Identity(), both, InProcess(1)) == pytest.approx(alone, rel=1e-4)
    nothing = {0: shard(logits, y, np.zeros(2000))}
    assert find_temperature(nn.Identity(), nothing, InProcess(1)) == 1


def test_few_rows_that_are_all_right_do_not_ask_for_certainty() -> None:
    logits = np.eye(3)[np.arange(6) % 3]
    found = find_temperature(nn.Identity(), {0: shard(logits, np.arange(6) % 3)}, InProcess(1))
    surest = torch.from_numpy(logits / found).softmax(1).max().item()
    assert 0.85 < surest < 0.95


@pytest.mark.parametrize("hidden", [(), (8,)])
@pytest.mark.parametrize("refit", [False, True])
def test_calibration_divides_the_logits_and_changes_no_label(hidden: tuple[int, ...], refit: bool) -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=300)
    x = rng.normal(size=(3, 6))[y] + rng.normal(size=(300, 6))
    config = CONFIG.replace(hidden=hidden, refit=refit)
    fitted, plain = (
        fit_arrays(x[:200], y[:200], config.replace(calibrate=wanted), validation=(x[200:], y[200:]))
        for wanted in (True, False)
    )
    assert fitted.temperature != 1
    assert plain.temperature == 1
    scaled, raw = fitted.head.forward(x.astype(np.float32)), plain.head.forward(x.astype(np.float32))
    np.testing.assert_allclose(scaled * fitted.temperature, raw, rtol=1e-4, atol=1e-5)
    assert (scaled.argmax(1) == raw.argmax(1)).all()


def test_without_validation_rows_and_in_a_regression_nothing_is_divided() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(100, 4))
    assert fit_arrays(x, x[:, 0] > 0, CONFIG).temperature == 1
    regression = CONFIG.replace(task="regression")
    assert fit_arrays(x[:80], x[:80, 0], regression, validation=(x[80:], x[80:, 0])).temperature == 1
