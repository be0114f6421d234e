import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from sparkwright.networks.preprocessing import ImageError
from sparkwright.scoring.process.engine import RowError, score, score_matrix

SHAPE = (2,)


@dataclass
class Numbered:
    """A block whose row k is the number ``values[k]``; None fails, an exception is raised."""

    values: list[object]
    reads: list[int] = field(default_factory=list)
    delay_s: float = 0.0

    def __len__(self) -> int:
        return len(self.values)

    def read(self, row: int, out: np.ndarray) -> None:
        value = self.values[row]
        self.reads.append(row)
        if self.delay_s:
            time.sleep(self.delay_s)
        if value is None:
            raise ImageError("empty", "no value")
        if isinstance(value, Exception):
            raise value
        out[:] = value

    def matrix(self) -> tuple[np.ndarray, dict[int, RowError]]:
        x = np.zeros((len(self), *SHAPE), np.float32)
        errors = {}
        for row in range(len(self)):
            try:
                self.read(row, x[row])
            except ImageError as error:
                errors[row] = RowError(error.kind, str(error))
        return x, errors


def triple(x: np.ndarray) -> np.ndarray:
    return 3 * x


def numbered(sizes: list[int]) -> list[Numbered]:
    starts = np.cumsum([0, *sizes])
    return [Numbered(list(range(starts[i], starts[i + 1]))) for i in range(len(sizes))]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
@pytest.mark.parametrize("sizes", [[], [0], [1], [0, 1, 0, 0], [10], [3, 0, 7, 1, 1, 50, 0], [200]])
def test_every_row_gets_its_own_answer_in_order(sizes: list[int], batch_size: int, threads: int) -> None:
    blocks = numbered(sizes)
    results = list(score(blocks, triple, SHAPE, batch_size=batch_size, threads=threads))
    assert [result.block for result in results] == blocks
    for result in results:
        assert not result.errors
        if len(result.block):
            expected = 3 * np.array(result.block.values, np.float32)
            assert np.array_equal(result.outputs, np.stack([expected, expected], axis=1))
        else:
            assert result.outputs is None


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_failed_rows_keep_their_place_and_never_reach_the_network(batch_size: int) -> None:
    seen: list[float] = []

    def forward(x: np.ndarray) -> np.ndarray:
        seen.extend(x[:, 0].tolist())
        return triple(x)

    values = [1, None, 2, ValueError("odd"), 3, 4, None, 5, 6, 7, None]
    (result,) = score([Numbered(values)], forward, SHAPE, batch_size=batch_size, threads=2)
    assert sorted(seen) == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(result.errors) == [1, 3, 6, 10]
    assert result.errors[1] == RowError("empty", "no value")
    assert result.errors[3] == RowError("unreadable", "ValueError: odd")
    assert result.outputs[:, 0].tolist() == [3, 0, 6, 0, 9, 12, 0, 15, 18, 21, 0]


def test_a_block_of_failures_alone_has_no_outputs_and_runs_no_network() -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        raise AssertionError("must not run")

    (result,) = score([Numbered([None] * 5)], forward, SHAPE, batch_size=2, threads=1)
    assert result.outputs is None
    assert len(result.errors) == 5


def test_an_output_that_is_not_finite_is_an_error_of_its_row_alone() -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        return np.where(x == 2, np.nan, x)

    for result in (
        *score([Numbered([1, 2, 3])], forward, SHAPE, batch_size=3, threads=1),
        *score_matrix([Numbered([1, 2, 3])], forward),
    ):
        assert result.errors == {1: RowError("not finite", "The network's output is not finite (NaN or infinity).")}
        assert result.outputs[[0, 2], 0].tolist() == [1, 3]


def test_look_ahead_is_bounded_in_a_huge_block() -> None:
    block = Numbered(list(range(1000)))
    gate = threading.Event()

    def forward(x: np.ndarray) -> np.ndarray:
        gate.wait(10)
        return triple(x)

    def blocks() -> Iterator[Numbered]:
        yield block

    results = score(blocks(), forward, SHAPE, batch_size=4, threads=2)
    runner = threading.Thread(target=lambda: list(results))
    runner.start()
    time.sleep(0.2)
    assert len(block.reads) <= 4 * (2 + 2)
    gate.set()
    runner.join(10)
    assert sorted(block.reads) == list(range(1000))


def test_blocks_are_pulled_no_further_than_the_look_ahead() -> None:
    pulled = 0

    def blocks() -> Iterator[Numbered]:
        nonlocal pulled
        for block in numbered([4] * 100):
            pulled += 1
            yield block

    results = score(blocks(), triple, SHAPE, batch_size=4, threads=1)
    for done in range(1, 50):
        next(results)
        assert pulled <= done + 1 + 2 + 1
    results.close()


def test_decode_goes_on_while_the_network_runs() -> None:
    block = Numbered(list(range(16)), delay_s=0.01)

    def forward(x: np.ndarray) -> np.ndarray:
        time.sleep(0.04)
        return triple(x)

    start = time.monotonic()
    list(score([block], forward, SHAPE, batch_size=4, threads=2))
    # One after the other: 16 x 0.01 s + 4 x 0.04 s = 0.32 s; on two threads half of it.
    assert time.monotonic() - start < 0.28


def test_an_error_of_the_network_reaches_the_caller_and_leaves_no_thread() -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        raise RuntimeError("no memory for the activations")

    with pytest.raises(RuntimeError, match="no memory for the activations"):
        list(score(numbered([100]), forward, SHAPE, batch_size=4, threads=2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparkwright-score")]


def test_a_caller_that_stops_early_leaves_no_thread() -> None:
    results = score(numbered([10] * 50), triple, SHAPE, batch_size=4, threads=2)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparkwright-score")]


def test_results_are_told_as_they_come_and_what_the_listener_raises_ends_the_scoring() -> None:
    told: list[object] = []
    list(score([Numbered([1, None, 3])], triple, SHAPE, batch_size=2, threads=1, settled=told.extend))
    list(score_matrix([Numbered([1, None, 3])], triple, settled=told.extend))
    assert len(told) == 6
    assert sum(isinstance(result, RowError) for result in told) == 2

    def stop(results: object) -> None:
        raise ValueError("too many")

    with pytest.raises(ValueError, match="too many"):
        list(score(numbered([10]), triple, SHAPE, batch_size=2, threads=1, settled=stop))


@pytest.mark.parametrize("sizes", [[], [0], [1], [5, 0, 2]])
def test_matrix_rows_get_their_own_answer_in_order(sizes: list[int]) -> None:
    blocks = numbered(sizes)
    results = list(score_matrix(blocks, triple))
    assert [result.block for result in results] == blocks
    for result in results:
        if len(result.block):
            assert np.array_equal(result.outputs[:, 0], 3 * np.array(result.block.values, np.float32))


def test_matrix_rows_that_fail_keep_their_place() -> None:
    (result,) = score_matrix([Numbered([1, None, 3])], triple)
    assert result.errors == {1: RowError("empty", "no value")}
    assert result.outputs[:, 0].tolist() == [3, 0, 9]
