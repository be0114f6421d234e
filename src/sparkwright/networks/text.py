"""From a text to a network's input: one implementation for training and serving.

A `TextPreprocessing` is plain data that a network carries and a model saves, its vocabulary included. It needs numpy
alone. What it does, in this order: Unicode normal form C, lower case (if asked), cut into words or characters, a number
for each: its place in the vocabulary from 1 on; 0 for what is not in it.

Example:
    >>> preprocessing = TextPreprocessing.fit(["so good", "not so bad"], least=1)
    >>> preprocessing.vocabulary
    ('so', 'bad', 'good', 'not')
    >>> preprocessing.read("So very good").tolist()
    [1, 0, 3]
"""

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from sparkwright.errors import ColumnError, ContentError, InputError, did_you_mean
from sparkwright.networks.ragged import (
    Longer,
    SequencePreprocessing,
    check_limits,
    known_fields,
    settle_length,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

__all__ = ["TextPreprocessing", "Tokens"]

Unit = Literal["words", "characters"]
_UNITS = ("words", "characters")

# A word is letters, digits and apostrophes inside; any other character that is no space is a word of its own.
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")  # noqa: RUF001  the typographic apostrophe is meant

_MOST_COUNTED = 1_000_000  # different tokens that a task holds before it hands their counts on


@dataclass(frozen=True)
class Tokens:
    """How a text falls into tokens.

    Attributes:
        unit: ``words`` or ``characters``.
        lowercase: Whether case makes no difference.
    """

    unit: Unit = "words"
    lowercase: bool = True

    def of(self, text: str) -> Iterator[str]:
        """Yield a text's tokens."""
        text = unicodedata.normalize("NFC", text)
        if self.lowercase:
            text = text.lower()
        return iter(text) if self.unit == "characters" else (match[0] for match in _WORD.finditer(text))


@dataclass(frozen=True)
class TextPreprocessing(SequencePreprocessing):
    """How a text becomes a network's input: a number for each word or character.

    Args:
        vocabulary: The known words or characters; the first is number 1.
        unit: ``words``: letters, digits and apostrophes inside; any other sign is a word of its own. ``characters``:
            Unicode code points, spaces too.
        lowercase: Whether case makes no difference.
        max_length: Most words (characters) of a text.
        longer: What becomes of a text with more: ``error``, its row cannot be used; or ``cut``, the rest is left out.

    Raises:
        InputError: An argument is out of its range.
    """

    vocabulary: tuple[str, ...]
    unit: Unit = "words"
    lowercase: bool = True
    max_length: int = 512
    longer: Longer = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))  # a list from JSON
        if self.unit not in _UNITS:
            raise InputError(
                f"TextPreprocessing: `unit` must be one of {', '.join(_UNITS)}; got {self.unit!r}."
                + did_you_mean(str(self.unit), _UNITS)
            )
        check_limits("TextPreprocessing", self.max_length, self.longer)
        if not self.vocabulary or len(self._numbers) < len(self.vocabulary):
            raise InputError(
                f"TextPreprocessing: `vocabulary` must hold different {self.unit}, one at least; it holds "
                f"{len(self.vocabulary)}, {len(self._numbers)} of them different."
            )

    @classmethod
    def fit(
        cls,
        texts: "Iterable[str | None] | DataFrame",
        column: str = "text",
        *,
        split: str | None = None,
        most: int = 20_000,
        least: int | None = None,
        unit: Unit = "words",
        lowercase: bool = True,
        max_length: int = 512,
        longer: Longer = "error",
    ) -> Self:
        """Return the preprocessing whose vocabulary is the most frequent words (characters) of the training rows.

        With Spark it is one job, which counts on the executors; the driver gets the vocabulary alone. Words of equal
        frequency are in the order of their code points, so the result does not depend on partitions.

        Args:
            texts: A DataFrame of Spark, or the texts themselves; nulls are left out.
            column: Of a DataFrame: the texts.
            split: Of a DataFrame: the column of sides; rows of ``train`` are counted. None counts all rows.
            most: Words at most.
            least: A word that is rarer is left out; by default 2 for words, so that training meets unknown words too,
                and 1 for characters.
            unit: See `TextPreprocessing`.
            lowercase: See `TextPreprocessing`.
            max_length: See `TextPreprocessing`.
            longer: See `TextPreprocessing`.

        Raises:
            ColumnError: There is no such column, or it holds no text.
            InputError: `most` or `least` is below 1, or no word is frequent enough.
        """
        least = (2 if unit == "words" else 1) if least is None else least
        if most < 1 or least < 1:
            raise InputError(f"`most` and `least` must be at least 1; got {most} and {least}.")
        tokens = Tokens(unit, lowercase)
        if hasattr(texts, "mapInArrow"):
            vocabulary = _most_frequent(cast("DataFrame", texts), column, split, tokens, most, least)
        else:
            counts = Counter(token for text in texts if text is not None for token in tokens.of(text))
            often = sorted((token for token in counts if counts[token] >= least), key=lambda t: (-counts[t], t))
            vocabulary = often[:most]
        if not vocabulary:
            raise InputError(f"No {unit} occur {least} times or more in the texts; the vocabulary would be empty.")
        return cls(tuple(vocabulary), unit, lowercase, max_length, longer)

    @property
    def size(self) -> int:
        """How many numbers there are: the vocabulary's, and 0 for what is not in it."""
        return len(self.vocabulary) + 1

    @property
    def shape(self) -> tuple[int]:
        """Steps of the longest input."""
        return (self.max_length,)

    def read(self, content: str | bytes) -> NDArray[np.int32]:
        """Return the numbers of one text (bytes are UTF-8), int32 of shape (length,).

        Raises:
            ContentError: The text has no words, more than `max_length` and may not be cut, or is not UTF-8.
        """
        if isinstance(content, bytes):
            try:
                content = content.decode()
            except UnicodeDecodeError as error:
                raise ContentError("unreadable", f"The text is not UTF-8: {error}.") from error
        # No more than needed is read of a text that goes on for ever.
        known = self._numbers
        tokens = islice(Tokens(self.unit, self.lowercase).of(content), self.max_length + 1)
        numbers = np.fromiter((known.get(token, 0) for token in tokens), np.int32)
        return numbers[: settle_length(len(numbers), self.max_length, self.longer, self.unit)]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"kind": "text", **fields, "vocabulary": list(self.vocabulary)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild from `to_dict`'s result.

        Raises:
            InputError: A field is unknown, missing, or out of its range.
        """
        given = known_fields(cls, data)
        if "vocabulary" not in given:
            raise InputError("TextPreprocessing needs the field `vocabulary`: the known words or characters.")
        return cls(**given)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.vocabulary, 1)}


def _most_frequent(
    rows: "DataFrame", column: str, split: str | None, tokens: Tokens, most: int, least: int
) -> list[str]:
    """Return the most frequent tokens of a column of Spark's: one job."""
    from pyspark.sql import functions as F  # noqa: N812  its usual name
    from pyspark.sql.types import StringType

    from sparkwright.session import ship_library

    for name in (column, split):
        if name is not None and name not in rows.columns:
            raise ColumnError(f"Column `{name}` not found in {rows.columns}.{did_you_mean(name, rows.columns)}")
    if not isinstance(rows.schema[column].dataType, StringType):
        raise ColumnError(
            f"Column `{column}` must hold text; it is of type {rows.schema[column].dataType.simpleString()}."
        )
    ship_library(rows.sparkSession)
    if split is not None:
        rows = rows.where(F.col(f"`{split}`") == "train")
    counted = rows.select(F.col(f"`{column}`").alias("text")).mapInArrow(_Count(tokens), "token string, count bigint")
    often = counted.groupBy("token").agg(F.sum("count").alias("count")).where(F.col("count") >= least)
    return [row["token"] for row in often.orderBy(F.desc("count"), "token").limit(most).collect()]


@dataclass(frozen=True)
class _Count:
    """Counts the tokens of a task's texts. Runs on executors."""

    tokens: Tokens

    def __call__(self, batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        counts: Counter[str] = Counter()

        def told() -> pa.RecordBatch:
            names, numbers = pa.array(list(counts), pa.string()), pa.array(list(counts.values()), pa.int64())
            counts.clear()
            return pa.record_batch([names, numbers], ["token", "count"])

        for batch in batches:
            for text in batch.column(0).to_pylist():
                if text is not None:
                    counts.update(self.tokens.of(text))
                if len(counts) > _MOST_COUNTED:
                    yield told()
        yield told()
