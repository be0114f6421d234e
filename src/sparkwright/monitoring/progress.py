"""Progress on the terminal: for every stage the rows done, their rate, the time left and the errors so far.

Example:
    >>> with TerminalProgress() as progress:                # doctest: +SKIP
    ...     bus = Bus([progress])
    ...     bus.emit(StageStarted("features", total=3100))
"""

from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from sparkwright import events
from sparkwright.events import (
    EpochAdvanced,
    EpochEnded,
    RunEnded,
    RunStarted,
    SearchAdvanced,
    StageEnded,
    StageStarted,
    Stamped,
    SyncIntervalChosen,
    TrialEnded,
    TrialMeasured,
    TrialStarted,
    Warned,
    WorkerLost,
)

__all__ = ["TerminalProgress"]


class TerminalProgress:
    """A sink that shows a run on a terminal; it writes nothing where there is none.

    A running stage has a line with a bar; a finished one leaves a line with its rows and seconds.

    Args:
        console: Where to; standard error if not given, so that standard output holds results alone.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, dict[str, events.Progress]] = {}  # stage → task → its last event
        self._validation: list[str] = []  # figures of the last epoch
        self._trials: dict[int, str] = {}  # trial → what is known of it last: running, measured, or how it ended
        self._best = ""
        self._slots = ""
        self._left: float | None = None  # seconds of a search, as it tells

    def __call__(self, stamped: Stamped) -> None:
        """Show one event."""
        if not self._console.is_terminal:
            return
        match stamped.event:
            case RunStarted():
                self._done.clear()
                self._validation.clear()
                self._trials.clear()
                self._best = self._slots = ""
                self._left = None
            case StageStarted() as event:
                self._start(event.stage, event.total, event.unit)
            case events.Progress() as event:
                self._advance(event)
            case EpochAdvanced() as event:
                self._show_batches(event)
            case EpochEnded() as event:
                self._show_epoch(event)
            case TrialStarted() | TrialMeasured() | TrialEnded() as event:
                self._note_trial(event)
            case SearchAdvanced() as event:
                self._slots, self._left = f"{event.working} of {event.slots} slots", event.seconds_left
                self._show_search()
            case StageEnded() as event:
                self._end(event)
            case SyncIntervalChosen() as event:
                self._print(f"replicas combine every {event.every:,} steps ({event.share:.1%} of the time, measured)")
            case Warned() | WorkerLost() as event:
                self._print(f"[yellow]![/] {escape(event.message)}")
            case RunEnded():
                self.close()

    def close(self) -> None:
        """Remove the lines of stages that are not finished."""
        if self._live is not None:
            for task in self._tasks.values():
                self._live.remove_task(task)
            self._live.stop()
            self._live = None
        self._tasks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _start(self, stage: str, total: int, unit: str) -> TaskID:
        self._remove(stage)
        self._done[stage] = {}
        if self._live is None:
            self._live = Progress(
                SpinnerColumn(style="cyan"),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                _Figures(),
                console=self._console,
                transient=True,
            )
            self._live.start()
        name = escape(stage[:1].upper() + stage[1:])
        self._tasks[stage] = self._live.add_task(name, total=total or None, unit=unit, errors=0, note="", left=None)
        return self._tasks[stage]

    def _advance(self, event: events.Progress) -> None:
        task = self._tasks.get(event.stage)
        if task is None:
            task = self._start(event.stage, 0, "rows")
        # A task that runs again counts from its beginning, so that its last event replaces the one before.
        self._done[event.stage][event.task] = event
        parts = self._done[event.stage].values()
        if self._live is not None:
            done, errors = sum(part.done for part in parts), sum(part.errors for part in parts)
            self._live.update(task, completed=done, errors=errors)

    def _show_batches(self, event: EpochAdvanced) -> None:
        stage = "training" if event.phase == "selection" else event.phase
        task = self._tasks.get(stage)
        if task is None:
            task = self._start(stage, event.epochs, "epochs")
        figures = [
            f"loss {event.train_loss:.4g}",
            *self._validation,
            f"{_count(event.rows_per_s, 'rows')}/s",
            f"sync {event.sync_share:.0%}",
        ]
        if self._live is not None:
            done = event.epoch - 1 + event.batches / event.of
            self._live.update(task, completed=done, total=event.epochs, unit="epochs", note=", ".join(figures))

    def _show_epoch(self, event: EpochEnded) -> None:
        task = self._tasks.get("training")
        if task is None:
            task = self._start("training", event.epochs, "epochs")
        self._validation = [f"validation {k} {v:.4g}" for k, v in event.validation.items()]
        figures = [f"loss {event.train_loss:.4g}", *self._validation]
        if self._live is not None:
            self._live.update(task, completed=event.epoch, total=event.epochs, unit="epochs", note=", ".join(figures))

    def _note_trial(self, event: TrialStarted | TrialMeasured | TrialEnded) -> None:
        states = {TrialStarted: "running", TrialMeasured: "measured"}
        self._trials[event.trial] = event.state if isinstance(event, TrialEnded) else states[type(event)]
        if isinstance(event, TrialMeasured):
            self._best = f"best {event.best:.4g}, {event.epochs:,} epochs"
        self._show_search()

    def _show_search(self) -> None:
        """Count the trials that have a figure: most of them end much later, when nothing beats them any more."""
        states_now = list(self._trials.values())
        figures = [figure for figure in (self._slots, self._best) if figure]
        for state, what in (("running", "new"), ("failed", "failed"), ("rejected", "rejected")):
            if state in states_now:
                figures.append(f"{states_now.count(state)} {what}")
        task = self._tasks.get("search")
        if self._live is not None and task is not None:
            # By the highest number: a search that goes on tells of its new trials alone.
            done = max(self._trials, default=-1) + 1 - states_now.count("running")
            self._live.update(task, completed=done, note=", ".join(figures), left=self._left)

    def _end(self, event: StageEnded) -> None:
        unit = "rows"
        if self._live is not None and event.stage in self._tasks:
            unit = next(t.fields["unit"] for t in self._live.tasks if t.id == self._tasks[event.stage])
        parts = [f"[green]✓[/] {escape(event.stage[:1].upper() + event.stage[1:]):<14}{_time(event.seconds):>9}"]
        if event.rows:
            parts.append(_count(event.rows, unit))
            if event.seconds > 0:
                parts.append(f"{_count(event.rows / event.seconds, unit, short=True)}/s")
        if event.errors:
            parts.append(f"[red]{_errors(event.errors)}[/]")
        if event.stage == "search" and self._best:
            parts.append(self._best)
        self._remove(event.stage)
        self._print("   ".join(parts))

    def _remove(self, stage: str) -> None:
        task = self._tasks.pop(stage, None)
        if self._live is not None and task is not None:
            self._live.remove_task(task)
        if not self._tasks:
            self.close()

    def _print(self, line: str) -> None:
        (self._live.console if self._live else self._console).print(line, highlight=False)


class _Figures(ProgressColumn):
    """What follows the bar: how many of how many, rate, time left, errors, and a note."""

    def render(self, task: Task) -> Text:
        unit, total = task.fields["unit"], task.total
        of = f"/{_count(total, unit, short=True)}" if total else ""
        text = Text(f"{_count(task.completed, unit, short=True)}{of}{'' if unit == 'bytes' else f' {unit}'}")
        if task.speed:
            text.append(f"  {_count(task.speed, unit, short=True)}/s", style="dim")
        told = task.fields["left"]  # else by the rate of the last units
        left = task.time_remaining if told is None else told
        if left is not None and total:
            text.append(f"  {_time(left)} left", style="dim")
        if task.fields["errors"]:
            text.append(f"  {_errors(task.fields['errors'])}", style="red")
        if task.fields["note"]:
            text.append(f"  {task.fields['note']}")
        return text


def _count(value: float, unit: str, *, short: bool = False) -> str:
    if unit == "bytes":
        return decimal(int(value))
    figure = f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
    return figure if short else f"{figure} {unit}"


def _errors(count: int) -> str:
    return f"{count:,} error{'s' if count > 1 else ''}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {int(seconds % 60):02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
