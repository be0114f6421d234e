"""What a setting may be, from Python's values or from the plain data of YAML and JSON."""

from collections.abc import Mapping
from typing import Any

from sparkwright.errors import did_you_mean
from sparkwright.tuning.dimensions import Choice, Dimension, Fixed, Float, Int, plain

__all__ = ["read_dimensions"]

# Kind of a dimension → the words that describe one in YAML or JSON.
WORDS_OF = {"range": ("low", "high", "log", "step", "type"), "choice": ("choices",), "fixed": ("value",)}
WORDS = (*(word for words in WORDS_OF.values() for word in words), "when")


def read_dimensions(given: Any, *, whole: bool, mapping: bool) -> tuple[list[Dimension], list[str]]:
    """Read what a setting may be from Python's values or plain data.

    A list is a choice; a list of which each entry says `when` it holds is alternatives.

    Args:
        given: A dimension, a list of them, or plain data.
        whole: Whether a range of it is of whole numbers, where the data do not say its type.
        mapping: Whether a value of it may be a mapping itself.

    Returns:
        The dimensions, and what is wrong, each in a sentence.
    """
    if isinstance(given, Float | Int | Choice | Fixed):
        return [given], given.problems()
    if isinstance(given, list | tuple) and any(_is_conditional(entry) for entry in given):
        found, problems = list[Dimension](), list[str]()
        for entry in given:
            if not _is_conditional(entry):
                problems.append(f"all alternatives need a condition (`when`); {plain(entry)!r} has none.")
                continue
            more, wrong = read_dimensions(entry, whole=whole, mapping=mapping)
            found, problems = found + more, problems + wrong
        return found, problems
    if isinstance(given, list | tuple):
        return _checked(Choice(list(given)))
    if isinstance(given, Mapping) and not (mapping and not set(given) & set(WORDS)):
        return _read_mapping(given, whole)
    return _checked(Fixed(given))


def _read_mapping(given: Mapping[str, Any], whole: bool) -> tuple[list[Dimension], list[str]]:
    every = f" Known: {', '.join(WORDS)}."
    problems = [
        f"there is no word {word!r}.{did_you_mean(str(word), WORDS) or every}" for word in given if word not in WORDS
    ]
    kinds = [name for name, words in WORDS_OF.items() if set(given) & set(words)]
    if len(kinds) != 1:
        what = "these do not go together" if kinds else "it has none of them"
        return [], [*problems, f"it must say low and high, or choices, or value; {what}: {plain(given)}."]
    if kinds == ["choice"]:
        dimension: Dimension = Choice(given["choices"], given.get("when"))
    elif kinds == ["fixed"]:
        dimension = Fixed(given["value"], given.get("when"))
    else:
        kind = given.get("type", "int" if whole else "float")
        if kind not in ("int", "float"):
            problems.append(f"type must be int or float, not {kind!r}.")
        missing = [word for word in ("low", "high") if word not in given]
        problems += [f"a range must say {word}, too." for word in missing]
        if problems:
            return [], problems
        words = {word: given[word] for word in (*WORDS_OF["range"], "when") if word in given and word != "type"}
        dimension = Int(**words) if kind == "int" else Float(**words)
    return [dimension], [*problems, *dimension.problems()]


def _checked(dimension: Dimension) -> tuple[list[Dimension], list[str]]:
    return [dimension], dimension.problems()


def _is_conditional(entry: Any) -> bool:
    if isinstance(entry, Float | Int | Choice | Fixed):
        return True
    return isinstance(entry, Mapping) and "when" in entry
