"""Events, their file, and their way from other processes to the driver."""

import contextlib
import json
import logging
import multiprocessing
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from sparkwright.events import (
    Address,
    Bus,
    Channel,
    EpochAdvanced,
    EpochEnded,
    Event,
    EventFile,
    LayersMeasured,
    PhotosAugmented,
    Progress,
    RunEnded,
    RunStarted,
    SearchAdvanced,
    Sender,
    StageEnded,
    StageStarted,
    SyncIntervalChosen,
    TaskTimed,
    TrainingRefused,
    TrialEnded,
    TrialMeasured,
    TrialStarted,
    Warned,
    WorkerLost,
    ignore,
    read_events,
)

EVENTS = [
    RunStarted("transfer", {"network": "vgg16", "split": [0.6, 0.2, 0.2]}),
    StageStarted("features", 3100),
    Progress("features", "0", 32, 1),
    TaskTimed("features", "0", 32, {"decode": 0.1, "forward": 0.4}),
    StageEnded("features", 1.5, 3100, 1),
    EpochAdvanced("selection", 2, 30, 100, 400, 0.5, 12000.0, 0.04, 95.0),
    EpochEnded(1, 30, 0.5, [0.4, 0.6], {"loss": 0.7}, best=True),
    SyncIntervalChosen(19, 0.001, 0.001, 0.05, 0.05),
    LayersMeasured("selection", 1, 200, [{"name": "fc", "update_ratio": 1e-3, "gradient_norm": 0.1, "dead": None}]),
    WorkerLost("Rank 1 of 2 is gone"),
    TrainingRefused("ColumnError", "3 rows cannot be trained on"),
    TrialStarted(3, {"learning_rate": 0.01, "hidden": [64, 32]}),
    TrialMeasured(3, 9, 0.41, 0.39, 12.5, 117),
    TrialEnded(3, "stopped", 0.41, "not among the best third at epoch 9"),
    SearchAdvanced(2, 4, 95.0),
    Warned("Ünïcode, a\nline break and \u2028 too"),
    RunEnded(ok=True, metrics={"test": {"accuracy": 0.9}}),
    PhotosAugmented("/9j/4AAQ"),
]


class Gathered:
    """Events as they arrive from a channel's threads."""

    def __init__(self):
        self.events = []
        self._arrived = threading.Condition()

    def emit(self, event):
        with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    def wait_for(self, count, timeout_s=20):
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.events) >= count, timeout_s), self.events
        return self.events


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_survives_json(event):
    assert Event.from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_every_kind_of_event_is_tried_here():
    assert {type(event).__name__ for event in EVENTS} == set(Event.kinds)


def test_an_event_of_an_unknown_kind_or_with_unknown_fields_is_refused():
    with pytest.raises(KeyError, match="Party"):
        Event.from_dict({"kind": "Party"})
    with pytest.raises(TypeError, match="volume"):
        Event.from_dict({"kind": "Warned", "message": "m", "volume": 11})


def test_ignore_takes_any_event():
    assert [ignore(event) for event in EVENTS] == [None] * len(EVENTS)


def test_a_bus_stamps_events_with_rising_clocks_and_gives_each_to_every_sink():
    first, second = [], []
    bus = Bus([first.append, second.append])
    for event in EVENTS:
        bus.emit(event)
    assert first == second
    assert [stamped.event for stamped in first] == EVENTS
    elapsed = [stamped.elapsed_s for stamped in first]
    assert elapsed == sorted(elapsed)
    assert first[0].time.endswith("+00:00")


def test_a_sink_that_raises_is_logged_and_stops_neither_the_job_nor_other_sinks(caplog):
    def broken(stamped):
        raise ValueError("the disk is full")

    seen = []
    bus = Bus([broken, seen.append])
    with caplog.at_level(logging.ERROR):
        bus.emit(Warned("a"))
        bus.emit(Warned("b"))
    assert len(seen) == 2
    assert caplog.text.count("ValueError: the disk is full") == 2


def test_sinks_are_called_one_at_a_time_from_many_threads():
    inside, seen = [], []

    def sink(stamped):
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.0005)
        inside.pop()
        seen.append(stamped)

    bus = Bus([sink])
    threads = [threading.Thread(target=lambda: [bus.emit(Warned("x")) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 80


def test_an_event_file_reads_back_as_written(tmp_path):
    path = tmp_path / "events.jsonl"
    seen, file = [], EventFile(path)
    bus = Bus([file, seen.append])
    for event in EVENTS:
        bus.emit(event)
    file.close()
    with path.open(encoding="utf-8") as lines:
        assert read_events(lines) == seen


def test_an_event_file_goes_on_where_it_ended(tmp_path):
    for message in ("first", "second"):
        file = EventFile(tmp_path / "events.jsonl")
        Bus([file]).emit(Warned(message))
        file.close()
    with (tmp_path / "events.jsonl").open(encoding="utf-8") as lines:
        assert [stamped.event for stamped in read_events(lines)] == [Warned("first"), Warned("second")]


def test_lines_that_are_cut_short_or_of_another_version_are_left_out():
    good = '{"time": "t", "elapsed_s": 1.0, "kind": "Warned", "message": "m"}'
    lines = [
        good,
        good[:30],
        "",
        "[1]",
        '{"time": "t", "elapsed_s": 1.0, "kind": "Party"}',
        '{"kind": "Warned"}',
        "null",
    ]
    assert [stamped.event for stamped in read_events(lines)] == [Warned("m")]


def test_events_of_a_sender_arrive_in_order():
    got = Gathered()
    with Channel(got.emit) as channel, Sender(channel.address) as sender:
        for event in EVENTS:
            sender.emit(event)
        assert got.wait_for(len(EVENTS)) == EVENTS


def test_closing_a_channel_delivers_what_was_sent_before():
    got = Gathered()
    with Channel(got.emit) as channel, Sender(channel.address) as sender:
        for place in range(500):
            sender.emit(Progress("features", "0", place))
    assert [event.done for event in got.events] == list(range(500))


def test_an_address_is_small_picklable_and_does_not_show_its_token():
    with Channel(ignore, hosts=["driver.example"]) as channel:
        address = channel.address
    assert pickle.loads(pickle.dumps(address)) == address
    assert len(pickle.dumps(address)) < 500
    assert address.token not in repr(address)
    assert address.hosts[0] == "driver.example"
    assert "127.0.0.1" in address.hosts


def _send_many(address, task, count):
    with Sender(address) as sender:
        for done in range(count):
            sender.emit(Progress("features", task, done))


def test_many_senders_at_once_lose_nothing():
    got = Gathered()
    with Channel(got.emit) as channel:
        tasks = [str(i) for i in range(40)]
        threads = [threading.Thread(target=_send_many, args=(channel.address, task, 50)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        got.wait_for(40 * 50)
    for task in tasks:
        assert [event.done for event in got.events if event.task == task] == list(range(50))


def test_senders_in_other_processes_reach_the_driver():
    got = Gathered()
    context = multiprocessing.get_context("spawn")
    with Channel(got.emit) as channel:
        processes = [context.Process(target=_send_many, args=(channel.address, str(i), 20)) for i in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        got.wait_for(60)
    assert {event.task for event in got.events} == {"0", "1", "2"}


def test_a_wrong_token_is_refused_and_the_connection_closed():
    got = Gathered()
    with Channel(got.emit) as channel:
        address = channel.address
        with socket.create_connection(("127.0.0.1", address.port), timeout=10) as intruder:
            intruder.sendall(b"wrong token\n" + json.dumps(Warned("intruder").to_dict()).encode() + b"\n")
            with contextlib.suppress(ConnectionResetError):  # closed with unread bytes: a refusal too
                assert intruder.recv(1) == b""
        with Sender(Address(address.hosts, address.port, "wrong")) as sender:
            sender.emit(Warned("wrong"))
        with Sender(address) as sender:
            sender.emit(Warned("right"))
            got.wait_for(1)
    assert got.events == [Warned("right")]


def test_lines_that_are_no_events_are_left_out_and_the_next_ones_arrive(caplog):
    got = Gathered()
    with (
        caplog.at_level(logging.WARNING),
        Channel(got.emit) as channel,
        socket.create_connection(("127.0.0.1", channel.address.port), timeout=10) as raw,
    ):
        raw.sendall(f"{channel.address.token}\n".encode())
        raw.sendall(b'not json\n{"kind": "Party"}\n\xff\xfe\n')
        raw.sendall(json.dumps(Warned("after").to_dict()).encode() + b"\n")
        got.wait_for(1)
    assert got.events == [Warned("after")]
    assert caplog.text.count("not understood") == 3


def test_a_driver_that_cannot_be_reached_costs_little_and_stops_nothing(caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # closed again when the sender tries
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), Sender(Address(("127.0.0.1", "no.such.host.invalid"), port, "t")) as sender:
        for _ in range(1000):
            sender.emit(Warned("dropped"))
    assert time.monotonic() - started < 20
    assert "cannot be reached" in caplog.text


def test_a_driver_that_could_not_be_reached_is_tried_again_after_a_minute_only(monkeypatch):
    tried = []

    def refused(place, timeout):
        tried.append(place)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", refused)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    address = Address(("driver", "127.0.0.1"), 1, "a token of its own")
    for _ in range(3):
        Sender(address)
    assert tried == [("driver", 1), ("127.0.0.1", 1)]
    now += 61
    Sender(address)
    assert len(tried) == 4


def test_a_sender_tries_the_next_host_when_one_does_not_answer():
    got = Gathered()
    with Channel(got.emit) as channel:
        address = Address(("no.such.host.invalid", "127.0.0.1"), channel.address.port, channel.address.token)
        with Sender(address) as sender:
            sender.emit(Warned("here"))
            assert got.wait_for(1) == [Warned("here")]


def test_a_sender_without_an_address_sends_nothing():
    with Sender(None) as sender:
        sender.emit(Warned("nobody"))
        assert sender._socket is None


def test_a_driver_that_goes_away_stops_no_sender():
    channel = Channel(ignore)
    with Sender(channel.address) as sender:
        sender.emit(Warned("first"))
        channel.close()
        for _ in range(200):
            sender.emit(Warned("dropped"))
            time.sleep(0.001)
        assert sender._socket is None  # it noticed, and raised nothing


def test_a_sender_that_is_killed_leaves_what_it_sent_and_harms_no_other():
    got = Gathered()
    code = (
        "import sys, time\n"
        "from sparkwright.events import Address, Progress, Sender\n"
        "sender = Sender(Address(('127.0.0.1',), int(sys.argv[1]), sys.argv[2]))\n"
        "for done in range(5): sender.emit(Progress('features', 'doomed', done))\n"
        'sender._socket.sendall(b\'{"kind": "Progr\')\n'
        "time.sleep(60)\n"
    )
    with Channel(got.emit) as channel:
        arguments = [str(channel.address.port), channel.address.token]
        doomed = subprocess.Popen([sys.executable, "-c", code, *arguments])
        try:
            got.wait_for(5)
        finally:
            doomed.send_signal(signal.SIGKILL)
            doomed.wait(10)
        with Sender(channel.address) as sender:
            sender.emit(Warned("alive"))
            got.wait_for(6)
    assert [event.done for event in got.events[:5]] == list(range(5))
    assert got.events[5] == Warned("alive")


def test_a_channel_closes_in_time_while_senders_are_silent():
    channel = Channel(ignore)
    senders = [Sender(channel.address) for _ in range(5)]
    started = time.monotonic()
    channel.close(timeout_s=3)
    assert time.monotonic() - started < 6
    for sender in senders:
        sender.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", channel.address.port), timeout=2)
