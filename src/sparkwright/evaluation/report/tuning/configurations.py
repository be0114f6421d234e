"""All configurations in a table, and why some came to nothing."""

from sparkwright.evaluation.report.markup import (
    NONE,
    SHARES,
    Cell,
    Column,
    counted,
    metric_name,
    percent,
    seconds,
    section,
    table,
    text,
)
from sparkwright.evaluation.report.tuning.parameters import Parameter, constants, parameters_of
from sparkwright.evaluation.report.tuning.record import SearchRecord, TrialRecord

__all__ = ["failures_section", "trials_section"]

_LISTED = 400  # trials of the table; more make the page heavy
_TALL = 20
_LEAST = 1e308  # what sorts after every number


def trials_section(search: SearchRecord) -> str:
    """Return all trials in a table that sorts, the best first."""
    if not search.trials:
        return ""
    parameters = parameters_of(search)
    scored = search.scored
    ordered = [*scored, *(trial for trial in search.trials if trial.value is None)]
    others = {name: direction for name, direction in search.objectives.items() if name != search.metric}
    if search.metric != "accuracy" and any("accuracy" in trial.metrics for trial in scored):
        others |= {"accuracy": "max"}  # what people ask for, whatever decides
    columns = [
        Column("Rank"),
        Column("Trial"),
        Column(_heading(search.metric)),
        Column("State", numeric=False),
        Column("Epochs"),
        Column("Time"),
        *(Column(_heading(name)) for name in others),
        *(Column(parameter.name, numeric=not parameter.categories) for parameter in parameters),
    ]
    ranked = [str(rank) for rank in range(1, len(scored) + 1)] + [NONE] * (len(ordered) - len(scored))
    rows = [
        [
            Cell(rank),
            Cell(str(trial.number), trial.number),
            _sortable(search.figure(trial.value), trial.value, search.direction),
            "chosen" if trial.number == search.chosen else trial.state,
            Cell(str(trial.epochs), trial.epochs),
            Cell(seconds(trial.seconds), trial.seconds),
            *(_figure(name, trial.metrics.get(name), direction) for name, direction in others.items()),
            *(_value(parameter, trial) for parameter in parameters),
        ]
        for rank, trial in zip(ranked[:_LISTED], ordered, strict=False)
    ]
    left_out = len(ordered) - len(rows)
    note = "The best first; a click on a heading sorts."
    note += f" The {left_out:,} worst are left out here." if left_out else ""
    same = "; ".join(f"{text(name)} {text(value)}" for name, value in constants(search).items())
    note += f" The same in all: {same}." if same else ""
    listed = table(columns, rows, caption="Trials", sorted_by=0, tall=len(rows) > _TALL)
    return section("trials", "All configurations", listed, note=note)


def _heading(metric: str) -> str:
    name = metric_name(metric)
    return name[0].upper() + name[1:]


def _value(parameter: Parameter, trial: TrialRecord) -> Cell:
    value = parameter.of(trial)
    if parameter.categories:
        return Cell(NONE if value is None else value)
    return _number(value, "max")


def _figure(metric: str, value: float | None, direction: str) -> Cell:
    if metric.endswith(SHARES):
        return _sortable(percent(value, 2), value, direction)
    return _number(value, direction)


def _number(value: float | None, direction: str) -> Cell:
    return _sortable(
        NONE if value is None else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}", value, direction
    )


def _sortable(words: str, value: float | None, direction: str) -> Cell:
    """Return a cell of a number; what has none sorts as the worst."""
    return Cell(words, value if value is not None else -_LEAST if direction == "max" else _LEAST)


def failures_section(search: SearchRecord) -> str:
    """Return why trials failed or were refused, counted; nothing where all went well."""
    lost = [trial for trial in search.trials if trial.state in ("failed", "rejected")]
    if not lost:
        return ""
    kinds: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in lost:
        kinds.setdefault((trial.state, trial.reason.split(":", 1)[0].strip() or "no reason is known"), []).append(trial)
    rows = []
    for (state, kind), trials in sorted(kinds.items(), key=lambda each: (-len(each[1]), each[0])):
        numbers = ", ".join(str(trial.number) for trial in trials[:5]) + (", …" if len(trials) > 5 else "")
        rows.append([kind, state, str(len(trials)), numbers, trials[0].reason])
    columns = [
        Column("Reason", numeric=False),
        Column("State", numeric=False),
        Column("Trials"),
        Column("Which", numeric=False),
        Column("The first in full", numeric=False),
    ]
    failed = sum(trial.state == "failed" for trial in lost)
    note = (
        f"Of {counted(len(search.trials), 'trial')} {failed} failed; {len(lost) - failed} were rejected before their "
        "training, because they break a limit that was set or cannot be trained so."
    )
    return section("failures", "Trials that came to nothing", table(columns, rows, caption="Reasons"), note=note)
