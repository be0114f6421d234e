"""Texts and sounds train as photos and numbers do; the same bits for any number of workers, and stopped or not."""

import io
import wave
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkwright.errors import ColumnError
from sparkwright.models import Model
from sparkwright.networks.audio import AudioPreprocessing
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.series import SeriesPreprocessing
from sparkwright.networks.text import TextPreprocessing
from sparkwright.scoring.model_transformer import ModelTransformer
from sparkwright.scoring.predictor import Predictor
from sparkwright.training.arrays import fit_table
from sparkwright.training.cluster.fit import train
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.buckets import bucketed
from sparkwright.training.replica.replica import Replica
from sparkwright.training.result import TrainingResult
from sparkwright.training.rows.sequence_readers import AudioReader, TextReader
from sparkwright.training.subject import WholeNetwork

AUDIO = AudioPreprocessing(sample_rate=8000, bands=12, max_length=60)


def sentences(count: int = 60) -> pa.Table:
    """Sentences of unlike lengths that say good or bad somewhere."""
    rng = np.random.default_rng(0)
    labels = ["bad", "good"] * (count // 2)
    words = [rng.choice(["a", "film", "so", "the", "it"], size=rng.integers(1, 20)).tolist() for _ in labels]
    texts = [" ".join([*before, label, *before[:3]]) for before, label in zip(words, labels, strict=True)]
    split = (["train"] * 4 + ["validation"] * 2) * (count // 6)
    return pa.table({"text": texts, "label": labels, "split": split})


TEXT = TextPreprocessing.fit(sentences()["text"].to_pylist(), max_length=30)


def wav(hertz: float, seconds: float, seed: int) -> bytes:
    samples = np.sin(2 * np.pi * hertz * np.arange(int(8000 * seconds)) / 8000)
    samples += np.random.default_rng(seed).normal(scale=0.1, size=len(samples))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes((samples * 8000).astype("<i2").tobytes())
    return file.getvalue()


def sounds(count: int = 48) -> pa.Table:
    labels = ["high", "low"] * (count // 2)
    content = [wav(1500 if label == "high" else 300, 0.1 + 0.004 * n, n) for n, label in enumerate(labels)]
    split = (["train"] * 4 + ["validation"] * 2) * (count // 6)
    return pa.table({"content": pa.array(content, pa.binary()), "label": labels, "split": split})


def texts_subject(name: str = "gru", **options: Any) -> WholeNetwork:
    small = {"lstm": {"hidden": (8,)}, "gru": {"hidden": (8,)}, "text_cnn": {"widths": (8,)}}[name]
    network = load_network(
        name, weights="random", seed=1, preprocessing=TEXT, **{"embedding": 8, "dropout": 0.1, **small, **options}
    )
    return WholeNetwork.of(network)


def fit(table: Any, subject: WholeNetwork, features: str = "text", invalid: Any = "error", **changes: Any) -> Any:
    config = {"epochs": 2, "replicas": 2, "batch_size": 8, "sync_every": 2, "learning_rate": 0.02, **changes}
    given = {"features": features, "split": "split", "subject": subject, "invalid": invalid}
    if isinstance(table, pa.Table):
        return fit_table(table, TrainingConfig(**config), **given)
    return train(table, TrainingConfig(**config), num_workers=2, **given)


def same(one: TrainingResult, other: TrainingResult) -> None:
    assert one.network is not None
    assert other.network is not None
    for name, value in one.network.weights().items():
        np.testing.assert_array_equal(value, other.network.weights()[name], name)


def model_of(result: TrainingResult) -> Model:
    return Model(result.network, result.head, "classification", result.classes)


@pytest.mark.parametrize("name", ["lstm", "gru", "text_cnn"])
def test_a_network_learns_texts(name: str) -> None:
    result = fit(sentences(), texts_subject(name, word_dropout=0.05, truncate=10) if name == "lstm" else
                 texts_subject(name), epochs=20)  # fmt: skip
    assert result.validation["accuracy"] == 1.0
    answers = Predictor(model_of(result).to_files()).predict(["it so good", "bad the film unheardof"])
    assert [answer.label for answer in answers] == ["good", "bad"]


def test_a_model_of_texts_scores_tables_of_this_process() -> None:
    network = load_network(
        "gru", weights="random", preprocessing=TEXT, classes=["bad", "good"], embedding=8, hidden=(4,)
    )
    texts = ["so good", "", None, "it bad"]
    scored = ModelTransformer(model=network, inputCol="text", maxErrorRate=1.0).transform({"text": texts})
    answers = Predictor(Model.of_network(network).to_files()).predict(["so good", "it bad"])
    assert scored["prediction"].iloc[[0, 3]].tolist() == [answer.label for answer in answers]
    assert [error and error["kind"] for error in scored["error"]] == [None, "empty", "empty", None]
    sound = load_network("audio_cnn", weights="random", preprocessing=AUDIO, classes=["high", "low"], widths=(4,))
    scored = ModelTransformer(model=sound).transform(sounds(6).select(["content"]))
    assert scored["error"].isna().all()


def test_a_network_learns_sounds() -> None:
    network = load_network("audio_cnn", weights="random", seed=1, preprocessing=AUDIO, widths=(8, 8))
    result = fit(sounds(), WholeNetwork.of(network), "content", epochs=8)
    assert result.validation["accuracy"] == 1.0
    answers = Predictor(model_of(result).to_files()).predict([wav(300, 0.2, 99), wav(1500, 0.3, 98), b""])
    assert [answer.label for answer in answers] == ["low", "high", None]


def test_the_order_of_rows_makes_no_difference() -> None:
    table = sentences()
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    same(fit(table, texts_subject()), fit(shuffled, texts_subject()))


class Stop(Exception):  # noqa: N818
    """The power fails."""


def test_a_training_of_texts_that_was_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch) -> None:
    """With the rows in another order the second time, and dropout."""
    table, subject, done, backward = sentences(), texts_subject("text_cnn", dropout=0.3), [0], Replica.backward
    config = TrainingConfig(epochs=2, replicas=2, batch_size=8, sync_every=1, learning_rate=0.02)
    given = {"features": "text", "split": "split", "subject": subject}

    def stop(replica: Replica, number: int, step: int) -> None:
        done[0] += 1
        if done[0] == 9:
            raise Stop
        backward(replica, number, step)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "backward", stop)
        with pytest.raises(Stop):
            fit_table(table, config, **given, run=str(tmp_path), checkpoint_s=0)
    shuffled = table.take(np.random.default_rng(1).permutation(len(table)))
    same(fit_table(table, config, **given), fit_table(shuffled, config, **given, run=str(tmp_path)))


def test_texts_that_cannot_be_used_are_counted() -> None:
    table = sentences()
    texts = table["text"].to_pylist()
    texts[0], texts[1], texts[2], texts[3] = "", " ", "a " * 1_000_000, None
    odd = table.set_column(0, "text", pa.array(texts))
    with pytest.raises(ColumnError, match=r"4 of 60 rows cannot be trained on") as caught:
        fit(odd, texts_subject())
    assert "1 where the text cannot be read (empty)" in str(caught.value)
    assert f"1 where the text cannot be read (too long), for example '{'a ' * 20}…': The row has" in str(caught.value)
    assert fit(odd, texts_subject(), invalid="skip", epochs=1).skipped == 4


def test_numbers_are_no_texts() -> None:
    table = sentences().set_column(0, "text", pa.array(np.arange(60.0)))
    with pytest.raises(ColumnError, match="Column `text` must hold files' bytes, their paths, or text; it"):
        fit(table, texts_subject())


def test_training_and_serving_read_the_same_bits() -> None:
    text, sound = "it is so good", wav(440, 0.2, 0)
    np.testing.assert_array_equal(TextReader(TEXT).read(text.encode()), TEXT.apply(text)[:4])
    kept = AudioReader(AUDIO).read(sound)
    np.testing.assert_array_equal(kept, AUDIO.apply(sound)[: len(kept)])


def test_buckets_take_every_row_once_and_hardly_pad() -> None:
    rng = np.random.default_rng(0)
    lengths, order = rng.integers(1, 100, 1003), rng.permutation(1003)
    sizes = np.diff(np.arange(121) * 1003 // 120)
    dealt = bucketed(order, lengths, sizes, rng)
    assert sorted(dealt) == list(range(1003))

    def padded(rows: np.ndarray) -> float:
        return sum(len(part) * lengths[part].max() for part in np.split(rows, np.cumsum(sizes)[:-1])) / lengths.sum()

    assert padded(order) > 1.5
    assert padded(dealt) < 1.1
    means = [lengths[part].mean() for part in np.split(dealt, np.cumsum(sizes)[:-1])]
    assert abs(np.corrcoef(means, np.arange(120))[0, 1]) < 0.3  # short rows do not come first
    assert bucketed(order[:0], lengths, sizes[:0], rng).size == 0


def series(count: int = 60) -> pa.Table:
    """Arrays of two values a step that rise or fall."""
    rng, labels = np.random.default_rng(0), ["down", "up"] * (count // 2)
    rows = []
    for label in labels:
        steps = rng.normal(size=(rng.integers(2, 15), 2))
        steps[:, 0] += np.linspace(-2, 2, len(steps)) * (1 if label == "up" else -1)
        rows.append(steps.ravel())
    split = (["train"] * 4 + ["validation"] * 2) * (count // 6)
    return pa.table({"series": pa.array(rows, pa.list_(pa.float32())), "label": labels, "split": split})


def test_a_network_learns_arrays_of_any_length() -> None:
    preprocessing = SeriesPreprocessing(channels=2, max_length=20, std=(2.0, 1.0))
    network = load_network("lstm", weights="random", seed=1, preprocessing=preprocessing, hidden=(8,), pooling="last")
    result = fit(series(), WholeNetwork.of(network), "series", epochs=12)
    assert result.validation["accuracy"] >= 0.9
    rows = series()["series"].to_pylist()
    answers = Predictor(model_of(result).to_files()).predict([rows[0], rows[1][:2], rows[0][:3], []])
    assert [answer.error and answer.error.kind for answer in answers] == [None, None, "wrong shape", "empty"]
    odd = series().set_column(0, "series", pa.array([[1.0], [], *rows[2:]], pa.list_(pa.float32())))
    with pytest.raises(ColumnError, match="2 of 60 rows cannot be trained on") as caught:
        fit(odd, WholeNetwork.of(network), "series")
    assert "1 where the series cannot be read (wrong shape)" in str(caught.value)


@pytest.mark.spark
@pytest.mark.timeout(300)
def test_a_cluster_trains_texts_to_the_bits_of_one_process_and_scores_them(spark) -> None:
    table = sentences()
    rows = spark.createDataFrame(table.to_pandas()).repartition(3)
    result = fit(rows, texts_subject(), epochs=1)
    same(result, fit(table, texts_subject(), epochs=1))
    texts = ["so good", "", None, "a " * 100, "bad it"]
    scored = ModelTransformer(model=model_of(result), inputCol="text", maxErrorRate=1.0).transform(
        spark.createDataFrame([(text,) for text in texts], "text string")
    )
    found = {row["text"]: row for row in scored.collect()}
    kinds = [found[text]["error"] and found[text]["error"]["kind"] for text in texts]
    assert kinds == [None, "empty", "empty", "too long", None]
    alone = Predictor(model_of(result).to_files()).predict(["so good", "bad it"])
    for answer, text in zip(alone, ("so good", "bad it"), strict=True):
        assert found[text]["prediction"] == answer.label
        assert found[text]["probability"] == pytest.approx(answer.probability, abs=1e-6)
    network = load_network(
        "gru", weights="random", preprocessing=SeriesPreprocessing(max_length=5), classes=["a", "b"], hidden=(4,)
    )
    arrays = [[1.0, 2.0], [3.0], [1.0] * 9, None]
    frame = spark.createDataFrame([(array,) for array in arrays], "content array<double>")
    scored = ModelTransformer(model=network, maxErrorRate=1.0).transform(frame).collect()
    alone = Predictor(Model.of_network(network).to_files()).predict(arrays[:3])
    assert [row["prediction"] for row in scored] == [answer.label for answer in alone] + [None]
    assert [row["error"] and row["error"]["kind"] for row in scored] == [None, None, "too long", "empty"]
