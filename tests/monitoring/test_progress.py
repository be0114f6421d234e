"""What the terminal shows of a run."""

import io

import pytest
from rich.console import Console

from sparkwright.events import (
    Bus,
    EpochAdvanced,
    EpochEnded,
    Progress,
    RunEnded,
    RunStarted,
    SearchAdvanced,
    StageEnded,
    StageStarted,
    SyncIntervalChosen,
    TrialEnded,
    TrialMeasured,
    TrialStarted,
    Warned,
)
from sparkwright.monitoring.progress import TerminalProgress


class Terminal:
    """A terminal 120 columns wide, and a run whose events it shows."""

    def __init__(self, is_terminal=True):
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=is_terminal, width=120, color_system=None)
        self.progress = TerminalProgress(self.console)
        self.emit = Bus([self.progress]).emit

    def line(self):
        """The running stages as they look now."""
        live = self.progress._live
        with self.console.capture() as capture:
            self.console.print(live.get_renderable())
        return capture.get()


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    made.progress.close()


def test_nothing_is_written_where_there_is_no_terminal():
    plain = Terminal(is_terminal=False)
    for event in (
        RunStarted("transfer"),
        StageStarted("features", 10),
        Progress("features", "0", 3),
        Warned("careful"),
    ):
        plain.emit(event)
    plain.emit(StageEnded("features", 1.0, 10))
    plain.emit(RunEnded(ok=True))
    assert plain.file.getvalue() == ""


def test_a_running_stage_shows_rows_of_how_many_and_errors_summed_over_tasks(terminal):
    terminal.emit(StageStarted("features", 3100))
    terminal.emit(Progress("features", "0", 1000, 1))
    terminal.emit(Progress("features", "1", 240, 1))
    assert "Features" in terminal.line()
    assert "1,240/3,100 rows" in terminal.line()
    assert "2 errors" in terminal.line()


def test_a_task_that_runs_again_replaces_its_counts(terminal):
    terminal.emit(StageStarted("features", 100))
    terminal.emit(Progress("features", "0", 60, 4))
    terminal.emit(Progress("features", "0", 10, 1))
    assert "10/100 rows" in terminal.line()
    assert "1 error" in terminal.line()


def test_rate_and_time_left_appear_while_rows_arrive(terminal):
    now = iter(range(0, 10_000))
    terminal.emit(StageStarted("features", 1000))
    terminal.progress._live.get_time = lambda: float(next(now))
    for done in range(100, 600, 100):
        terminal.emit(Progress("features", "0", done))
    line = terminal.line()
    assert "/s" in line
    assert "left" in line


def test_an_unknown_total_shows_rows_alone(terminal):
    terminal.emit(StageStarted("scoring"))
    terminal.emit(Progress("scoring", "0", 7))
    assert "7 rows" in terminal.line()


def test_bytes_are_shown_as_such(terminal):
    terminal.emit(StageStarted("download", 2_000_000, "bytes"))
    terminal.emit(Progress("download", "vgg16", 1_500_000))
    assert "1.5 MB/2.0 MB" in terminal.line()


def test_epochs_show_loss_and_validation(terminal):
    terminal.emit(StageStarted("training", 30, "epochs"))
    terminal.emit(EpochEnded(12, 30, 0.4321, [0.4, 0.5], {"loss": 0.5, "accuracy": 0.905}))
    assert "12/30 epochs" in terminal.line()
    assert "loss 0.4321, validation loss 0.5, validation accuracy 0.905" in terminal.line()


def test_a_long_epoch_shows_how_far_it_is(terminal):
    terminal.emit(StageStarted("training", 30, "epochs"))
    terminal.emit(EpochEnded(2, 30, 0.5, [0.4, 0.5], {"accuracy": 0.905}))
    terminal.emit(EpochAdvanced("selection", 3, 30, 100, 400, 0.4321, 12345.6, 0.04, 95.0))
    assert "2.2/30 epochs" in terminal.line()
    shown = " ".join(terminal.line().split())
    assert "loss 0.4321, validation accuracy 0.905, 12,346 rows/s, sync 4%" in shown
    terminal.emit(EpochAdvanced("refit", 1, 12, 1, 2, 0.4, 12345.6, 0.04, 95.0))
    assert "0.5/12 epochs" in terminal.line()


def test_epochs_without_a_stage_of_their_own_are_shown_too(terminal):
    terminal.emit(EpochEnded(1, 3, 0.5, [0.5]))
    assert "1/3 epochs" in terminal.line()


def test_a_search_shows_trials_with_a_figure_the_best_and_what_failed(terminal):
    terminal.emit(StageStarted("search", 50, "trials"))
    for trial in range(4):
        terminal.emit(TrialStarted(trial, {"learning_rate": 0.1}))
    terminal.emit(TrialMeasured(0, 3, 0.91, 0.91, epochs=3))
    terminal.emit(TrialMeasured(1, 3, 0.90, 0.91, epochs=6))
    terminal.emit(TrialEnded(2, "failed", None, "NotFiniteError: the loss is not finite"))
    shown = " ".join(terminal.line().split())
    assert "3/50 trials" in shown
    assert "best 0.91, 6 epochs, 1 new, 1 failed" in shown
    terminal.emit(TrialMeasured(0, 9, 0.95, 0.95, epochs=12))  # a trial that goes on counts once
    assert "3/50 trials" in terminal.line()
    terminal.emit(StageEnded("search", 60.0, 50))
    left = terminal.file.getvalue()
    for part in ("✓ Search", "50 trials", "best 0.95, 12 epochs"):
        assert part in left


def test_a_search_shows_slots_at_work_and_the_time_that_it_tells(terminal):
    terminal.emit(StageStarted("search", 50, "trials"))
    terminal.emit(SearchAdvanced(1, 4))
    assert "1 of 4 slots" in terminal.line()
    terminal.emit(TrialMeasured(0, 3, 0.91, 0.91, epochs=3))
    terminal.emit(SearchAdvanced(4, 4, 95.0))
    shown = " ".join(terminal.line().split())
    assert "1 min 35 s left" in shown
    assert "4 of 4 slots, best 0.91, 3 epochs" in shown


def test_a_search_that_goes_on_counts_the_trials_of_before(terminal):
    terminal.emit(StageStarted("search", 50, "trials"))
    for trial in (40, 41):
        terminal.emit(TrialStarted(trial, {"learning_rate": 0.1}))
    terminal.emit(TrialMeasured(3, 9, 0.91, 0.91, epochs=200))
    terminal.emit(TrialMeasured(40, 3, 0.90, 0.91, epochs=203))
    assert "41/50 trials" in terminal.line()


def test_a_finished_stage_leaves_a_line_with_rows_seconds_rate_and_errors(terminal):
    terminal.emit(StageStarted("features", 3100))
    terminal.emit(StageEnded("features", 31.0, 3100, 3))
    terminal.emit(RunEnded(ok=True))
    left = terminal.file.getvalue()
    for part in ("✓ Features", "31 s", "3,100 rows", "100/s", "3 errors"):
        assert part in left


def test_warnings_are_printed_as_they_are(terminal):
    terminal.emit(Warned("class [cat] has one photo"))
    assert "! class [cat] has one photo" in terminal.file.getvalue()


def test_a_measured_sync_interval_is_printed(terminal):
    terminal.emit(SyncIntervalChosen(19, 0.001, 0.001, 0.05, 0.05))
    assert "replicas combine every 19 steps (5.0% of the time, measured)" in terminal.file.getvalue()


def test_the_end_of_a_run_removes_unfinished_stages(terminal):
    terminal.emit(StageStarted("features", 10))
    terminal.emit(RunEnded(ok=False, message="the disk is full"))
    assert terminal.progress._live is None
    assert "✓" not in terminal.file.getvalue()


def test_long_times_are_minutes_and_hours(terminal):
    terminal.emit(StageEnded("training", 75))
    terminal.emit(StageEnded("features", 7260))
    assert "1 min 15 s" in terminal.file.getvalue()
    assert "2 h 01 min" in terminal.file.getvalue()
