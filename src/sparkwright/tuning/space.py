"""Which settings a search tries, and what of each: checked before the search against what a training takes.

Names are the fields of `TrainingConfig` (snake_case; camelCase is taken too); `hidden.layers` and `hidden.width`, which
together make `hidden`; and `augmentation` of photos. In YAML a mapping describes a range, a list is a choice, and
anything else one value for all trials::

    learning_rate: {low: 1e-4, high: 1.0, log: true}
    optimizer: [adamw, sgd]
    momentum: {low: 0.5, high: 0.99, when: {optimizer: sgd}}
    hidden: [[], [256], [512, 256]]
    schedule: one_cycle

A list of which each entry has a condition (`when`) is alternatives: another range for each optimiser, say.
"""

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from sparkwright.errors import InputError
from sparkwright.networks.augmentation import Augmentation, as_augmentation
from sparkwright.training.config import TrainingConfig
from sparkwright.training.settings import is_number
from sparkwright.tuning import spaces
from sparkwright.tuning.dimensions import Choice, Dimension, Fixed, Float, Int
from sparkwright.tuning.space_checks import read_space

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

__all__ = ["Choice", "Fixed", "Float", "Int", "Space", "augmentation_of", "configure"]

GRID_LIMIT = 100_000  # configurations of an exhaustive search
_TRIES = 20  # configurations in which a value is tried before it is called unusable


def configure(base: TrainingConfig, values: Mapping[str, Any]) -> TrainingConfig:
    """Return what a trial of these values trains with.

    Args:
        base: What holds where the values say nothing.
        values: A trial's values, by the names of its space.

    Raises:
        InputError: The training cannot be configured like this; all that is wrong is in one message.
    """
    changes = {name: value for name, value in values.items() if "." not in name and name != "augmentation"}
    if "hidden.width" in values or "hidden.layers" in values:
        layers = values.get("hidden.layers", 1)
        changes["hidden"] = [values["hidden.width"]] * layers if layers else []
    return base.replace(**changes)


def augmentation_of(values: Mapping[str, Any], default: Augmentation | None = None) -> Augmentation | None:
    """Return what photos go through in a trial of these values; `default` where they say nothing."""
    if "augmentation" not in values:
        return default
    return None if values["augmentation"] is None else as_augmentation(values["augmentation"])


class Space:
    """The settings that a search tries.

    Args:
        dimensions: Name → `Float`, `Int`, `Choice` or `Fixed`; a list of these with conditions; or what YAML would
            say: a list of choices, one value, or a mapping.

    Attributes:
        dimensions: Name → its alternatives, mostly one, in the order in which a trial draws them: a setting comes after
            those that its conditions name.

    Raises:
        InputError: Names that no setting has, ranges that are empty, conditions that cannot hold …: all that is wrong
            is in one message.

    Example:
        >>> space = Space({"learning_rate": Float(1e-4, 1.0, log=True), "optimizer": ["adamw", "sgd"]})
        >>> values = {"learning_rate": 0.5, "optimizer": "sgd"}
        >>> configure(TrainingConfig(), values).optimizer
        'sgd'
    """

    dimensions: dict[str, tuple[Dimension, ...]]

    def __init__(self, dimensions: Mapping[str, Any]) -> None:
        self.dimensions = read_space(dimensions)

    @classmethod
    def load(cls, source: str, *, task: str = "classification", photos: bool = True) -> Self:
        """Read a space that comes with the library, by its name, or a YAML or JSON file, by its path or URI.

        Args:
            source: ``"head"`` (a linear head, or one or two hidden layers), ``"linear"``, ``"mlp"``,
                ``"finetuning"``; or a path or URI.
            task: What the training predicts. The library's own spaces leave out what it has no use for.
            photos: Whether there are photos to augment, likewise.

        Raises:
            NotFoundError: There is no such file.
            InputError: It is no space; all that is wrong is in one message.
        """
        data = spaces.read(source)
        if source in spaces.NAMES:
            unused = [*([] if task == "classification" else ["label_smoothing"]), *([] if photos else ["augmentation"])]
            data = {name: what for name, what in data.items() if name not in unused}
        try:
            return cls(data)
        except InputError as error:
            raise InputError.listing(f"The space {source!r} cannot be searched", error.problems) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`."""
        return cls(data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, which `Space` takes."""
        lists = {name: [dimension.to_dict() for dimension in found] for name, found in self.dimensions.items()}
        return {
            name: alternatives[0] if len(alternatives) == 1 else alternatives for name, alternatives in lists.items()
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"Space({self.to_dict()})"

    @property
    def searched(self) -> list[str]:
        """Names of the settings of which trials may differ."""
        return [
            name
            for name, found in self.dimensions.items()
            if len(found) > 1 or found[0].when or not isinstance(found[0], Fixed)
        ]

    def suggest(self, trial: "optuna.Trial") -> dict[str, Any]:
        """Draw the values of a trial of Optuna, which asks its sampler: plain data, of the settings that are active."""
        values = dict[str, Any]()
        for name in self.dimensions:
            if (found := self._active(name, values)) is not None:
                key, dimension = found
                values[name] = dimension.value if isinstance(dimension, Fixed) else dimension.suggest(trial, key)
        return values

    def distributions(self) -> "dict[str, BaseDistribution]":
        """Return Optuna's name of each range and choice → its distribution, those of all alternatives."""
        return {
            _key(name, dimension, found): dimension.distribution()
            for name, found in self.dimensions.items()
            for dimension in found
            if not isinstance(dimension, Fixed)
        }

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values for the parameters that Optuna keeps of a trial (``trial.params``)."""
        values = dict[str, Any]()
        for name in self.dimensions:
            if (found := self._active(name, values)) is not None:
                key, dimension = found
                values[name] = dimension.value if isinstance(dimension, Fixed) else dimension.value_of(parameters[key])
        return values

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what Optuna keeps of a trial of these values, for ``study.enqueue_trial``.

        Raises:
            InputError: The space does not hold these values.
        """
        parameters, problems, known = dict[str, Any](), list[str](), dict[str, Any]()
        for name in self.dimensions:
            found = self._active(name, known)
            if found is None:
                continue
            key, dimension = found
            if name not in values:
                problems.append(f"`{name}` has no value.")
                continue
            known[name] = values[name]
            try:
                parameter = dimension.parameter_of(values[name])
            except LookupError:
                problems.append(f"`{name}` is never {values[name]!r} in the space: {dimension.to_dict()}.")
                continue
            if not isinstance(dimension, Fixed):
                parameters[key] = parameter
        problems += [f"`{name}` is not drawn with the others." for name in values if name not in known]
        if problems:
            raise InputError.listing("The space does not hold these values", problems)
        return parameters

    def values_of(self, config: TrainingConfig) -> dict[str, Any] | None:
        """Return the values with which a trial trains as `config` does; None if the space holds no such trial.

        What is None in `config` is what None stands for there, nothing is augmented, what is fixed here has that value,
        and what lies beside a range is moved to its nearest end. Such values make a good first trial: then the search
        finds nothing worse.
        """
        values = dict[str, Any]()
        for name in self.dimensions:
            if (found := self._active(name, values)) is not None:
                held = [near for value in _settings(config, name) for near in _nearest(found[1], value)]
                if not held:
                    return None
                values[name] = held[0]
        return values

    def grid(self, points: int = 5) -> list[dict[str, Any]]:
        """Return the values of all trials of an exhaustive search.

        Args:
            points: Values of each range, evenly spread; choices are all taken.

        Raises:
            InputError: There are more than 100,000.
        """
        every = list(islice(self._every(list(self.dimensions), {}, points), GRID_LIMIT + 1))
        if len(every) > GRID_LIMIT:
            raise InputError(
                f"The grid has more than {GRID_LIMIT:,} configurations with {points} values a range: give fewer values "
                "or settings, or search with another sampler."
            )
        return every

    def check(self, base: TrainingConfig, metric: str | None = None, *, photos: bool = True) -> None:
        """Refuse what no training can use, before the search.

        Args:
            base: What holds for all trials where the space says nothing.
            metric: What trials are compared by, as far as is known.
            photos: Whether whole networks train on photos, so that there is something to augment, as far as is known.

        Raises:
            InputError: A value that `TrainingConfig` refuses, whatever the other settings are; a loss that is searched
                and compared by; an augmentation of what is no photo. All that is wrong is in one message.
        """
        problems = list[str]()
        if "augmentation" in self.dimensions and not photos:
            problems.append("`augmentation` needs whole networks that train on photos; leave it out.")
        if metric == "loss":
            problems += [
                f"`{name}` changes what the loss is, and trials would be compared by it: name another metric first in "
                "`objectives`."
                for name in ("loss", "focal_gamma", "huber_delta", "quantiles")  # class weights: of training alone
                if name in self.searched
            ]
        refused = [problem for name in self.dimensions for problem in self._refused(base, name)]
        if problems or refused:
            raise InputError.listing("The space cannot be searched", list(dict.fromkeys(problems + refused)))

    def _refused(self, base: TrainingConfig, name: str) -> list[str]:
        """Return what `TrainingConfig` says of the values of a setting that it takes in no configuration tried."""
        problems = list[str]()
        for dimension in self.dimensions[name]:
            for value in dimension.ends():
                chance, said = random.Random(0), list[str]()
                for _ in range(_TRIES):
                    values = self._drawn(chance, dimension, value)
                    if values is None:
                        continue
                    try:
                        configure(base, values)
                    except InputError as error:
                        said = list(error.problems)
                        continue
                    said = []
                    break
                problems += said
        return problems

    def _drawn(self, chance: random.Random, pinned: Dimension, value: Any) -> dict[str, Any] | None:
        """Draw values with that of one dimension given; None if it is not active among them."""
        values, active = dict[str, Any](), False
        for name in self.dimensions:
            if (found := self._active(name, values)) is not None:
                _, dimension = found
                active = active or dimension is pinned
                values[name] = value if dimension is pinned else chance.choice(dimension.grid(9))
        return values if active else None

    def _active(self, name: str, values: Mapping[str, Any]) -> tuple[str, Dimension] | None:
        """Return a setting's first alternative whose condition holds, and its name in Optuna; None if none does."""
        if name == "hidden.width" and values.get("hidden.layers") == 0:
            return None
        found = self.dimensions[name]
        for dimension in found:
            when = dimension.when or {}
            if all(parent in values and values[parent] in allowed for parent, allowed in when.items()):
                return _key(name, dimension, found), dimension
        return None

    def _every(self, names: list[str], values: dict[str, Any], points: int) -> Iterator[dict[str, Any]]:
        if not names:
            yield values
            return
        found = self._active(names[0], values)
        if found is None:
            yield from self._every(names[1:], values, points)
            return
        for value in found[1].grid(points):
            yield from self._every(names[1:], {**values, names[0]: value}, points)


def _key(name: str, dimension: Dimension, alternatives: tuple[Dimension, ...]) -> str:
    """Return what Optuna calls a dimension: alternatives have one distribution each, so one name each."""
    if len(alternatives) == 1:
        return name
    conditions = [f"{parent}={'|'.join(map(str, allowed))}" for parent, allowed in (dimension.when or {}).items()]
    return f"{name}[{','.join(conditions)}]"


def _settings(config: TrainingConfig, name: str) -> list[Any]:
    """Return a setting of a configuration, and what it stands for if it is None."""
    if name == "augmentation":
        return [None]
    if name == "hidden.layers":
        return [len(config.hidden)]
    if name == "hidden.width":
        return [config.hidden[0]] if len(set(config.hidden)) == 1 else []
    stands_for = {
        "learning_rate": config.rate,
        "beta2": config.squares_decay,
        "epsilon": config.smallest,
        "weight_decay": config.decay,
        "dropout": config.dropped,
        "loss": config.objective,
    }
    given = getattr(config, name)
    return [list(given) if isinstance(given, tuple) else given, *([stands_for[name]] if name in stands_for else [])]


def _nearest(dimension: Dimension, value: Any) -> list[Any]:
    """Return the value, or of a range the nearest to it; nothing, if the dimension has none like it."""
    if isinstance(dimension, Fixed):
        return [dimension.value]
    if isinstance(dimension, Float | Int) and is_number(value):
        low, high = dimension.ends()
        value = dimension.value_of(min(max(value, low), high))
    try:
        dimension.parameter_of(value)
    except LookupError:
        return []
    return [value]
