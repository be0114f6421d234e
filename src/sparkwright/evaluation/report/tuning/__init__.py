"""The sections on a search for hyperparameters; plain data in, HTML out.

Example:
    >>> search = SearchRecord.from_dict(json.loads(trials_json))                    # doctest: +SKIP
    >>> search = replace(search, importance=measure_importance(search))             # doctest: +SKIP
    >>> html = tuning_sections(search)                                              # doctest: +SKIP
"""

from sparkwright.evaluation.report.tuning.choice import choice_section
from sparkwright.evaluation.report.tuning.configurations import failures_section, trials_section
from sparkwright.evaluation.report.tuning.contour import contour_section
from sparkwright.evaluation.report.tuning.efficiency import efficiency_section
from sparkwright.evaluation.report.tuning.history import curves_section, history_section
from sparkwright.evaluation.report.tuning.importance import importance_section, measure_importance
from sparkwright.evaluation.report.tuning.parallel import parallel_section
from sparkwright.evaluation.report.tuning.pareto import pareto_section
from sparkwright.evaluation.report.tuning.record import SearchRecord
from sparkwright.evaluation.report.tuning.sensitivity import sensitivity_section
from sparkwright.evaluation.report.tuning.slices import slices_section

__all__ = ["SearchRecord", "measure_importance", "tuning_sections"]

_SECTIONS = (
    choice_section,
    trials_section,
    history_section,
    parallel_section,
    importance_section,
    slices_section,
    contour_section,
    sensitivity_section,
    curves_section,
    pareto_section,
    failures_section,
    efficiency_section,
)


def tuning_sections(search: SearchRecord) -> str:
    """Return what a report says of a search; sections without content are left out."""
    return "".join(section(search) for section in _SECTIONS)
