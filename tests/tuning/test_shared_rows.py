"""The rows of a search on an executor: copied once, whoever comes first; the same as in the process that has them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.columns import Columns
from sparkwright.training.subject import Head
from sparkwright.tuning.shared_rows import SharedRows
from sparkwright.tuning.trial_rows import RowsPlan, TrialEncoding, read_local

PLAN = RowsPlan(Columns(("x",), "y"), "text", TrainingConfig(), folds=3)
READER = Head().reader


@pytest.fixture
def table() -> pa.Table:
    x = np.random.default_rng(2).normal(size=(60, 4)).astype(np.float32)
    return pa.table({"x": x.tolist(), "y": np.where(x[:, 0] > 0, "a", "b")})


@pytest.fixture
def shared(table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SharedRows:
    (tmp_path / "data").mkdir()
    for part, batch in enumerate(TrialEncoding.of(PLAN, READER)(iter(table.to_batches(20)))):
        pq.write_table(pa.Table.from_batches([batch]), tmp_path / "data" / f"{part}.parquet")
    (tmp_path / "local").mkdir()
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "local"))
    files = tuple(path.name for path in sorted((tmp_path / "data").iterdir()))
    return SharedRows((tmp_path / "data").as_uri(), "key", files, PLAN)


def test_of_processes_that_need_the_rows_at_once_one_copies_them(
    table: pa.Table, shared: SharedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied, copy = [], SharedRows._copy
    monkeypatch.setattr(SharedRows, "_copy", lambda *given: copied.append(1) or copy(*given))
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: shared.open(READER), range(4)))
    assert copied == [1]
    own = read_local(table, PLAN, READER)
    for rows in opened:
        assert rows.population == own.population
        for fold in range(3):
            (there,), (here,) = (each.trial(TrainingConfig(replicas=1), fold)[1].values() for each in (rows, own))
            order, expected = there.order([0]), here.order([0])
            assert np.array_equal(there.key[order], here.key[expected])
    shared.remove()
    assert not list((tmp_path / "local").iterdir())


def test_a_copy_that_was_not_finished_is_made_anew(
    shared: SharedRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared.root / "rows-key-0.abc").mkdir(parents=True)  # of a process that was killed
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half_written)
        with pytest.raises(OSError, match="disk full"):
            shared.open(READER)
    assert shared.open(READER).census.rows.total() == 60
    assert [path.name for path in shared.root.glob("rows-*")] == ["rows-key-0"]


def half_written(path: Path, text: str) -> int:
    if path.name == "whole.json":
        return path.write_bytes(text.encode())
    path.write_bytes(text.encode()[:9])
    raise OSError("disk full")
