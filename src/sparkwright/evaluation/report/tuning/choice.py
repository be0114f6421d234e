"""What was chosen, and from what."""

from collections.abc import Sequence

from sparkwright.evaluation.report.axes import Axis
from sparkwright.evaluation.report.charts import legend
from sparkwright.evaluation.report.markup import (
    NONE,
    Column,
    counted,
    figure,
    metric_name,
    percent,
    section,
    table,
    text,
)
from sparkwright.evaluation.report.tuning.frame import Frame, hover
from sparkwright.evaluation.report.tuning.parameters import Parameter, common, constants, parameters_of, written
from sparkwright.evaluation.report.tuning.record import Candidate, SearchRecord, TrialRecord, shown
from sparkwright.evaluation.report.tuning.score import ScoreAxis

__all__ = ["choice_section"]

_TALL = 20
_ROW = 30  # pixels of a candidate
_NAMED = 5  # categories that are listed


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
        "choice",
        "No configuration could be chosen",
        f"<p>{counted(len(search.trials), 'trial')}, and none gave a figure.</p>",
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
        told.append(f"Trained again with {counted(count, 'other seed')} it reached {search.figure(own.mean)}{spread}.")
        told.append("Mean and spread over the seeds decided, not the luckiest figure of the search.")
    if (search.test is not None or search.optimism) and validation is not None:
        told += _tested(search, validation)
    if search.repeats is not None:
        told.append(
            "The same search again gives the same trials and figures."
            if search.repeats
            else "Results were taken as they came, or a clock decided: the same search again gives other trials."
        )
    return " ".join(told)


def _tested(search: SearchRecord, validation: float) -> list[str]:
    """Return the test figures, and by how much those of the validation rows were better."""
    figures = [] if search.test is None else [f"{search.name} {search.figure(search.test)}"]
    if search.optimism and search.optimism["metric"] != search.metric:
        figures.append(f"{metric_name(search.optimism['metric'])} {percent(search.optimism['test'], 2)}")
    told = [f"<b>On the test rows, opened once, after the choice: {', '.join(figures)}</b>."]
    if search.test is not None and search.comparable:
        gap = search.gain(validation, search.test)
        told.append(f"The validation figure {'flattered' if gap > 0 else 'was worse'} by {search.difference(gap)}.")
    if search.optimism:
        low, high = search.optimism["interval"]
        told.append(
            f"In {metric_name(search.optimism['metric'])} validation rows were ahead of test rows by "
            f"{100 * search.optimism['difference']:.2f} percentage points (95 % interval {100 * low:.2f} to "
            f"{100 * high:.2f}): {'no more than chance may make' if low <= 0 <= high else 'more than chance makes'}."
        )
    if search.refit:
        told.append("The tested model was trained on the validation rows as well.")
    return told


def _searched(search: SearchRecord) -> str:
    count = len(search.trials)
    drawn = f", drawn by {text(search.sampler)}" if search.sampler else ""
    seed = f" with seed {search.seed}" if search.seed is not None else ""
    return f"The search tried {counted(count, 'configuration')}{drawn}{seed}."


def _configuration(search: SearchRecord, best: TrialRecord) -> str:
    """Return the chosen values beside what was tried and what the best trials have in common."""
    parameters = {parameter.name: parameter for parameter in parameters_of(search)}
    top = search.top
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
    names = parameter.categories
    if names:
        return ", ".join(names[:_NAMED]) + (f", … ({len(names)})" if len(names) > _NAMED else "")
    return f"{written(parameter.low)} to {written(parameter.high)}{', log' if parameter.log else ''}"


def _candidates_figure(search: SearchRecord, candidates: Sequence[Candidate]) -> str:
    """Return a line a candidate: its figure with each seed, their mean, and what the search had given."""
    frame = Frame(height=56 + _ROW * len(candidates), left=76, right=20, top=10)
    searched = {trial.number: trial.value for trial in search.trials}
    figures = [score for each in candidates for score in each.scores.values()]
    figures += [value for each in candidates if (value := searched.get(each.trial)) is not None]
    figures += [search.test] if search.test is not None and search.comparable else []
    low, high = min(figures), max(figures)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    axis = Axis(low - margin, high + margin, *frame.x)
    parts = [frame.grid(ScoreAxis(axis, False, search.is_share).ticks(), [], f"validation {search.name}")]
    for place, each in enumerate(candidates):
        y = frame.top + _ROW * (place + 0.5)
        parts.append(f'<line class="grid" x1="{frame.left}" x2="{frame.x[1]}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="name" x="{frame.left - 8}" y="{y + 4}" text-anchor="end">trial {each.trial}</text>')
        parts += _marks(search, each, searched.get(each.trial), axis, y)
    keys = [("validation dot", "chosen, each seed")]
    keys += [("train dot", "others")] if len(candidates) > 1 else []
    keys += [("mean", "mean"), ("pt part", "in the search")]
    keys += [("test", "test")] if search.test is not None and search.comparable else []
    described = ", ".join(f"trial {each.trial} {search.figure(each.mean)}" for each in candidates)
    return figure(frame.svg(f"Candidates: {described}", parts), f"<b>Candidates</b> {legend(keys)}")


def _marks(search: SearchRecord, each: Candidate, value: float | None, axis: Axis, y: float) -> list[str]:
    """Return what stands on a candidate's line; `value` is its figure in the search."""
    chosen = each.trial == search.chosen
    kind = "validation" if chosen else "train"
    dots = [("pt part", value, "in the search")] if value is not None else []
    dots += [(f"dot {kind}", score, f"seed {seed}") for seed, score in each.scores.items()]
    marks = [
        hover("circle", f'class="{style}" cx="{axis(score)}" cy="{y}" r="4"', f"{told}: {search.figure(score)}")
        for style, score, told in dots
    ]
    if each.mean is not None:
        x = axis(each.mean)
        line = f'class="mean" x1="{x}" x2="{x}" y1="{y - 10}" y2="{y + 10}"'
        marks.append(hover("line", line, f"mean: {search.figure(each.mean)}"))
    if chosen and search.test is not None and search.comparable:
        diamond = f'class="test" d="M{axis(search.test)} {y - 7}l7 7l-7 7l-7 -7z"'
        marks.append(hover("path", diamond, f"test: {search.figure(search.test)}"))
    return marks


def _candidates_table(search: SearchRecord, candidates: Sequence[Candidate]) -> str:
    if not candidates:
        return ""
    seeds = list(dict.fromkeys(seed for each in candidates for seed in each.scores))
    searched = {trial.number: trial.value for trial in search.trials}
    columns = [
        Column("Trial", numeric=False),
        Column("In the search"),
        *(Column(f"Seed {seed}") for seed in seeds),
        Column("Mean"),
        Column("Deviation"),
    ]
    rows = []
    for each in candidates:
        scores = [search.figure(each.scores.get(seed)) for seed in seeds]
        deviation = search.spread(each.deviation)
        name = f"{each.trial}{' (chosen)' if each.trial == search.chosen else ''}{' (failed)' if each.failure else ''}"
        rows.append([name, search.figure(searched.get(each.trial)), *scores, search.figure(each.mean), deviation])
    failed = "".join(
        f'<p class="note">Trial {each.trial}: {text(each.failure)}</p>' for each in candidates if each.failure
    )
    return table(columns, rows, caption="Candidates, trained again with other seeds") + failed
