"""Texts as a network's input: tokens, vocabularies, messages."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sparkwright.errors import ColumnError, ContentError, InputError
from sparkwright.networks.preprocessing import as_preprocessing
from sparkwright.networks.text import TextPreprocessing, Tokens


def test_words_keep_their_apostrophes_and_signs_are_words():
    assert list(Tokens().of("It's a RE-make, isn’t it?")) == ["it's", "a", "re", "-", "make", ",", "isn’t", "it", "?"]  # noqa: RUF001


def test_characters_are_code_points_of_the_normal_form():
    assert list(Tokens("characters", lowercase=False).of("Cafe\u0301 1")) == list("Café 1")


def test_vocabulary_is_by_frequency_and_then_by_code_points():
    preprocessing = TextPreprocessing.fit(["b a c", "a b", None, "d"], least=1, most=3)
    assert preprocessing.vocabulary == ("a", "b", "c")
    assert preprocessing.size == 4


def test_words_that_are_too_rare_are_unknown():
    preprocessing = TextPreprocessing.fit(["so good", "so bad"])
    assert preprocessing.vocabulary == ("so",)
    assert preprocessing.read("so so good").tolist() == [1, 1, 0]


def test_apply_fills_up_with_nan():
    x = TextPreprocessing(("a",), max_length=4).apply(b"a b")
    np.testing.assert_array_equal(x, np.float32([1, 0, np.nan, np.nan]))


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        ("", "empty", "The row has no words"),
        ("  \n", "empty", "The row has no words"),
        ("a " * 1_000_000, "too long", "The row has more than 512 words. Raise `max_length`"),
        (b"\xff", "unreadable", "The text is not UTF-8"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_used_says_why(content, kind, message):
    with pytest.raises(ContentError, match=message) as caught:
        TextPreprocessing(("a",)).read(content)
    assert caught.value.kind == kind


def test_longer_texts_are_cut_if_asked():
    assert TextPreprocessing(("a",), max_length=3, longer="cut").read("a b a a").tolist() == [1, 0, 1]


def test_a_preprocessing_of_text_survives_json():
    preprocessing = TextPreprocessing(("ä", "b"), "characters", False, 7, "cut")
    assert as_preprocessing(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": "word"}, "`unit` must be one of words, characters; got 'word'. Did you mean `words`?"),
        ({"vocabulary": ("a", "a")}, "`vocabulary` must hold different words, one at least; it holds 2, 1 of them"),
        ({"max_length": 0}, "`max_length` must be a whole number from 1 on; got 0"),
        ({"longer": "cutt"}, "`longer` must be one of error, cut; got 'cutt'. Did you mean `cut`?"),
    ],
)
def test_options_out_of_range_are_refused(change, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        replace(TextPreprocessing(("a",)), **change)


def test_unknown_fields_and_kinds_are_refused():
    with pytest.raises(InputError, match=r"TextPreprocessing has no field `vocabulry`.*Did you mean `vocabulary`"):
        TextPreprocessing.from_dict({"vocabulry": []})
    with pytest.raises(InputError, match=r"needs the field `vocabulary`"):
        TextPreprocessing.from_dict({"unit": "words"})
    with pytest.raises(
        InputError, match=r"`kind` must be one of text, audio, series, or left out for images; got 'video'"
    ):
        as_preprocessing({"kind": "video"})


def test_a_vocabulary_without_words_is_refused():
    with pytest.raises(InputError, match=r"No words occur 2 times or more in the texts"):
        TextPreprocessing.fit(["a b", "c"])
    with pytest.raises(InputError, match=r"`most` and `least` must be at least 1; got 0 and 1"):
        TextPreprocessing.fit(["a"], most=0, least=1)


@pytest.mark.spark
@pytest.mark.connect(only=True)
def test_spark_counts_the_same_vocabulary_of_the_training_rows(spark):
    texts = ["a b ä", "b ä c", "c c c", "ä zz zz zz zz", None]
    sides = ["train", "train", "train", "test", "train"]
    rows = spark.createDataFrame(list(zip(texts, sides, strict=True)), "text string, split string").repartition(3)
    fitted = TextPreprocessing.fit(rows, "text", split="split", least=2)
    assert fitted == TextPreprocessing.fit([text for text, side in zip(texts, sides, strict=True) if side == "train"])
    with pytest.raises(ColumnError, match=r"Column `txt` not found in .*Did you mean `text`"):
        TextPreprocessing.fit(rows, "txt")
    with pytest.raises(ColumnError, match=r"Column `n` must hold text; it is of type bigint"):
        TextPreprocessing.fit(spark.range(3).toDF("n"), "n")
