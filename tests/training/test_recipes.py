"""Each optimiser, schedule and mean of weights keeps what training promises; and is what its name says."""

import copy
import dataclasses
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training.test_strategies import SIZES, EverySync, bits, fit, make_config, make_shards, on_threads

from sparkwright.errors import InputError
from sparkwright.training.checkpoints import Snapshot
from sparkwright.training.config import TrainingConfig
from sparkwright.training.loop import Loop, cpu_threads
from sparkwright.training.replica.devices import device_of
from sparkwright.training.replica.passes import Passes
from sparkwright.training.replica.replica import Replica, Shard
from sparkwright.training.settings import OPTIMIZERS
from sparkwright.training.strategies import make_strategy
from sparkwright.training.tasks import Classification
from sparkwright.training.transports.in_process import InProcess

RECIPES = [
    *({"optimizer": optimizer} for optimizer in OPTIMIZERS),
    {"schedule": "plateau", "plateau_patience": 1, "learning_rate": 3.0, "epochs": 4},
    {"schedule": "one_cycle"},
    {"schedule": "table", "rate_table": {0: 0.1, 3: 0.02}, "rate_table_unit": "step"},
    {"clip_norm": 0.1, "clip_value": 0.01},
    {"accumulate": 2, "batch_size": 2},
    {"rate_decay": 0.5, "layer_rates": {"0": 0.1}},
    {"precision": "bfloat16"},
    *(
        {"weight_average": average, "strategy": strategy, "swa_from": 0.5, "epochs": 3}
        for average in ("ema", "swa")
        for strategy in ("averaging", "all_reduce", "outer")
    ),
    {"weight_average": "ema", "strategy": "outer", "pull": 0.5},
    {"weight_average": "ema", "compression": "float16"},
    {"weight_average": "ema", "on_not_finite": "retry"},
    {"weight_average": "swa", "strategy": "all_reduce", "compression": "int8"},
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with cpu_threads(1):
        yield


@pytest.mark.parametrize("settings", RECIPES, ids=lambda settings: "-".join(map(str, settings.values())))
def test_any_recipe_has_the_same_bits_on_workers_and_goes_on_from_any_sync(settings: dict[str, object]) -> None:
    config, shards, kept = make_config(**settings), make_shards(), dict[tuple[int, int], dict[int, Snapshot]]()
    expected = bits(fit(config, InProcess(config.replicas), shards))
    ends = on_threads(2, config.replicas, lambda transport: fit(config, transport, shards, EverySync(kept)))
    assert [bits(end) == expected for end in ends] == [True, True]
    for parts in kept.values():
        own = {replica: tensors for part in parts.values() for replica, tensors in part.replicas.items()}
        saved = dataclasses.replace(parts[0], replicas=own)
        again = bits(fit(config, InProcess(config.replicas), shards, saved=saved))
        assert again == expected, (saved.epoch, saved.number)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_gets_somewhere_at_its_default_rate(optimizer: str) -> None:
    config = make_config(optimizer=optimizer, epochs=30, weight_decay=0.0, replicas=2, dropout=0.0)
    history = fit(config, InProcess(2), make_shards((20, 20))).history
    assert history[-1].train_loss < 0.9 * history[0].train_loss


def one_replica(config: TrainingConfig, seen: list[Tensor] | None = None, shards: dict[int, Shard] | None = None):
    """Train one replica; keep its weights after each epoch."""
    torch.manual_seed(0)
    strategy = make_strategy(config)
    advance = strategy.advance

    def watched(replicas, interval, transport):
        advance(replicas, interval, transport)
        if seen is not None:
            seen.append(replicas[0].flat.weights_N.clone())

    strategy.advance = watched
    task = Classification(np.ones(3, np.float32), 0)
    return Loop(config, task, strategy, InProcess(1)).fit(nn.Linear(5, 3), shards or make_shards((40,)))


def flat_weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def without_padding(weights_N: Tensor) -> Tensor:
    return torch.cat([weights_N[:15], weights_N[16:19]])  # of a layer of 5 x 3


def test_stochastic_weight_averaging_keeps_the_mean_of_the_last_epochs_weights() -> None:
    seen = list[Tensor]()
    config = make_config(replicas=1, epochs=6, sync_every=100, weight_average="swa", swa_from=0.5)
    fitted = one_replica(config, seen)
    expected = without_padding(torch.stack(seen[2:]).mean(0))  # epochs 3 to 6
    torch.testing.assert_close(flat_weights(fitted.module), expected)


def test_an_exponential_mean_of_the_weights_moves_each_step() -> None:
    seen = list[Tensor]()
    config = make_config(replicas=1, epochs=3, sync_every=1, weight_average="ema", ema_decay=0.5)
    torch.manual_seed(0)
    mean = flat_weights(nn.Linear(5, 3))
    fitted = one_replica(config, seen)
    for step, weights_N in enumerate(seen, 1):
        share = min(0.5, (1 + step) / (10 + step))
        mean = share * mean + (1 - share) * without_padding(weights_N)
    torch.testing.assert_close(flat_weights(fitted.module), mean)


@pytest.mark.parametrize("batch_norm", ["averaged", "local"])
def test_running_statistics_are_averaged_as_weights_are(batch_norm: str) -> None:
    config = make_config(replicas=2, epochs=3, weight_average="swa", swa_from=0.4, batch_norm=batch_norm)
    strategy, seen = make_strategy(config), list[Tensor]()
    advance = strategy.advance

    def watched(replicas, interval, transport):
        advance(replicas, interval, transport)
        if interval.last:
            seen.append(replicas[0].module[1].running_mean.clone())

    strategy.advance = watched
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    task = Classification(np.ones(3, np.float32), 0)
    fitted = Loop(config, task, strategy, InProcess(2)).fit(module, make_shards((20, 20)))
    torch.testing.assert_close(fitted.module[1].running_mean, torch.stack(seen[1:]).mean(0))


def test_validation_sees_the_mean_and_training_goes_on_from_the_weights() -> None:
    shards, plain, averaged = make_shards((40,)), list[Tensor](), list[Tensor]()
    one_replica(make_config(replicas=1, epochs=3), plain, shards)
    one_replica(make_config(replicas=1, epochs=3, weight_average="ema"), averaged, shards)
    assert all(torch.equal(own, other) for own, other in zip(plain, averaged, strict=True))


def test_gradients_of_parts_add_up_to_that_of_the_batch() -> None:
    shards = make_shards((33,))
    whole = one_replica(make_config(replicas=1, epochs=2, batch_size=12), shards=shards)
    parts = one_replica(make_config(replicas=1, epochs=2, batch_size=4, accumulate=3), shards=shards)
    torch.testing.assert_close(flat_weights(parts.module), flat_weights(whole.module))
    assert parts.history[-1].train_loss == pytest.approx(whole.history[-1].train_loss)


def test_products_in_bfloat16_leave_weights_in_float32_and_train_as_well() -> None:
    config = make_config(replicas=1, epochs=10, learning_rate=0.05)
    losses = [
        one_replica(config.replace(precision=precision)).history[-1].train_loss for precision in ("float32", "bfloat16")
    ]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)
    module = nn.Linear(5, 3)
    output = Passes(module, config.replace(precision="bfloat16"), 0)(torch.randn(4, 5))
    assert (output.dtype, module.weight.dtype) == (torch.float32, torch.float32)


def test_channels_last_changes_the_layout_and_not_the_result() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3), nn.Flatten(), nn.LazyLinear(3))
    x = torch.randn(10, 3, 8, 8)
    module(x)
    outputs = []
    for channels_last in (False, True):
        own = copy.deepcopy(module)
        config = make_config(replicas=1, channels_last=channels_last)
        shard = make_shards((10,))[0]
        replica = Replica(0, own, shard, Classification(np.ones(3, np.float32), 0), config)
        assert own[0].weight.is_contiguous(memory_format=torch.channels_last) is channels_last
        outputs.append(replica.passes(x).detach())
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)


def test_a_compiled_network_is_trained_through_what_torch_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def compiled(module: nn.Module) -> nn.Module:
        module.register_forward_hook(lambda *_: passes.append(1))
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr("shutil.which", lambda name: name)
    one_replica(make_config(replicas=1, epochs=1, compile=True))
    assert passes


def test_what_compiling_needs_and_is_not_there_is_an_error_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name if name == "clang++" else None)
    monkeypatch.setenv("CXX", "g++")
    with pytest.raises(
        InputError, match=r"a C\+\+ compiler, and there is no `g\+\+`: install g\+\+, or name another in CXX"
    ):
        one_replica(make_config(replicas=1, compile=True))
    monkeypatch.setenv("CXX", "clang++")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(InputError, match=r"Python's headers, and there is no .*Python\.h: install python3-dev"):
        one_replica(make_config(replicas=1, compile=True))


@pytest.mark.timeout(300)  # some 15 s of a processor, of which compilers get what other tests leave
@pytest.mark.skipif("SPARKWRIGHT_TEST_COMPILER" not in os.environ, reason="takes long: set SPARKWRIGHT_TEST_COMPILER")
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
@pytest.mark.skipif(not Path(sysconfig.get_path("include"), "Python.h").exists(), reason="needs Python's headers")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # what torch's compiler imports of torch
def test_a_network_that_torch_compiles_trains_as_one_that_it_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # in this process, which then has no others to end
    module, task = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), Classification(np.ones(3, np.float32), 0)
    ends = []
    for compiled in (False, True):
        # Batches of one size and no validation rows: kernels are made once.
        config = make_config(replicas=1, batch_size=5, learning_rate=0.05, health_every=2, compile=compiled)
        loop = Loop(config, task, make_strategy(config), InProcess(1))
        ends.append(loop.fit(module, make_shards((10,))).module.state_dict())
    assert list(tmp_path.rglob("*.so")), "nothing was compiled"
    for name, before in module.state_dict().items():
        assert not torch.allclose(ends[0][name], before, atol=1e-3)
        torch.testing.assert_close(ends[1][name], ends[0][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compression", ["int8", "topk", "threshold"])
def test_a_mean_of_weights_that_replicas_would_not_share_is_refused(compression: str) -> None:
    with pytest.raises(InputError, match="`weight_average` must be the same in all replicas; with `compression`"):
        TrainingConfig(weight_average="ema", compression=compression)


def test_replicas_share_the_gpus_that_there_are_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(device_of("cuda", replica)) for replica in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr("sparkwright.training.replica.devices._assigned", lambda: [5])
    assert str(device_of("cuda", 3)) == "cuda:5"
    assert str(device_of("cpu", 3)) == "cpu"


def test_a_gpu_that_is_not_there_is_an_error_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="`device` is 'cuda', but torch sees no GPU here"):
        one_replica(make_config(replicas=1, device="cuda"))


@pytest.mark.parametrize("strategy", ["averaging", "all_reduce", "outer"])
def test_replicas_on_an_injected_device_end_with_the_same_bits(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = list[tuple[str, int]]()

    def injected(name: str, replica: int) -> torch.device:
        chosen.append((name, replica))
        return torch.device("cpu")

    monkeypatch.setattr("sparkwright.training.replica.passes.device_of", injected)
    results = []
    for device in ("cpu", "cuda"):
        config = make_config(strategy=strategy, device=device)
        results.append(bits(fit(config, InProcess(config.replicas), make_shards())))
    assert results[0] == results[1]
    assert chosen[len(SIZES) :] == [("cuda", replica) for replica in range(len(SIZES))]
