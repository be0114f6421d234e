"""What every strategy must do with every codec, wherever its replicas are hosted."""

import copy
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparkwright.training.checkpoints import Checkpoints, Snapshot
from sparkwright.training.compression import make_codec
from sparkwright.training.config import TrainingConfig
from sparkwright.training.loop import Fitted, Loop, cpu_threads
from sparkwright.training.replica.replica import Shard
from sparkwright.training.rows.kept import Kept
from sparkwright.training.settings import COMPRESSIONS
from sparkwright.training.strategies import make_strategy
from sparkwright.training.sync_interval import choose_sync_interval
from sparkwright.training.tasks import Classification
from sparkwright.training.transports._base import Transport, hosting
from sparkwright.training.transports.in_process import InProcess

T = TypeVar("T")
STRATEGIES = {
    "averaging": {"strategy": "averaging"},
    "all_reduce": {"strategy": "all_reduce"},
    "outer": {"strategy": "outer"},
    "elastic": {"strategy": "outer", "pull": 0.5, "outer_momentum": 0.0, "outer_rate": 1.0},
}
SIZES = (9, 0, 14, 8, 3)  # rows of each replica: uneven, one without any
EVERY = [
    pytest.param(settings | {"compression": compression}, id=f"{name}-{compression}")
    for name, settings in STRATEGIES.items()
    for compression in (None, *COMPRESSIONS)
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with cpu_threads(1):
        yield


class Threads(Transport):
    """Workers that are threads of one process, joined by queues."""

    def __init__(self, rank: int, hosts: tuple[range, ...], queues: dict[tuple[int, int], queue.Queue[Tensor]]) -> None:
        super().__init__(rank, hosts)
        self._queues = queues

    def gather(self, message: str) -> list[str]:
        raise NotImplementedError

    def _send(self, tensor: Tensor, rank: int) -> None:
        self._queues[self.rank, rank].put(tensor.clone())

    def _receive(self, like: Tensor, rank: int) -> Tensor:
        received = self._queues[rank, self.rank].get(timeout=10)
        assert (received.shape, received.dtype) == (like.shape, like.dtype)  # a network has no more to go by
        return received

    def _shared(self, tensor: Tensor) -> Tensor:
        for rank in range(1, len(self.hosts)) if self.rank == 0 else ():
            self._send(tensor, rank)
        return tensor if self.rank == 0 else self._receive(tensor, 0)


class EverySync(Checkpoints):
    """Keeps a copy of each sync's snapshot in memory: of the common part from rank 0, of replicas from their hosts."""

    pause_after = None

    def __init__(self, kept: dict[tuple[int, int], dict[int, Snapshot]]) -> None:
        self._kept = kept

    def due(self, transport: Transport) -> bool:
        return True

    def save(self, snapshot: Snapshot, transport: Transport) -> None:
        self._kept.setdefault((snapshot.epoch, snapshot.number), {})[transport.rank] = copy.deepcopy(snapshot)


def make_config(**settings: object) -> TrainingConfig:
    base = {"replicas": len(SIZES), "batch_size": 5, "sync_every": 2, "epochs": 2, "compression_share": 0.1}
    return TrainingConfig.from_dict(base | settings)


def make_shards(sizes: tuple[int, ...] = SIZES) -> dict[int, Shard]:
    generator = torch.Generator().manual_seed(3)
    shards = {}
    for index, size in enumerate(sizes):
        y = torch.randint(3, (size,), generator=generator)
        x = torch.randn(size, 5, generator=generator) + y[:, None] * torch.tensor([1.0, -1, 0, 2, 0])
        weight = torch.rand(size, generator=generator) + 0.5
        shards[index] = Shard(Kept(x.numpy()), y, weight, np.arange(size), np.arange(size) + 100 * index)
    return shards


def fit(
    config: TrainingConfig,
    transport: Transport,
    shards: Mapping[int, Shard],
    checkpoints: Checkpoints | None = None,
    saved: Snapshot | None = None,
) -> Fitted:
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    own = {replica: shards[replica] for replica in transport.hosted}
    task = Classification(np.ones(3, np.float32), 0)
    loop = Loop(config, task, make_strategy(config), transport, checkpoints=checkpoints)
    return loop.fit(module, own, own, saved)


def on_threads(workers: int, replicas: int, work: Callable[[Transport], T]) -> list[T]:
    """Return what each of so many workers ends with."""
    hosts = hosting(replicas, workers)
    queues = {(a, b): queue.Queue[Tensor]() for a in range(workers) for b in range(workers)}
    ends: dict[int, T] = {}

    def run(rank: int) -> None:
        torch.set_num_threads(1)
        ends[rank] = work(Threads(rank, hosts, queues))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return [ends[rank] for rank in range(workers)]


def bits(fitted: Fitted) -> tuple[bytes, list[dict[str, object]]]:
    """Return the weights, and of the history what clocks and wires have no part in."""
    weights = b"".join(value.numpy().tobytes() for value in fitted.module.state_dict().values())
    measured = ("seconds", "sync_share", "sent_bytes", "saved_bytes")
    history = [{k: v for k, v in dataclasses.asdict(event).items() if k not in measured} for event in fitted.history]
    return weights, history


@pytest.mark.parametrize("settings", EVERY)
def test_any_number_of_workers_gives_the_same_bits_and_any_can_go_on_from_any_sync(settings: dict[str, object]) -> None:
    config, shards, kept = make_config(**settings), make_shards(), dict[tuple[int, int], dict[int, Snapshot]]()
    expected = bits(fit(config, InProcess(config.replicas), shards))
    for workers in (2, 5):
        kept.clear()
        ends = on_threads(workers, config.replicas, lambda transport: fit(config, transport, shards, EverySync(kept)))
        assert [bits(end) == expected for end in ends] == [True] * workers
    assert len(kept) == config.epochs * (3 if config.strategy == "all_reduce" else 2)
    for parts in kept.values():
        own = {replica: tensors for part in parts.values() for replica, tensors in part.replicas.items()}
        saved = dataclasses.replace(parts[0], replicas=own)
        assert bits(fit(config, InProcess(config.replicas), shards, saved=saved)) == expected, (
            saved.epoch,
            saved.number,
        )


@pytest.mark.parametrize("settings", EVERY)
def test_training_gets_somewhere(settings: dict[str, object]) -> None:
    config = make_config(**settings, epochs=20, compression_share=0.2, learning_rate=0.03, optimizer="adam")
    config = config.replace(outer_momentum=min(config.outer_momentum, 0.5))  # few steps: more would swing
    history = fit(config, InProcess(config.replicas), make_shards()).history
    assert history[-1].train_loss < 0.5 * history[0].train_loss


@pytest.mark.parametrize("settings", EVERY)
def test_replicas_have_equal_weights_at_the_end_of_an_epoch(settings: dict[str, object]) -> None:
    config, weights = make_config(**settings, epochs=1), list[Tensor]()
    strategy = make_strategy(config)
    advance = strategy.advance

    def watched(replicas, interval, transport):
        advance(replicas, interval, transport)
        if interval.last:
            weights.extend(replica.flat.weights_N.clone() for replica in replicas)

    strategy.advance = watched
    task, own = Classification(np.ones(3, np.float32), 0), make_shards()
    Loop(config, task, strategy, InProcess(config.replicas)).fit(nn.Linear(5, 3), own)
    assert len(weights) == config.replicas
    assert all(torch.equal(other, weights[0]) for other in weights[1:])


@pytest.mark.parametrize("settings", EVERY)
def test_every_row_is_trained_on_once_an_epoch(settings: dict[str, object]) -> None:
    seen = list[int]()

    class Counting(Classification):
        def loss(self, output: Tensor, y_B: Tensor, w_B: Tensor) -> Tensor:
            seen.append(len(y_B))
            return super().loss(output, y_B, w_B)

    config = make_config(**settings, epochs=2)
    loop = Loop(config, Counting(np.ones(3, np.float32), 0), make_strategy(config), InProcess(config.replicas))
    fitted = loop.fit(nn.Linear(5, 3), make_shards())
    assert sum(seen) == 2 * sum(SIZES)
    assert [event.rows for event in fitted.history] == [sum(SIZES)] * 2


@pytest.mark.parametrize("settings", EVERY)
def test_a_replica_alone_is_not_compressed_and_trains_as_one_without_a_strategy(settings: dict[str, object]) -> None:
    alone = make_config(replicas=1, sync_every=1000)
    expected = fit(alone, InProcess(1), make_shards((30,)))
    config = alone.replace(**settings | {"sync_every": 2, "outer_rate": 1.0, "outer_momentum": 0.0})
    fitted = fit(config, InProcess(1), make_shards((30,)))
    for value, other in zip(fitted.module.parameters(), expected.module.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_an_outer_optimiser_of_rate_1_without_momentum_is_averaging(compression: str | None) -> None:
    averaging = make_config(compression=compression)
    outer = averaging.replace(strategy="outer", outer_rate=1.0, outer_momentum=0.0)
    ends = [fit(config, InProcess(config.replicas), make_shards()) for config in (averaging, outer)]
    assert bits(ends[0]) == bits(ends[1])


def test_all_reduce_is_one_replica_that_takes_all_batches_at_once() -> None:
    sizes = (8, 8, 8)
    shards = make_shards(sizes)
    together = Shard(
        Kept(np.concatenate([shard.x.values for shard in shards.values()])),
        torch.cat([shard.y_N for shard in shards.values()]),
        torch.cat([shard.w_N for shard in shards.values()]),
        np.arange(24),
        np.arange(24),
    )
    config = make_config(strategy="all_reduce", replicas=3, batch_size=8, optimizer="sgd")  # a step an epoch: any order
    ends = [
        fit(config, InProcess(3), shards),
        fit(config.replace(replicas=1, batch_size=24), InProcess(1), {0: together}),
    ]
    for value, other in zip(*(end.module.parameters() for end in ends), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


def test_averaging_at_each_step_of_plain_sgd_is_all_reduce() -> None:
    plain = {"optimizer": "sgd", "momentum": 0.0, "nesterov": False, "replicas": 3, "weight_decay": 0.0}
    shards = make_shards((9, 9, 9))
    ends = [
        fit(make_config(**plain, strategy=strategy, sync_every=1), InProcess(3), shards)
        for strategy in ("averaging", "all_reduce")
    ]
    for value, other in zip(*(end.module.parameters() for end in ends), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6)


STATE = 3 * 96 * 4  # bytes of weights and Adam's two means, parameters at multiples of 16
SYNC = 4 + 2  # messages between three workers of five replicas: up the tree, and from rank 0 to the others


@pytest.mark.parametrize(
    ("compression", "whole", "sent"),
    [(None, STATE, STATE), ("bfloat16", STATE, STATE / 2), ("int8", STATE / 3, 96 + 4), ("topk", STATE / 3, 10 * 8)],
)
def test_the_bytes_that_all_workers_send_and_save_are_told(compression: str | None, whole: int, sent: int) -> None:
    config, shards = make_config(compression=compression), make_shards()
    for end in on_threads(3, config.replicas, lambda transport: fit(config, transport, shards)):
        for event in end.history:
            assert event.sent_bytes == 2 * SYNC * sent
            assert event.saved_bytes == 2 * SYNC * (whole - sent)


def test_an_epoch_that_goes_on_elsewhere_counts_the_bytes_of_those_before() -> None:
    config, shards, kept = make_config(), make_shards(), dict[tuple[int, int], dict[int, Snapshot]]()
    on_threads(3, config.replicas, lambda transport: fit(config, transport, shards, EverySync(kept)))
    parts = kept[2, 2]
    own = {replica: tensors for part in parts.values() for replica, tensors in part.replicas.items()}
    saved = dataclasses.replace(parts[0], replicas=own)
    resumed = fit(config, InProcess(config.replicas), shards, saved=saved)  # alone, it sends nothing more
    assert resumed.history[1].sent_bytes == SYNC * STATE


def test_all_workers_take_the_interval_that_rank_0_measures() -> None:
    config, shards = make_config(sync_every="auto"), make_shards()

    def choose(transport: Transport) -> int:
        if transport.rank:
            transport.clock = lambda: 1e6 * time.perf_counter()  # what another measures has no say
        module = nn.Linear(5, 3)
        own = {replica: shards[replica] for replica in transport.hosted}
        return choose_sync_interval(config, Classification(np.ones(3, np.float32), 0), module, own, transport)

    first, *others = on_threads(3, config.replicas, choose)
    assert first >= 1
    assert others == [first, first]


def tensor(seed: int = 0) -> Tensor:
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(seed))
    return values * torch.tensor([1.0, 1e-3, 1e-9])[:, None]  # weights, momentum, squares of gradients


@pytest.mark.parametrize(
    ("name", "precision", "size"),
    [("float16", 2**-10, 6012), ("bfloat16", 2**-8, 6000), ("int8", 1 / 127, 3048)],
)
def test_a_rounding_codec_loses_little_of_each_row(name: str, precision: float, size: int) -> None:
    codec = make_codec(name, 0.01)
    payload = codec.pack(tensor(), 0)
    assert payload.nbytes == codec.room(tensor()).nbytes == size
    assert (payload.dtype, payload.shape) == (codec.room(tensor()).dtype, codec.room(tensor()).shape)
    unpacked = codec.unpack(payload, tensor())
    for row in range(1 if name == "int8" else 3):  # int8's blocks of 256 cross rows
        largest = tensor()[row].abs().max()
        torch.testing.assert_close(unpacked[row], tensor()[row], rtol=0, atol=float(largest * precision))


@pytest.mark.parametrize(("name", "size"), [("topk", 2 * 30 * 4), ("threshold", (2 + 30) * 4)])
def test_a_sparse_codec_sends_the_largest_values(name: str, size: int) -> None:
    codec = make_codec(name, 0.01)
    payload = codec.pack(tensor(), 0)
    assert payload.nbytes == codec.room(tensor()).nbytes == size
    unpacked = codec.unpack(payload, tensor())
    largest = torch.topk(tensor().abs().view(-1), 30).indices
    assert set(unpacked.view(-1).nonzero().flatten().tolist()) == set(largest.tolist())
    sent, values = unpacked.view(-1)[largest], tensor().view(-1)[largest]
    if name == "topk":
        assert torch.equal(sent, values)
    else:
        assert torch.equal(sent.sign(), values.sign())
        torch.testing.assert_close(sent.sum(), values.sum())


@pytest.mark.parametrize("name", ["int8", "topk", "threshold"])
def test_what_a_message_loses_comes_with_later_ones(name: str) -> None:
    codec = make_codec(name, 0.05)
    sent, wanted = torch.zeros(3, 1000), torch.zeros(3, 1000)
    for seed in range(20):
        wanted += tensor(seed)
        sent += codec.unpack(codec.pack(tensor(seed), 7), sent)
        torch.testing.assert_close(sent + codec.residuals[7], wanted, rtol=1e-4, atol=1e-4)
    assert list(codec.residuals) == [7]
    for _ in range(40):  # nothing new: what is left is sent
        sent += codec.unpack(codec.pack(torch.zeros(3, 1000), 7), sent)
    assert (sent - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_codec_sends_zeros_as_zeros_and_passes_on_what_is_not_finite(name: str) -> None:
    codec = make_codec(name, 0.01)
    zeros = torch.zeros(2, 300)
    assert torch.equal(codec.unpack(codec.pack(zeros.clone(), 0), zeros), zeros)
    broken = zeros.clone()
    broken[0, 3] = torch.nan
    assert not torch.isfinite(codec.unpack(codec.pack(broken, 0), zeros)).all()
