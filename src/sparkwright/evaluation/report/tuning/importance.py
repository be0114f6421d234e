"""How much of the figures' differences each parameter explains."""

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparkwright.evaluation.report.axes import Axis
from sparkwright.evaluation.report.markup import percent, section, text
from sparkwright.evaluation.report.tuning.frame import Frame, cut
from sparkwright.evaluation.report.tuning.parameters import Parameter, parameters_of
from sparkwright.evaluation.report.tuning.record import SearchRecord
from sparkwright.evaluation.report.tuning.score import ranks

__all__ = ["importance_section", "measure_importance"]

_FEWEST = 8  # trials, below which nothing can be said
_ENOUGH = 40  # trials, from which on fANOVA divides the variance
_TREES = 64
_EXPLAINED = 0.3  # share of the variance: a forest that explains less knows too little


def measure_importance(search: SearchRecord) -> dict[str, Any] | None:
    """Return how much each parameter matters to the trials' ranks; None with few trials, or where all came out alike.

    Ranks, because figures that went astray would outweigh all others.

    With at least 40 trials, of which each has all parameters: fANOVA (Hutter et al. 2014), Optuna's. Else by how much a
    random forest of scikit-learn is worse at telling the rank where a parameter's values are shuffled among trials
    (Breiman 2001); a parameter that a trial does not have is a value of its own. Trials that were stopped early count
    with what they had reached. Repeats: the seed is 0.

    Returns:
        ``{"method": "fanova" | "forest", "trials": how many, "shares": {parameter: share}, "explained": share of the
        variance that the forest explained of trials it had not seen, or None}``; shares sum to 1, the largest first.
    """
    parameters, trials = parameters_of(search), search.scored
    figures = np.array(list(ranks(search).values()))  # in the order of `scored`
    if len(parameters) < 2 or len(trials) < _FEWEST or trials[0].value == trials[-1].value:
        return None
    everywhere = all(parameter.of(trial) is not None for parameter in parameters for trial in trials)
    everywhere = everywhere and find_spec("optuna") is not None  # the report may be written where nothing is searched
    explained: float | None = None
    if everywhere and len(trials) >= _ENOUGH:
        method, found = "fanova", _fanova(search, parameters, figures)
    else:
        method = "forest"
        found, explained = _forest(search, parameters, figures)
    total = sum(found.values())
    shares = {name: share / total if total > 0 else 0.0 for name, share in found.items()}
    ordered = dict(sorted(shares.items(), key=lambda each: -each[1]))
    return {"method": method, "trials": len(trials), "shares": ordered, "explained": explained}


def _fanova(search: SearchRecord, parameters: list[Parameter], figures: NDArray[np.float64]) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    distributions: dict[str, BaseDistribution] = {
        each.name: CategoricalDistribution(each.categories)
        if each.categories
        else FloatDistribution(each.low, each.high, log=each.log)
        for each in parameters
    }
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell the user that a study was made
    try:
        study = optuna.create_study()
        for trial, figure in zip(search.scored, figures, strict=True):
            values = {each.name: each.of(trial) for each in parameters}
            study.add_trial(optuna.trial.create_trial(params=values, distributions=distributions, value=float(figure)))
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=_TREES, seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    finally:
        optuna.logging.set_verbosity(level)


def _forest(
    search: SearchRecord, parameters: list[Parameter], figures: NDArray[np.float64]
) -> tuple[dict[str, float], float]:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    columns = np.array(
        [
            [-1.0 if (value := each.of(trial)) is None else each.share(value) for each in parameters]
            for trial in search.scored
        ]
    )
    forest = RandomForestRegressor(2 * _TREES, oob_score=True, random_state=0).fit(columns, figures)
    found = permutation_importance(forest, columns, figures, n_repeats=5, random_state=0).importances_mean
    names = [each.name for each in parameters]
    return {name: max(0.0, float(share)) for name, share in zip(names, found, strict=True)}, float(forest.oob_score_)


def importance_section(search: SearchRecord) -> str:
    """Return the parameters' importance as bars; nothing where there is none to show."""
    known: Mapping[str, Any] | None = search.importance
    if not known or not known["shares"]:
        return ""
    shares: Mapping[str, float] = known["shares"]
    row, label = 26, 150
    frame = Frame(height=row * len(shares) + 8, left=label, right=60, top=4, bottom=4)
    axis = Axis(0, max([*shares.values(), 1e-9]), *frame.x)
    parts = []
    for place, (name, share) in enumerate(shares.items()):
        y = frame.top + row * place
        parts.append(
            f'<text class="name" x="{label - 8}" y="{y + 17}" text-anchor="end"><title>{text(name)}</title>'
            f"{text(cut(name, 18))}</text>"
            f'<rect class="bar" x="{label}" y="{y + 4}" height="{row - 8}" rx="2" '
            f'width="{max(1.0, axis(share) - label):.1f}"/>'
            f'<text x="{axis(share) + 6}" y="{y + 17}">{percent(share, 0)}</text>'
        )
    described = ", ".join(f"{name} {percent(share, 0)}" for name, share in shares.items())
    picture = f'<div class="bars">{frame.svg(f"Importance: {described}", parts)}</div>'
    return section("importance", "How much each parameter matters", picture, note=_told(known))


def _told(known: Mapping[str, Any]) -> str:
    shares = known["shares"]
    first = next(iter(shares))
    told = f"<b>{text(first)}</b> matters most. "
    if known["method"] == "fanova":
        told += (
            f"Shares of the variance of {known['trials']} trials' ranks that each parameter alone explains (fANOVA)."
        )
    else:
        told += (
            f"By how much a random forest of {known['trials']} trials is worse at telling the rank where a parameter's "
            "values are shuffled (permutation importance), as shares of the sum."
        )
        explained = known.get("explained")
        if explained is not None and math.isfinite(explained) and explained < _EXPLAINED:
            told += (
                f" <b>Not to be relied on:</b> of trials that it had not seen, the forest explains "
                f"{percent(max(0.0, explained), 0)} of the differences."
            )
    return told + " Within the space that was searched: a parameter with a narrow range matters little here."
