import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from sparkwright.errors import ErrorRateError, ModelError, WorkerError
from sparkwright.scoring.forward.runtime import OnnxSession
from sparkwright.scoring.outputs import Features
from sparkwright.scoring.process import scorer, supervisor
from sparkwright.scoring.process.arrow import ScoringPlan, run
from sparkwright.scoring.process.supervisor import supervise

from .faults import CRASH, EXIT, HANG, Faulty, crash_once
from .photos import SIZE, answer, channel_means, doubled, endless, png

Network = tuple[ScoringPlan, Path]


@pytest.fixture
def photos(tmp_path: Path) -> Network:
    return plan_of(tmp_path / "means.onnx", channel_means())


def plan_of(path: Path, onnx: bytes) -> Network:
    path.write_bytes(onnx)
    plan = ScoringPlan(
        network=path.name,
        sha256=hashlib.sha256(onnx).hexdigest(),
        preprocessing=Faulty(SIZE, resize="exact", scale=1.0),
        input_shape=(3, *SIZE),
        output_shape=(3,),
        input_column="content",
        keep=("path",),
        outputs=(Features("features"),),
        error_column="error",
        digest_column="sha256",
        batch_size=4,
        threads=2,
    )
    return plan, path


@pytest.fixture(autouse=True, scope="module")
def _no_process_stays() -> Iterator[None]:
    yield
    scorer._end()
    assert not processes()


def processes(parent: int | None = None) -> list[psutil.Process]:
    """The scoring processes of a process."""
    children = psutil.Process(parent).children()
    return [child for child in children if "sparkwright.scoring.process.child" in " ".join(child.cmdline())]


def batches(contents: list[bytes | None], size: int = 7) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(contents), size):
        some = contents[start : start + size]
        paths = [f"photo{start + row}" for row in range(len(some))]
        yield pa.RecordBatch.from_pydict({"path": paths, "content": pa.array(some, pa.binary())})


def scored(network: Network, contents: list[bytes | None], size: int = 7) -> pa.Table:
    return pa.Table.from_batches(supervise(batches(contents, size), *network))


def check(table: pa.Table, expected: list[int | str]) -> None:
    """Rows are there once, in order, each with its own features or its kind of error."""
    assert table.column("path").to_pylist() == [f"photo{row}" for row in range(len(expected))]
    errors = [error and error["kind"] for error in table.column("error").to_pylist()]
    assert errors == [what if isinstance(what, str) else None for what in expected]
    for features, what in zip(table.column("features").to_pylist(), expected, strict=True):
        assert features is None if isinstance(what, str) else np.array_equal(features, answer(what))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_answers_are_those_of_the_engine_in_this_process(photos: Network, size: int) -> None:
    plan, path = photos
    contents = [png(red % 250) for red in range(600)] + [None, b"no photo"]
    alone = pa.Table.from_batches(run(batches(contents, size), plan, OnnxSession(path)))
    assert scored(photos, contents, size).equals(alone)


def test_numbers_are_scored_too(tmp_path: Path) -> None:
    plan, path = plan_of(tmp_path / "doubled.onnx", doubled(2))
    plan = replace(
        plan, preprocessing=None, input_shape=(2,), output_shape=(2,), input_column="x", keep=("x",), digest_column=None
    )
    rows = [pa.RecordBatch.from_pydict({"x": [[float(n), 1.0] for n in range(5000)]}) for _ in range(3)]
    table = pa.Table.from_batches(supervise(iter(rows), plan, path))
    assert table.column("features").to_pylist() == [[2.0 * n, 2.0] for n in range(5000)] * 3


def test_no_rows_give_no_rows(photos: Network) -> None:
    assert list(supervise(iter([]), *photos)) == []


def test_photos_that_crash_the_process_get_errors_and_all_others_their_answers(photos: Network) -> None:
    bad = {0, 31, 32, 63}
    contents: list[bytes | None] = [CRASH if n in bad else png(n) for n in range(64)]
    table = scored(photos, contents)
    check(table, ["crashed" if n in bad else n for n in range(64)])
    message = table.column("error")[31].as_py()["message"]
    assert message == "The scoring process was killed by SIGSEGV while it worked on this row and nothing else."
    digests = table.column("sha256").to_pylist()
    assert digests[62] == hashlib.sha256(png(62)).hexdigest()
    assert digests[31] == hashlib.sha256(CRASH).hexdigest()


def test_a_task_of_nothing_but_photos_that_crash_has_all_its_rows(photos: Network) -> None:
    check(scored(photos, [CRASH]), ["crashed"])
    check(scored(photos, [CRASH, CRASH]), ["crashed"] * 2)


def test_a_photo_that_ends_the_process_politely_gets_an_error_too(photos: Network) -> None:
    table = scored(photos, [png(0), EXIT, png(2)])
    check(table, [0, "crashed", 2])
    assert "ended itself with status 3" in table.column("error")[1].as_py()["message"]


def test_a_photo_that_is_decoded_for_ever_gets_an_error(photos: Network) -> None:
    plan, path = photos
    table = scored((replace(plan, row_timeout_s=1.5), path), [*map(png, range(20)), HANG, *map(png, range(21, 40))])
    check(table, [*range(20), "timeout", *range(21, 40)])
    assert "was stopped after 1.5 s" in table.column("error")[20].as_py()["message"]


def test_a_photo_on_which_the_network_runs_for_ever_gets_an_error(tmp_path: Path) -> None:
    plan, path = plan_of(tmp_path / "endless.onnx", endless(200))
    plan = replace(plan, forward_timeout_s=1.5)
    table = pa.Table.from_batches(supervise(batches([*map(png, range(9)), png(222), *map(png, range(9))]), plan, path))
    features = [None if red == 222 else [red, 0, 0] for red in (*range(9), 222, *range(9))]
    assert table.column("features").to_pylist() == features
    assert [error for error in table.column("error").to_pylist() if error] == [
        {
            "kind": "timeout",
            "message": "The scoring process was stopped after 1.5 s in the network while it worked on this row and "
            "nothing else.",
        }
    ]


def test_a_death_that_no_row_repeats_costs_no_row(photos: Network, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    table = scored(photos, [*map(png, range(30)), crash_once(marker), *map(png, range(31, 60))])
    assert marker.exists()
    check(table, [*range(30), "unreadable", *range(31, 60)])  # what remains of it is no photo


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_killed_from_outside_is_replaced_and_every_row_is_there_once(
    photos: Network, kill: signal.Signals
) -> None:
    killed = []

    def pull() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches([png(n % 200) for n in range(400)], 10)):
            if number in (5, 20, 35):
                [victim] = processes()
                victim.send_signal(kill)
                killed.append(victim.pid)
            yield batch

    check(pa.Table.from_batches(supervise(pull(), *photos)), [n % 200 for n in range(400)])
    assert len(set(killed)) == 3


def test_a_network_that_kills_on_every_row_is_an_error_of_the_job(
    photos: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_MOST_CULPRITS", 3)
    with pytest.raises(WorkerError, match=r"3 rows one after the other killed .* SIGSEGV.*\. .*hardly the rows' fault"):
        scored(photos, [CRASH] * 20)


def test_a_process_that_cannot_start_says_why(photos: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer._end()
    monkeypatch.setattr(scorer, "_START", "import sys; sys.exit('numpy is missing here')")
    with pytest.raises(WorkerError, match=r"ended itself with status 1 .* Its last words: numpy is missing here"):
        scored(photos, [png(1)])


def test_an_error_of_the_engine_is_raised_as_it_was(photos: Network) -> None:
    plan, path = photos
    path.write_bytes(b"altered")
    with pytest.raises(ModelError, match="was altered or cut short") as caught:
        scored((plan, path), [png(1)])
    assert "runtime.py" in str(caught.value.__cause__)


def test_the_limit_on_errors_counts_rows_from_before_and_after_a_crash(photos: Network) -> None:
    plan, path = photos
    contents = [png(1)] * 100 + [None] * 4 + [CRASH] + [png(1)] * 30 + [None] * 12
    with pytest.raises(ErrorRateError, match=r"1\d of 14\d rows of task 0 failed, more than maxErrorRate=0.1 allows"):
        scored((replace(plan, max_error_rate=0.1), path), contents)
    assert scored((replace(plan, max_error_rate=0.2), path), contents).num_rows == 147


@pytest.mark.parametrize(("bad", "kind"), [(b"no photo", "unreadable"), (CRASH, "crashed")])
def test_the_mode_failfast_ends_with_the_first_failed_row_and_names_it(photos: Network, bad: bytes, kind: str) -> None:
    plan, path = photos
    with pytest.raises(ErrorRateError, match=f"The row with path photo30 failed, .*: {kind}: "):
        scored((replace(plan, failfast=True), path), [*map(png, range(30)), bad, png(31)])


def test_large_photos_are_not_piled_up(photos: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_BYTES_PER_THREAD", 100)
    monkeypatch.setattr(supervisor, "_PART_BYTES", 100)
    most = 0
    full = supervisor._Supervisor._full

    def watched(self: supervisor._Supervisor) -> bool:
        nonlocal most
        most = max(most, sum(part.batch.nbytes for part in self._sent))
        return full(self)

    monkeypatch.setattr(supervisor._Supervisor, "_full", watched)
    check(scored(photos, [png(n) for n in range(100)]), list(range(100)))
    assert most < 600


def test_a_process_serves_the_next_task_unless_it_was_left_in_the_midst_of_one(photos: Network) -> None:
    scored(photos, [png(1)])
    [first] = processes()
    scored(photos, [png(1)])
    assert [process.pid for process in processes()] == [first.pid]
    left = supervise(batches([png(1)] * 5000, 1000), *photos)
    next(left)
    left.close()
    assert processes() == []


SUPERVISOR = """
import sys
from scoring.test_supervisor import CRASH, HANG, batches, photos, plan_of, png, supervise
from scoring.photos import channel_means
from pathlib import Path

def pull():
    yield from batches([png(1), *[HANG] * 20])
    print("pulled", flush=True)
    sys.stdin.read()

list(supervise(pull(), *plan_of(Path(sys.argv[1]), channel_means())))
"""


def test_no_process_outlives_its_supervisor(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path / "means.onnx")],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        assert parent.stdout.readline() == "pulled\n"
        [child] = processes(parent.pid)
        parent.kill()
        gone, alive = psutil.wait_procs([child], timeout=10)
    assert gone
    assert not alive


def test_importing_the_supervisor_loads_no_network_engine() -> None:
    module = "sparkwright.scoring.process.supervisor"
    code = f"import sys, {module}; print('onnxruntime' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]
