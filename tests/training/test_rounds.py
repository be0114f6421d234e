"""Rounds without Spark: tasks that forget all between two sums give the bits of one process."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.errors import WorkerError
from sparkwright.training.compression import PLAIN, make_codec
from sparkwright.training.config import TrainingConfig
from sparkwright.training.fitting import Outcome, train_rows
from sparkwright.training.rows.encoding import Columns, Encoding
from sparkwright.training.rows.population import Population, examine
from sparkwright.training.rows.store import Census, Rows, Store
from sparkwright.training.transports._base import hosting
from sparkwright.training.transports.in_process import InProcess
from sparkwright.training.transports.rounds import (
    Log,
    RoundCheckpoints,
    Rounds,
    Suspended,
    complete,
    drop_old_logs,
    find_log,
)

CONFIG = TrainingConfig(
    replicas=3, hidden=(5,), dropout=0.2, sync_every=3, optimizer="sgd", epochs=2, batch_size=16, refit=True
)
COLUMNS = Columns("x", "y", None, "split")


@dataclass
class Cluster:
    """Stands for Spark: runs the tasks of one job after another, each as if it were in a new process."""

    config: TrainingConfig
    folder: Path
    workers: int
    jobs: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def rows(self, hosted: range) -> tuple[dict[int, Rows], Population]:
        """Return the replicas' rows, in another order each time."""
        rng = np.random.default_rng(1)
        y = rng.integers(3, size=200)
        x = ((rng.normal(size=(3, 6)) * 2)[y] + rng.normal(size=(200, 6))).astype(np.float32)
        side = np.where(rng.random(200) < 0.8, "train", "validation")
        order = self.rng.permutation(200)
        table = pa.table({"x": x[order].tolist(), "y": y[order], "split": side[order]})
        batch = table.to_batches()[0]
        encoded = Encoding(COLUMNS, self.config.task, self.config.seed, (0,) * self.config.replicas).encode(batch)
        everything = Store(range(self.config.replicas), 1 << 40, Path("/tmp"))
        everything.add(encoded)
        census = Census.from_json(everything.census.to_json())
        rows = everything.finish(6)
        population = examine(census, self.config, COLUMNS, "int")
        return {replica: rows[replica] for replica in hosted}, population

    def in_process(self) -> Outcome:
        transport = InProcess(self.config.replicas)
        rows, population = self.rows(transport.hosted)
        return train_rows(self.config, population, rows, transport)

    def job(self, ranks: list[int] | None = None, *, dies: bool = False) -> Outcome | None:
        """Run one job; None if the training is not over, or if the job dies before its end."""
        self.jobs += 1
        hosts = hosting(self.config.replicas, self.workers)
        log = find_log(str(self.folder), {}, {})
        parts: list[dict[str, Any]] = []
        for rank in ranks or range(self.workers):
            rows, population = self.rows(hosts[rank])
            transport = Rounds(rank, hosts, log)
            try:
                outcome = train_rows(
                    self.config, population, rows, transport, checkpoints=RoundCheckpoints(transport, log)
                )
            except Suspended as suspended:
                parts.append(json.loads(json.dumps(suspended.part)))
        if dies:
            return None
        if not parts:
            return outcome
        chosen = {part["rank"]: part for part in parts}  # of several attempts the last one counts
        complete(
            list(chosen.values()),
            self.config.replicas,
            make_codec(self.config.compression, self.config.compression_share),
            log,
        )
        return None

    def train(self) -> Outcome:
        while (outcome := self.job()) is None:
            pass
        return outcome


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)


def same(a: Outcome, b: Outcome) -> bool:
    assert [(e.train_loss, e.replica_losses, e.training, e.validation) for e in a.history] == [
        (e.train_loss, e.replica_losses, e.training, e.validation) for e in b.history
    ]
    assert a.temperature == b.temperature
    return all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "all_reduce", "batch_size": 64},
        {"strategy": "outer"},
        {"strategy": "outer", "pull": 0.3, "outer_momentum": 0.0},
        {"compression": "bfloat16"},
        {"compression": "int8"},
        {"compression": "int8", "strategy": "outer", "pull": 0.5},
        {"compression": "topk", "strategy": "all_reduce", "batch_size": 64, "replicas": 5},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "averaging",
)
def test_rounds_give_the_bits_of_one_process(settings: dict[str, Any], tmp_path: Path) -> None:
    config = CONFIG.replace(**settings)
    expected = Cluster(config, tmp_path, 1).in_process()
    for workers in (1, 2, 3) if not settings else (2,):
        assert same(Cluster(config, tmp_path / str(workers), workers).train(), expected)


def test_the_sync_interval_is_measured_in_rounds_too(tmp_path: Path) -> None:
    config = CONFIG.replace(sync_every="auto", compression="int8")
    outcome = Cluster(config, tmp_path / "run" / "checkpoints", 2).train()
    assert json.loads((tmp_path / "run" / "sync_interval.json").read_text())["every"] == outcome.sync_every
    assert same(outcome, Cluster(config.replace(sync_every=outcome.sync_every), tmp_path, 1).in_process())


def test_tasks_that_run_twice_jobs_that_die_and_other_numbers_of_workers_change_no_bit(tmp_path: Path) -> None:
    config = CONFIG.replace(compression="int8", refit=False)
    expected = Cluster(config, tmp_path, 1).in_process()
    cluster = Cluster(config, tmp_path / "run", 3)
    outcome = None
    while outcome is None:
        cluster.workers = 1 + cluster.jobs % 3
        ranks = list(range(cluster.workers))
        cluster.job(dies=True)  # its tasks have left their files, and nothing is committed
        outcome = cluster.job(ranks=[*ranks, *reversed(ranks)])
    assert same(outcome, expected)


def test_every_sync_is_a_checkpoint_and_logs_stay_short(tmp_path: Path) -> None:
    cluster = Cluster(CONFIG.replace(refit=False, calibrate=False), tmp_path, 2)
    seen = []
    while cluster.job() is None:
        log = find_log(str(tmp_path), {}, {})
        drop_old_logs(log)
        seen.append((log.begin, len(log.seconds)))
    assert seen == [
        *((None, 1), (None, 2), (None, 3)),  # the moments in two passes, the rows of each replica
        (None, 4),  # the first sync; steps 4 of 4 are trained when it is a checkpoint
        ("selection-00001-00000003", 1),
        ("selection-00001-00000004", 1),  # the losses of the epoch
        ("selection-00001-00000004", 2),
        ("selection-00002-00000003", 1),
        ("selection-00002-00000004", 1),
    ]
    assert [path.name for path in (tmp_path / "rounds").iterdir()] == ["selection-00002-00000004"]


@pytest.mark.parametrize("what", ["sum", "manifest", "replica"])
def test_a_damaged_sum_is_given_up_and_made_again(tmp_path: Path, what: str) -> None:
    config = CONFIG.replace(refit=False, calibrate=False)
    expected = Cluster(config, tmp_path, 1).in_process()
    cluster = Cluster(config, tmp_path / "run", 2)
    for _ in range(5):  # up to a sync
        assert cluster.job() is None
    log = find_log(str(cluster.folder), {}, {})
    path = next(path for path in Path(log.folder(len(log.seconds) - 1)).iterdir() if path.name.startswith(what))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(WorkerError, match=r"The sum .* is damaged and was given up"):
        cluster.job()
    assert same(cluster.train(), expected)


def test_workers_gather_messages_and_agree_from_round_to_round(tmp_path: Path) -> None:
    hosts, answers = hosting(3, 2), list[Any]()
    while not answers:
        log, parts = find_log(str(tmp_path), {}, {}), []
        for rank in range(2):
            transport = Rounds(rank, hosts, log)
            try:
                answers.append((transport.gather(f"from {rank}"), transport.agree(7 + rank)))
            except Suspended as suspended:
                parts.append(json.loads(json.dumps(suspended.part)))
        if parts:
            complete(parts, 3, PLAIN, log)
    assert answers == [(["from 0", "from 1"], 7)] * 2


def test_a_round_whose_workers_stand_at_different_sums_is_refused(tmp_path: Path) -> None:
    parts = [{"rank": rank, "begin": None, "number": rank} for rank in range(2)]
    with pytest.raises(WorkerError, match=r"different sums \(rank 0 at None/0, rank 1 at None/1\)"):
        complete(parts, 2, PLAIN, Log(str(tmp_path)))


def test_compression_makes_the_files_of_rounds_smaller_too(tmp_path: Path) -> None:
    config = CONFIG.replace(epochs=1, refit=False, calibrate=False)
    (whole,) = Cluster(config, tmp_path / "whole", 2).train().history
    (packed,) = Cluster(config.replace(compression="float16"), tmp_path / "packed", 2).train().history
    assert whole.saved_bytes == 0
    assert packed.sent_bytes + packed.saved_bytes == whole.sent_bytes
    # Of three parts one is added to, so it stays as it is; the others and the sum, read by two workers, are packed.
    assert 0.35 < packed.saved_bytes / whole.sent_bytes < 0.4
