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


def test_of_processes_that_need_the_rows_at_once_one_copies_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    table = pa.table({"x": x.tolist(), "y": np.where(x[:, 0] > 0, "a", "b")})
    reader = Head().reader
    plan = RowsPlan(Columns(("x",), "y"), "text", TrainingConfig(), folds=3)
    (tmp_path / "data").mkdir()
    batches = TrialEncoding.of(plan, reader)(iter(table.to_batches(20)))
    for part, batch in enumerate(batches):
        pq.write_table(pa.Table.from_batches([batch]), tmp_path / "data" / f"{part}.parquet")
    (tmp_path / "local").mkdir()
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "local"))
    copied, copy = [], SharedRows._copy
    monkeypatch.setattr(SharedRows, "_copy", lambda *given: copied.append(1) or copy(*given))
    files = tuple(path.name for path in sorted((tmp_path / "data").iterdir()))
    shared = SharedRows((tmp_path / "data").as_uri(), "key", files, plan)
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: shared.open(reader), range(4)))
    assert copied == [1]
    own = read_local(table, plan, reader)
    for rows in opened:
        assert rows.population == own.population
        for fold in range(3):
            (there,), (here,) = (each.trial(TrainingConfig(replicas=1), fold)[1].values() for each in (rows, own))
            order, expected = there.order([0]), here.order([0])
            assert np.array_equal(there.key[order], here.key[expected])
    shared.remove()
    assert not list((tmp_path / "local").iterdir())
