"""What is wrong with a space of settings, if anything: all of it, not the first."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from numbers import Integral
from types import SimpleNamespace
from typing import Any

from sparkwright.errors import InputError, did_you_mean
from sparkwright.networks.augmentation import as_augmentation
from sparkwright.training.checks import setting_problems
from sparkwright.training.config import TrainingConfig
from sparkwright.training.settings import RANGES, TASKS, WHOLE, is_number
from sparkwright.tuning.dimensions import Choice, Dimension, Fixed, Float, Int, plain
from sparkwright.tuning.reading import read_dimensions

__all__ = ["WITHOUT_CHOICE", "read_space", "value_problems"]

_WIDTHS = ("hidden.layers", "hidden.width")  # together they make `hidden`
_NUMBERS = {*(name for name, _, _ in RANGES), *_WIDTHS}
_MAPPINGS = {"augmentation", "class_weights", "layer_rates", "rate_table", "unfreeze"}
_CAMEL = {"hiddenLayers": "hidden", "timeLimitSeconds": "time_limit_s"}

# Field that a search does not try → why, and what to do.
WITHOUT_CHOICE = {
    "task": "the labels decide it",
    "outputs": "a search trains one output",
    "epochs": "trials are as long as the search says: give `epochs` to it",
    "monitor": "it chooses each trial's best epoch: set it in the search's configuration",
    "seed": "the search has one seed; the best trials are trained again with others",
    "validation_fraction": "all trials are compared on the same rows",
    "validate_every": "all trials are compared at the same epochs: set it in the search's configuration",
    "refit": "it is for the chosen trial alone: say it to the search",
    "calibrate": "it is for the chosen trial alone: set it in the search's configuration",
    "threshold_metric": "it is for the chosen trial alone: set it in the search's configuration",
    "time_limit_s": "trials that the clock ends would not repeat: give the search a time limit instead",
    "health_every": "no result depends on it: set it in the search's configuration",
    "device": "it says where trials train: set it in the search's configuration",
    "threads": "it says where trials train: set it in the search's configuration",
}
_KNOWN = (
    *(f.name for f in dataclasses.fields(TrainingConfig) if f.name not in WITHOUT_CHOICE),
    *_WIDTHS,
    "augmentation",
)


def read_space(given: Mapping[str, Any]) -> dict[str, tuple[Dimension, ...]]:
    """Read and check what a space is made of; see `sparkwright.tuning.space.Space`.

    Returns:
        Name → alternatives, a setting after those that its conditions name; conditions map names to lists.

    Raises:
        InputError: All that is wrong, in one message.
    """
    if not isinstance(given, Mapping) or not given:
        what = "is empty" if isinstance(given, Mapping) else f"is {type(given).__name__}"
        raise InputError.listing(
            "The space cannot be searched",
            [f"It must be a mapping from settings to what they may be; it {what}. {_EXAMPLE}"],
        )
    found: dict[str, tuple[Dimension, ...]] = {}
    problems = list[str]()
    for text, what in given.items():
        name = _snake(text)
        if wrong := _name_problems(str(text), name, found):
            problems += wrong
            continue
        dimensions, wrong = read_dimensions(what, whole=name in WHOLE or name in _WIDTHS, mapping=name in _MAPPINGS)
        found[name] = tuple(dimensions)
        problems += [f"`{name}`: {problem}" for problem in wrong]
        if not wrong:
            problems += [problem for dimension in dimensions for problem in _dimension_problems(name, dimension)]
    problems += _hidden_problems(found)
    found = {name: tuple(_with_lists(dimension) for dimension in found[name]) for name in found}
    problems += _condition_problems(found)
    if problems:
        raise InputError.listing("The space cannot be searched", problems)
    return _ordered(found)


_EXAMPLE = "For example: {learning_rate: {low: 1e-4, high: 1.0, log: true}, optimizer: [adamw, sgd]}"


def _snake(name: Any) -> str:
    """``weightDecay`` → ``weight_decay``."""
    return _CAMEL.get(str(name)) or re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", str(name)).lower()


def _name_problems(text: str, name: str, found: Mapping[str, Any]) -> list[str]:
    if name in WITHOUT_CHOICE:
        return [f"`{text}` is not searched: {WITHOUT_CHOICE[name]}."]
    if name not in _KNOWN:
        meant = did_you_mean(name, _KNOWN) or f" Known: {', '.join(_KNOWN)}."
        return [f"unknown setting `{text}`.{meant}"]
    return [f"`{name}` is there twice."] if name in found else []


def _dimension_problems(name: str, dimension: Dimension) -> list[str]:
    """Return what of a dimension the setting cannot be."""
    if isinstance(dimension, Float | Int) and name not in _NUMBERS:
        more = " Or search `hidden.layers` and `hidden.width`." if name == "hidden" else ""
        return [f"`{name}` is not a number, so it has no range: list its choices.{more}"]
    if isinstance(dimension, Float) and (name in WHOLE or name in _WIDTHS):
        return [f"`{name}` takes whole numbers: use Int (in YAML leave out the type), not Float."]
    return list(dict.fromkeys(problem for value in dimension.ends() for problem in value_problems(name, value)))


def value_problems(name: str, value: Any) -> list[str]:
    """Return why a setting cannot be `value`, whatever the other settings and the task are."""
    if name == "augmentation":
        try:
            None if value is None else as_augmentation(value)
        except (InputError, AttributeError) as error:
            return [f"`augmentation`: {error}"]
        return []
    if name in _WIDTHS:
        least = 0 if name == "hidden.layers" else 1
        held = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least
        return [] if held else [f"`{name}` must be a whole number of at least {least}, not {value!r}."]
    if (name == "hidden" and isinstance(value, Integral)) or (name == "quantiles" and is_number(value)):
        value = [value]
    problems = []
    for task in TASKS:
        problems.append(setting_problems(SimpleNamespace(**{**vars(TrainingConfig(task=task)), name: value})))
    return min(problems, key=len)


def _hidden_problems(found: Mapping[str, Any]) -> list[str]:
    problems = []
    if "hidden" in found and (both := [name for name in _WIDTHS if name in found]):
        problems.append(f"`hidden` and `{both[0]}` say the same; leave one out.")
    if "hidden.layers" in found and "hidden.width" not in found:
        problems.append("`hidden.layers` needs `hidden.width`: how wide each of them is.")
    return problems


def _with_lists(dimension: Dimension) -> Dimension:
    """Return the dimension with conditions from names in snake case to lists of values."""
    if not isinstance(dimension.when, Mapping):
        return dimension
    when = {
        _snake(name): plain(values) if isinstance(values, list | tuple) else [plain(values)]
        for name, values in dimension.when.items()
    }
    return dataclasses.replace(dimension, when=when)


def _condition_problems(found: Mapping[str, tuple[Dimension, ...]]) -> list[str]:
    problems = []
    for name, dimensions in found.items():
        if len(dimensions) > 1 and any(dimension.when is None for dimension in dimensions):
            problems.append(f"`{name}`: all alternatives need a condition (`when`).")
        for dimension in dimensions:
            when = dimension.when
            if when is None:
                continue
            if not isinstance(when, Mapping) or not when:
                problems.append(
                    f"`{name}`: `when` must map other settings to values, such as {{optimizer: sgd}}, not {when!r}."
                )
                continue
            for parent, values in when.items():
                problems += [f"`{name}`: {problem}" for problem in _parent_problems(parent, values, found)]
    return problems + _circle_problems(found)


def _parent_problems(parent: str, values: list[Any], found: Mapping[str, tuple[Dimension, ...]]) -> list[str]:
    """Return what is wrong with one entry of a condition."""
    if parent not in found:
        meant = did_you_mean(parent, found)
        return [f"its condition names `{parent}`, which the space does not search.{meant}"]
    if any(isinstance(dimension, Float) for dimension in found[parent]):
        return [f"its condition names `{parent}`, any number of a range: conditions need values that can be listed."]
    return [
        f"its condition never holds: `{parent}` is never {value!r}.{did_you_mean(str(value), _offered(found[parent]))}"
        for value in values
        if not any(_can_be(dimension, value) for dimension in found[parent])
    ] or ([] if values else [f"its condition never holds: it lists no value of `{parent}`."])


def _can_be(dimension: Dimension, value: Any) -> bool:
    if isinstance(dimension, Int):
        try:
            return bool(dimension.parameter_of(value) == value)
        except LookupError:
            return False
        except TypeError:  # low or high is no number, which is said elsewhere
            return True
    return not dimension.problems() and value in dimension.ends()


def _offered(dimensions: tuple[Dimension, ...]) -> list[str]:
    return [
        str(value)
        for dimension in dimensions
        if isinstance(dimension, Choice | Fixed) and not dimension.problems()
        for value in dimension.ends()
    ]


def _parents(name: str, found: Mapping[str, tuple[Dimension, ...]]) -> Iterator[str]:
    """Yield the settings that must be drawn before this one."""
    if name == "hidden.width" and "hidden.layers" in found:
        yield "hidden.layers"
    for dimension in found[name]:
        if isinstance(dimension.when, Mapping):
            yield from (parent for parent in dimension.when if parent in found)


def _circle_problems(found: Mapping[str, tuple[Dimension, ...]]) -> list[str]:
    """Return the first circle of conditions, if there is one."""
    done = set[str]()

    def circle(path: list[str]) -> list[str]:
        for parent in _parents(path[-1], found):
            if parent in path:
                return [*path[path.index(parent) :], parent]
            if parent not in done and (further := circle([*path, parent])):
                return further
        done.add(path[-1])
        return []

    for name in found:
        if name not in done and (names := circle([name])):
            return [f"conditions go round in a circle: {' needs '.join(f'`{name}`' for name in names)}."]
    return []


def _ordered(found: Mapping[str, tuple[Dimension, ...]]) -> dict[str, tuple[Dimension, ...]]:
    """Return the settings in an order in which conditions look back only; otherwise as they were given."""
    ordered = dict[str, tuple[Dimension, ...]]()

    def add(name: str) -> None:
        for parent in _parents(name, found):
            if parent not in ordered:
                add(parent)
        ordered[name] = found[name]

    for name in found:
        if name not in ordered:
            add(name)
    return ordered
