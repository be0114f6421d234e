"""What is told of an epoch while it lasts."""

from types import SimpleNamespace

import numpy as np
import pytest

from sparkwright.events import EpochAdvanced, Event
from sparkwright.training import pace
from sparkwright.training.pace import Pace
from sparkwright.training.transports.in_process import InProcess


def test_an_epoch_is_told_of_at_most_once_a_second_with_rates_of_all_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    now, events = [100.0], list[Event]()
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    transport = InProcess(2)
    told = Pace(events.append, "selection", 3, np.array([80.0, 40.0]), 10, transport)
    hosted = [SimpleNamespace(index=1, loss_sum=5.0)]
    for number in range(10):
        now[0] += 0.25
        transport.seconds += 0.05
        told.advanced(2, range(number, number + 1), hosted)  # type: ignore[arg-type]
    first, second = events
    assert first == EpochAdvanced("selection", 2, 3, 4, 10, 5 / 16, 48.0, pytest.approx(0.2), 4.0)
    assert isinstance(second, EpochAdvanced)
    assert (second.batches, second.seconds_left) == (8, 3.0)
