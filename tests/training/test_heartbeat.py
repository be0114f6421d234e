"""How a gang notices which of its workers failed: its judge, with a clock of the test's own, and its connections."""

import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from sparkwright.training.transports import heartbeat
from sparkwright.training.transports.heartbeat import Address, Awake, Heartbeat, Judge, Pulse, Watch

NAMES = ["Rank 0 (a)", "Rank 1 (b)", "Rank 2 (c)"]


def judge(**pulses: Pulse) -> Judge:
    made = Judge(NAMES, 10)
    for rank in range(3):
        made.hear(rank, pulses.get(f"rank{rank}", Pulse(1)), 0)
    return made


def test_workers_that_get_on_are_left_alone_however_long_one_waits() -> None:
    made = judge()
    for now in range(1, 100):
        made.hear(0, Pulse(1, "rank 1"), now)
        made.hear(1, Pulse(now), now)
        made.hear(2, Pulse(2 * now), now)
        assert made.verdict(now) is None


def test_a_silent_worker_is_named_with_the_place_where_it_was() -> None:
    made = judge(rank2=Pulse(1, None, "in step 7 of replica 5"))
    for rank in (0, 1):
        made.hear(rank, Pulse(2), 9)
    assert made.verdict(10) is None
    assert made.verdict(10.1) == (
        "Rank 2 (c) has been silent for 10 s, last heard of in step 7 of replica 5: its process is stopped, or its "
        "machine cannot be reached."
    )


def test_workers_that_have_not_come_yet_and_what_a_silent_one_said_last_are_not_judged() -> None:
    made = Judge(NAMES, 10)
    made.hear(0, Pulse(1, "rank 1"), 1)
    made.hear(2, Pulse(1), 3)
    assert made.verdict(11) is None
    made.leave(2)
    assert made.verdict(11) is None  # rank 0 waited when it was heard, eleven seconds ago less one


def test_a_worker_that_neither_gets_on_nor_waits_is_stuck() -> None:
    made = judge()
    for now in range(1, 13):
        made.hear(0, Pulse(1, "rank 1"), now)
        made.hear(1, Pulse(1, None, "in step 7 of replica 5"), now)
        made.hear(2, Pulse(now), now)
    assert (
        made.verdict(12) == "Rank 1 (b) has neither got on nor waited for another for 10 s; it is in step 7 of "
        "replica 5. If a step may take that long, raise the limit (`stall_limit_s`)."
    )


def test_workers_that_all_wait_are_stuck_together() -> None:
    made = judge()
    for now in range(1, 13):
        for rank in range(3):
            made.hear(rank, Pulse(1, f"rank {(rank + 1) % 3}"), now)
        assert (made.verdict(now) is None) == (now < 12)
    assert "All workers have waited for one another for 10 s: Rank 0 (a) for rank 1; Rank 1" in str(made.verdict(13))


def test_a_worker_that_said_goodbye_may_be_silent_and_end() -> None:
    made = judge()
    made.leave(1)
    for rank in (0, 2):
        made.hear(rank, Pulse(2), 20)
    assert made.verdict(20) is None
    assert made.lost(1) is None
    assert made.lost(2) == "Rank 2 (c) is gone: its process or its machine ended, last heard of before its first step."


def test_a_clock_stands_still_while_its_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    clock = Awake(2)
    for now[0], expected in ((1, 1), (2.5, 2.5), (500, 4.5), (501, 5.5)):
        assert clock.now() == expected


class Member:
    """A worker in this process."""

    def __init__(self, rank: int, address: Address, limit_s: float = 0.8) -> None:
        self.beats = 0
        self.working = True
        self.stopped = threading.Event()
        self.heart = Heartbeat(rank, NAMES, address, self.pulse, self.stopped.set, limit_s)

    def pulse(self) -> Pulse:
        self.beats += self.working
        return Pulse(self.beats)


@pytest.fixture
def members() -> Iterator[list[Member]]:
    watch = Watch("127.0.0.1", NAMES, 0.8)
    made = [Member(rank, watch.address) for rank in range(3)]
    yield made
    for member in made:
        member.heart.close()
    watch.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sparkwright-watch")]


def test_the_verdict_reaches_all_workers(members: list[Member]) -> None:
    assert members[0].heart.wait(1.2) is None  # half as long again as the limit
    members[1].working = False
    for member in members:
        assert "Rank 1 (b) has neither got on" in str(member.heart.wait(10))
        assert member.stopped.wait(1)
        assert not member.heart.speaks


def test_a_worker_that_fails_tells_the_others_why(members: list[Member]) -> None:
    members[2].heart.close(ValueError("no rows"))
    for member in members[:2]:
        assert member.heart.wait(5) == "Rank 2 (c) failed before its first step: ValueError: no rows"
        assert member.heart.speaks
    assert not members[2].stopped.is_set()


def test_goodbyes_are_no_failures(members: list[Member]) -> None:
    for member in reversed(members):
        member.heart.close()
    assert not any(member.stopped.is_set() for member in members)


def test_when_rank_0_leaves_in_peace_the_others_stop_listening() -> None:
    watch = Watch("127.0.0.1", NAMES, 0.8)
    member = Member(1, watch.address)
    watch.close()
    assert member.heart.wait(2) is None
    assert not member.stopped.is_set()
    member.heart.close()


def test_a_rank_0_that_answers_nothing_is_silent_and_one_whose_connection_ends_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        member = Member(1, Address("127.0.0.1", server.getsockname()[1], ""), limit_s=0.4)
        connection, _ = server.accept()
        assert str(member.heart.wait(10)).startswith("Rank 0 (a) has been silent for 0.4 s")
        member.heart.close()
        connection.close()
        member = Member(1, Address("127.0.0.1", server.getsockname()[1], ""))
        server.accept()[0].close()
        assert member.heart.wait(5) == "Rank 0 (a) is gone: its process or its machine ended."
        member.heart.close()


def test_strangers_are_not_heard(members: list[Member]) -> None:
    host, port = members[0].heart._socket.getpeername()
    for said in (b"GET / HTTP/1.1\n", b"1\n", b"{}\n", json.dumps({"token": "ä", "rank": 1}).encode() + b"\n"):
        with socket.create_connection((host, port), timeout=5) as stranger:
            stranger.sendall(said)
            assert stranger.recv(100) == b""
    assert members[0].heart.wait(0.3) is None


def test_beats_are_far_more_frequent_than_the_limit() -> None:
    assert [heartbeat.beat_s(limit) for limit in (0.1, 0.8, 120)] == [0.05, 0.1, 1.0]


def test_a_worker_whose_parent_died_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    watch = Watch("127.0.0.1", NAMES, 0.8)
    member = Member(0, watch.address)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert ended.wait(5)
    member.heart.close()
    watch.close()
