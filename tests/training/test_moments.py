import numpy as np
import pyarrow as pa

from sparkwright.training.rows.kept import Kept
from sparkwright.training.rows.moments import measure_moments
from sparkwright.training.rows.store import Rows
from sparkwright.training.transports.in_process import InProcess


def make_rows(x: np.ndarray, target: np.ndarray, seed: int) -> Rows:
    n = len(x)
    key = np.random.default_rng(seed).integers(-(2**62), 2**62, n)
    return Rows(Kept(x), pa.nulls(n, pa.string()), target, np.ones(n, np.float32), key, np.zeros(n, np.int8))


def test_moments_are_those_of_all_replicas_rows() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(101, 5)) * [1, 10, 1e-3, 1, 0] + [1e6, 0, 5, -3, 7]).astype(np.float32)
    target = rng.normal(size=101)
    parts = np.split(np.arange(101), [20, 20, 70])  # one replica has no rows
    rows = {i: make_rows(x[part], target[part], i) for i, part in enumerate(parts)}
    weights = {i: np.full(len(part), 2, np.float32) for i, part in enumerate(parts)}
    moments = measure_moments(rows, [0], weights, InProcess(4))
    assert moments.rows == 101
    assert moments.weight == 202
    np.testing.assert_allclose(moments.mean_F, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.deviation_F, x.astype(np.float64).std(0), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose([moments.target_mean, moments.target_deviation], [target.mean(), target.std()])
    assert moments.scale_F[4] == 0  # a constant feature


def test_moments_do_not_depend_on_the_order_of_arrival() -> None:
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(1000, 3)).astype(np.float32), rng.normal(size=1000)
    rows = make_rows(x, target, 0)
    order = rng.permutation(1000)
    shuffled = Rows(Kept(x[order]), rows.label, target[order], rows.weight, rows.key[order], rows.side)
    weights = {0: rows.weight}
    a = measure_moments({0: rows}, [0], weights, InProcess(1))
    b = measure_moments({0: shuffled}, [0], weights, InProcess(1))
    assert a.mean_F.tobytes() == b.mean_F.tobytes()
    assert a.deviation_F.tobytes() == b.deviation_F.tobytes()
