"""What was chosen and why, all configurations in a table, and those that came to nothing."""

from collections.abc import Sequence

from sparkwright.evaluation.report.axes import Axis
from sparkwright.evaluation.report.charts import legend
from sparkwright.evaluation.report.markup import NONE, Cell, Column, figure, percent, seconds, section, table, text
from sparkwright.evaluation.report.tuning.frame import Frame
from sparkwright.evaluation.report.tuning.parameters import Parameter, common, constants, parameters_of, written
from sparkwright.evaluation.report.tuning.record import Candidate, SearchRecord, TrialRecord, shown
from sparkwright.evaluation.report.tuning.score import ScoreAxis

__all__ = ["choice_section", "failures_section", "trials_section"]

_LISTED = 400  # trials of the table; more make the page heavy
_TALL = 20
_LEAST = 1e308  # what sorts after every number


def choice_section(search: SearchRecord) -> str:
    """Return the chosen configuration, its figures on validation and test rows, and the others it was chosen from."""
    best = search.best
    if best is None:
        return _nothing(search)
    candidates = sorted(
        search.candidates, key=lambda each: (each.trial != best.number, -_worth(search, each), each.trial)
    )
    chart = _candidates_figure(search, candidates) if any(each.scores for each in candidates) else ""
    parts = f'<div class="beside">{_configuration(search, best)}{chart}</div>{_candidates_table(search, candidates)}'
    return section(
        "choice",
        "The chosen configuration" if search.chosen is not None else "The best configuration",
        parts,
        note=_told(search, best, candidates),
    )


def _nothing(search: SearchRecord) -> str:
    if not search.trials:
        return ""
    return section(
        "choice", "No configuration could be chosen", f"<p>None of {len(search.trials)} trials gave a figure.</p>"
    )


def _worth(search: SearchRecord, candidate: Candidate) -> float:
    return search.gain(candidate.mean, 0.0) if candidate.mean is not None else float("-inf")


def _told(search: SearchRecord, best: TrialRecord, candidates: Sequence[Candidate]) -> str:
    own = next((each for each in candidates if each.trial == best.number), None)
    told = [
        f"{_searched(search)} Trial {best.number} reached {search.figure(best.value)} validation {search.name} in it."
    ]
    validation = best.value
    if own is not None and own.mean is not None:
        validation, count = own.mean, len(own.scores)
        spread = f" (standard deviation {search.difference(own.deviation)})" if own.deviation is not None else ""
        told.append(
            f"Trained again with {count} other seed{'s' if count != 1 else ''} it reached {search.figure(own.mean)}{spread}."
        )
        told.append("Mean and spread over the seeds decided, not the luckiest figure of the search.")
    if search.test is not None and validation is not None:
        gap = search.gain(validation, search.test)
        told.append(f"<b>On the test rows, opened once, after the choice: {search.figure(search.test)}</b>;")
        told.append(
            f"the validation figure flattered by {search.difference(gap)}."
            if gap > 0
            else f"the validation figure did not flatter: the test figure is better by {search.difference(gap)}."
        )
        if search.refit:
            told.append("The tested model was trained on the validation rows as well.")
    if search.repeats is not None:
        told.append(
            "The same search again gives the same trials and figures."
            if search.repeats
            else "Results were taken as they came, so that the same search again gives other trials."
        )
    return " ".join(told)


def _searched(search: SearchRecord) -> str:
    count = len(search.trials)
    drawn = f", drawn by {text(search.sampler)}" if search.sampler else ""
    seed = f" with seed {search.seed}" if search.seed is not None else ""
    return f"The search tried {count:,} configuration{'s' if count != 1 else ''}{drawn}{seed}."


def _configuration(search: SearchRecord, best: TrialRecord) -> str:
    """Return the chosen values beside what was tried and what the best trials have in common."""
    parameters = {parameter.name: parameter for parameter in parameters_of(search)}
    top = search.scored[: max(3, len(search.scored) // 10)] if len(search.scored) >= 20 else []
    rows = []
    for name in [*parameters, *constants(search)]:
        parameter = parameters.get(name)
        value = shown(best.values[name]) if name in best.values else NONE
        row = [name, value, _tried(parameter) if parameter else "only this"]
        rows.append([*row, common(parameter, top) if parameter else ""] if top else row)
    columns = [
        Column("Parameter", numeric=False),
        Column("Chosen" if search.chosen is not None else "Best", numeric=False),
        Column("Tried", numeric=False),
    ]
    columns += (
        [Column(f"The best {len(top)}", numeric=False, hint="what the trials with the best figures have")]
        if top
        else []
    )
    return table(columns, rows, caption="Configuration", tall=len(rows) > _TALL)


def _tried(parameter: Parameter) -> str:
    if parameter.categories:
        return ", ".join(parameter.categories[:8]) + (
            f", … ({len(parameter.categories)})" if len(parameter.categories) > 8 else ""
        )
    return f"{written(parameter.low)} to {written(parameter.high)}{', log' if parameter.log else ''}"


def _candidates_figure(search: SearchRecord, candidates: Sequence[Candidate]) -> str:
    """Return a line a candidate: its figure with each seed, their mean, and what the search had given."""
    row = 30
    frame = Frame(height=56 + row * len(candidates), left=76, right=20, top=10)
    searched = {trial.number: trial.value for trial in search.trials}
    figures = [score for each in candidates for score in each.scores]
    figures += [value for each in candidates if (value := searched.get(each.trial)) is not None]
    figures += [search.test] if search.test is not None else []
    low, high = min(figures), max(figures)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    axis = Axis(low - margin, high + margin, *frame.x)
    parts = [frame.grid(ScoreAxis(axis, False, search.is_share).ticks(), [], f"validation {search.name}")]
    for place, each in enumerate(candidates):
        y = frame.top + row * place + row / 2
        told = "chosen" if each.trial == search.chosen else "candidate"
        kind = "validation" if each.trial == search.chosen else "train"
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{frame.x[1]}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="name" x="{frame.left - 8}" y="{y + 4}" text-anchor="end">trial {each.trial}</text>')
        value = searched.get(each.trial)
        if value is not None:
            parts.append(
                f'<circle class="pt part" cx="{axis(value)}" cy="{y}" r="4"><title>in the search: {search.figure(value)}</title></circle>'
            )
        parts += [
            f'<circle class="dot {kind}" cx="{axis(score)}" cy="{y}" r="4"><title>{told}: {search.figure(score)}</title></circle>'
            for score in each.scores
        ]
        if each.mean is not None:
            x = axis(each.mean)
            parts.append(
                f'<line class="mean" x1="{x}" x2="{x}" y1="{y - 10}" y2="{y + 10}"><title>mean: {search.figure(each.mean)}</title></line>'
            )
        if each.trial == search.chosen and search.test is not None:
            x = axis(search.test)
            parts.append(
                f'<path class="test" d="M{x} {y - 7}l7 7l-7 7l-7 -7z"><title>test: {search.figure(search.test)}</title></path>'
            )
    keys = [
        ("validation dot", "chosen, each seed"),
        ("train dot", "others"),
        ("mean", "mean"),
        ("pt part", "in the search"),
    ]
    keys += [("test", "test")] if search.test is not None else []
    described = ", ".join(f"trial {each.trial} {search.figure(each.mean)}" for each in candidates)
    return figure(frame.svg(f"Candidates: {described}", parts), f"<b>Candidates</b> {legend(keys)}")


def _candidates_table(search: SearchRecord, candidates: Sequence[Candidate]) -> str:
    if not candidates:
        return ""
    seeds = max(len(each.scores) for each in candidates)
    searched = {trial.number: trial.value for trial in search.trials}
    columns = [
        Column("Trial", numeric=False),
        Column("In the search"),
        *(Column(f"Seed {n + 1}") for n in range(seeds)),
        Column("Mean"),
        Column("Deviation"),
    ]
    rows = []
    for each in candidates:
        scores = [search.figure(score) for score in each.scores] + [NONE] * (seeds - len(each.scores))
        deviation = (
            NONE
            if each.deviation is None
            else percent(each.deviation, 2)
            if search.is_share
            else f"{each.deviation:.2g}"
        )
        name = f"{each.trial}{' (chosen)' if each.trial == search.chosen else ''}{' (failed)' if each.failure else ''}"
        rows.append([name, search.figure(searched.get(each.trial)), *scores, search.figure(each.mean), deviation])
    failed = "".join(
        f'<p class="note">Trial {each.trial}: {text(each.failure)}</p>' for each in candidates if each.failure
    )
    return table(columns, rows, caption="Candidates, trained again with other seeds") + failed


def trials_section(search: SearchRecord) -> str:
    """Return all trials in a table that sorts, the best first."""
    if not search.trials:
        return ""
    parameters = parameters_of(search)
    scored = search.scored
    ordered = [*scored, *(trial for trial in search.trials if trial.value is None)]
    others = [name for name in search.objectives if name != search.metric]
    columns = [
        Column("Rank"),
        Column("Trial"),
        Column(search.name.capitalize()),
        Column("State", numeric=False),
        Column("Epochs"),
        Column("Time"),
        *(Column(name.replace("_", " ").capitalize()) for name in others),
        *(Column(parameter.name, numeric=not parameter.categories) for parameter in parameters),
    ]
    rows = []
    for rank, trial in enumerate(ordered[:_LISTED], 1):
        state = "chosen" if trial.number == search.chosen else trial.state
        rows.append(
            [
                str(rank),
                Cell(str(trial.number), trial.number),
                _sortable(search.figure(trial.value), trial.value, search.direction),
                state,
                Cell(str(trial.epochs), trial.epochs),
                Cell(seconds(trial.seconds), trial.seconds),
                *(
                    _sortable(
                        f"{trial.objectives[name]:.4g}" if name in trial.objectives else NONE,
                        trial.objectives.get(name),
                        search.objectives[name],
                    )
                    for name in others
                ),
                *(_value(parameter, trial) for parameter in parameters),
            ]
        )
    left_out = len(ordered) - len(rows)
    note = "The best first; a click on a heading sorts." + (
        f" The {left_out:,} worst are left out here." if left_out else ""
    )
    same = "; ".join(f"{text(name)} {text(value)}" for name, value in constants(search).items())
    note += f" The same in all: {same}." if same else ""
    return section(
        "trials",
        "All configurations",
        table(columns, rows, caption="Trials", sorted_by=0, tall=len(rows) > _TALL),
        note=note,
    )


def _value(parameter: Parameter, trial: TrialRecord) -> Cell:
    value = parameter.of(trial)
    if parameter.categories:
        return Cell(NONE if value is None else value)
    return _sortable(NONE if value is None else f"{value:.4g}", value, "max")


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
    note = f"Of {len(search.trials)} trials {failed} failed; {len(lost) - failed} were rejected before their training, because they break a limit that was set or cannot be trained so."
    return section("failures", "Trials that came to nothing", table(columns, rows, caption="Reasons"), note=note)
