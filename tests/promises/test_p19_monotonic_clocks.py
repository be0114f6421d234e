"""P19: timings use monotonic clocks of one process; nothing needs NTP or the internet."""

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest

import sparkwright
from sparkwright import events
from sparkwright.events import Bus, Warned

ROOT = Path(sparkwright.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))


def wall_clock_calls(source: str) -> list[str]:
    """Calls that read the wall clock, but for stamps: ``datetime.now(UTC).isoformat(…)``."""
    tree = ast.parse(source)
    stamps = {
        id(node.func.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "isoformat"
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and id(node) not in stamps:
            owner = ast.unparse(node.func.value)
            reads_time = owner == "time" and node.func.attr in {"time", "time_ns"}
            reads_date = owner.endswith(("datetime", "date")) and node.func.attr in {"now", "utcnow", "today"}
            if reads_time or reads_date:
                found.append(ast.unparse(node))
    return found


def test_the_search_for_wall_clocks_finds_them():
    assert wall_clock_calls("start = time.time(); datetime.now(UTC); datetime.now(UTC).isoformat()") == [
        "time.time()",
        "datetime.now(UTC)",
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_wall_clock_is_for_stamps_alone(path):
    assert wall_clock_calls(path.read_text(encoding="utf-8")) == []


def test_a_clock_that_is_set_back_changes_no_duration(monkeypatch):
    stamped = []
    bus = Bus([stamped.append])
    years = iter((2030, 2001))

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(next(years), 1, 1, tzinfo=UTC)

    monkeypatch.setattr(events, "datetime", Clock)
    bus.emit(Warned("first"))
    bus.emit(Warned("second"))
    first, second = stamped
    assert first.time.startswith("2030")
    assert second.time.startswith("2001")
    assert 0 <= first.elapsed_s <= second.elapsed_s < 60
