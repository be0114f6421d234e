"""Whole networks train like heads do: the same bits for any number of workers, frozen layers as they were."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from sparkwright.errors import ColumnError, InputError
from sparkwright.models import Model
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica
from sparkwright.training.result import TrainingResult
from sparkwright.training.subject import Head, WholeNetwork

SMALL = {"input_shape": (3, 16, 16), "outputs": 2, "channels": (4, 8), "features": 8}
PREPROCESSING = Preprocessing((16, 16), resize="exact", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def photo(label: str, seed: int) -> bytes:
    """A noisy photo, dark above and bright below, or the other way round."""
    pixels = np.random.default_rng(seed).normal(128, 40, (20, 24, 3))
    pixels[:10] += 40 if label == "bright" else -40
    pixels[10:] -= 40 if label == "bright" else -40
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def photos(count: int = 48) -> pa.Table:
    labels = ["bright", "dark"] * (count // 2)
    content = pa.array([photo(label, seed) for seed, label in enumerate(labels)], pa.binary())
    split = (["train"] * 4 + ["validation"] * 2) * (count // 6)
    return pa.table({"content": content, "label": labels, "split": split})


def small_cnn(**options: Any):
    network = load_network("small_cnn", weights="random", seed=1, **SMALL, **options)
    return network.with_preprocessing(PREPROCESSING)


def config(**changes: Any) -> TrainingConfig:
    plain = {"epochs": 3, "replicas": 2, "batch_size": 8, "sync_every": 2, "learning_rate": 0.01, "weight_decay": 0.01}
    return TrainingConfig(**{**plain, **changes})


def fit(subject: WholeNetwork, table: pa.Table, **changes: Any) -> TrainingResult:
    return fit_table(table, config(**changes), features="content", split="split", subject=subject)


def weights(result: TrainingResult) -> Mapping[str, np.ndarray]:
    head = {} if result.head is None else {f"head.{name}": value for name, value in result.head.weights().items()}
    assert result.network is not None
    return {**result.network.weights(), **head}


def test_a_network_with_a_new_head_learns_photos() -> None:
    result = fit(WholeNetwork.of(small_cnn(), new_head=True), photos(), epochs=8)
    assert result.classes == ("bright", "dark")
    assert result.validation["accuracy"] == 1.0
    assert result.network is not None
    assert result.network.layer == "fc1"
    model = Model(result.network, result.head, "classification", result.classes)
    scores = model.full.forward(PREPROCESSING.apply(photo("dark", 1000))[None])
    assert scores.argmax() == 1


@pytest.mark.parametrize("strategy", ["averaging", "all_reduce", "outer"])
@pytest.mark.parametrize("batch_norm", ["averaged", "local", "frozen"])
def test_frozen_layers_stay_bit_equal_and_others_move(strategy: str, batch_norm: str) -> None:
    network = small_cnn()
    subject = WholeNetwork.of(network, new_head=True, train_from="block2")
    before, after = network.weights(), weights(fit(subject, photos(), strategy=strategy, batch_norm=batch_norm))
    for name, value in after.items():
        if name.startswith("block1"):
            np.testing.assert_array_equal(value, before[name], name)
    assert not np.array_equal(after["block2.conv.weight"], before["block2.conv.weight"])
    moved = not np.array_equal(after["block2.bn.running_mean"], before["block2.bn.running_mean"])
    assert moved == (batch_norm != "frozen")
    assert (after["block2.bn.running_var"] >= 0).all()


def test_statistics_are_those_of_all_replicas() -> None:
    """With a rate of almost nothing, and momentum 1 for a step, they are the means over the replicas' batches."""
    network = small_cnn()
    network.module.block1.bn.momentum = 1.0
    table = photos().filter(pa.compute.equal(pa.array((["train"] * 4 + ["validation"] * 2) * 8), "train"))
    shares = fit(
        WholeNetwork.of(network, new_head=True), table, epochs=1, batch_size=64, learning_rate=1e-12, weight_decay=0
    )
    x = np.stack([PREPROCESSING.apply(content.as_py()) for content in table["content"]])
    with torch.no_grad():
        maps = network.module.block1.conv(torch.from_numpy(x))
    # Each photo counts alike: a replica's statistics weigh as much as it has photos.
    np.testing.assert_allclose(weights(shares)["block1.bn.running_mean"], maps.mean((0, 2, 3)), atol=1e-5)


def test_going_on_from_a_model_keeps_what_its_classes_are() -> None:
    first = fit(WholeNetwork.of(small_cnn(), new_head=True, train_from="head"), photos())
    model = Model(first.network, first.head, "classification", first.classes)
    again = fit(WholeNetwork.of(model, train_from="all"), photos(), epochs=1, learning_rate=1e-9, weight_decay=0)
    for name, value in weights(first).items():
        if not name.startswith("head") and "running" not in name and "num_batches" not in name:
            np.testing.assert_allclose(weights(again)[name], value, atol=1e-6)
    assert again.classes == ("bright", "dark")
    odd = photos().set_column(1, "label", pa.array(["bright", "dim"] * 24))
    with pytest.raises(ColumnError, match="`label` holds labels that are no classes: dim"):
        fit(WholeNetwork.of(model), odd)


def test_photos_that_cannot_be_read_are_counted() -> None:
    table = photos()
    content = table["content"].to_pylist()
    content[0], content[1], content[2] = b"no photo", None, b""
    table = table.set_column(0, "content", pa.array(content, pa.binary()))
    subject = WholeNetwork.of(small_cnn(), new_head=True)
    with pytest.raises(ColumnError, match=r"3 of 48 rows .* 1 where the photo cannot be read \(unreadable\)") as caught:
        fit(subject, table)
    assert "1 where `content` is null" in str(caught.value)
    assert "1 where `content` is empty" in str(caught.value)
    result = fit_table(table, config(epochs=1), features="content", split="split", subject=subject, invalid="skip")
    assert result.skipped == 3
    assert sum(result.rows.values()) == 45


def test_paths_are_read_where_the_rows_are(tmp_path) -> None:
    table = photos(12)
    paths = []
    for number, content in enumerate(table["content"].to_pylist()):
        paths.append(str(tmp_path / f"{number}.png"))
        (tmp_path / f"{number}.png").write_bytes(content)
    (tmp_path / "3.png").unlink()
    subject = WholeNetwork.of(small_cnn(), new_head=True)
    result = fit_table(
        table.set_column(0, "content", pa.array(paths)),
        config(epochs=1),
        features="content",
        split="split",
        subject=subject,
        invalid="skip",
    )
    assert result.skipped == 1


@pytest.mark.parametrize(
    ("train_from", "message"),
    [
        ("block3", "The network `small_cnn` has no layer `block3`. Did you mean `block2`?"),
        ("al", "The network `small_cnn` has no layer `al`. Did you mean `all`?"),
        (
            "fc1.act",
            "Nothing of the network `small_cnn` would train: all of its layers with weights are frozen when it",
        ),
    ],
)
def test_a_layer_that_leaves_nothing_to_train_is_refused(train_from: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        WholeNetwork.of(small_cnn().cut("fc1"), train_from=train_from)


def test_labels_that_the_network_has_no_outputs_for_are_refused() -> None:
    network = load_network("small_cnn", weights="random", **{**SMALL, "outputs": 5}).with_preprocessing(PREPROCESSING)
    with pytest.raises(InputError, match=r"gives outputs of shape \(5,\), but the labels want 2. Give it a new head"):
        fit(WholeNetwork.of(network), photos())


def test_a_regression_without_a_linear_layer_at_its_end_is_refused() -> None:
    rng = np.random.default_rng(0)
    table = {"x": rng.normal(size=(20, 256)), "y": rng.normal(size=20)}
    network = load_network("small_cnn", weights="random", input_shape=(1, 16, 16), outputs=1, features=1).cut("fc1")
    with pytest.raises(InputError, match="it must be linear, have a bias, and train; `fc1` of `small_cnn` is not so"):
        fit_table(table, config(task="regression"), features="x", label="y", subject=WholeNetwork.of(network))


def test_rows_of_numbers_train_a_network_that_takes_their_shape() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 256)).astype(np.float32)
    y = np.where(x[:, :128].sum(1) > x[:, 128:].sum(1), "top", "bottom")
    network = load_network("small_cnn", weights="random", input_shape=(1, 16, 16), outputs=2, channels=(4,))
    result = fit_table({"x": x, "y": y}, config(), features="x", label="y", subject=WholeNetwork.of(network))
    assert result.head is None
    assert result.network is not None
    assert result.network.classes == ("bottom", "top")
    with pytest.raises(InputError, match="The rows have 255 numbers; the network `small_cnn` takes 1 x 16 x 16"):
        fit_table({"x": x[:, 1:], "y": y}, config(), features="x", label="y", subject=WholeNetwork.of(network))


class Stop(Exception):  # noqa: N818
    """The power fails."""


@pytest.mark.parametrize("step", [8, 13])
@pytest.mark.parametrize(
    ("strategy", "batch_norm", "more"),
    [
        ("averaging", "averaged", {"weight_average": "ema"}),
        ("averaging", "local", {"compression": "int8"}),
        ("averaging", "local", {}),
        ("all_reduce", "averaged", {"compression": "topk"}),
        ("all_reduce", "local", {"weight_average": "ema"}),
        ("outer", "averaged", {"pull": 0.5}),
        ("outer", "local", {"on_not_finite": "retry"}),
    ],
)
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    strategy: str, batch_norm: str, more: dict[str, Any], step: int, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"strategy": strategy, "batch_norm": batch_norm, "sync_every": 1, **more}
    subject = WholeNetwork.of(small_cnn(), new_head=True)
    expected = weights(fit(subject, photos(), **settings))
    backward, done = Replica.backward, [0]

    def stop(replica: Replica, number: int, count: int) -> None:
        done[0] += 1
        if done[0] == step:
            raise Stop
        backward(replica, number, count)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "backward", stop)
        with pytest.raises(Stop):
            fit_table(
                photos(),
                config(**settings),
                features="content",
                split="split",
                subject=subject,
                run=str(tmp_path),
                checkpoint_s=0,
            )
    result = fit_table(
        photos(), config(**settings), features="content", split="split", subject=subject, run=str(tmp_path)
    )
    for name, value in weights(result).items():
        np.testing.assert_array_equal(value, expected[name], name)


def test_layers_stay_bit_equal_until_their_epoch_and_then_train() -> None:
    network, table = small_cnn(), photos()
    subject, before = WholeNetwork.of(network, new_head=True), network.weights()
    table = table.set_column(2, "split", pa.array(["train"] * len(table)))  # so that the last epoch's weights are kept
    two = weights(fit(subject, table, epochs=2, unfreeze={1: "head"}))
    same = {name for name, value in before.items() if name in two and np.array_equal(two[name], value)}
    assert same == {name for name in two if not name.startswith("head")}
    three = weights(fit(subject, table, epochs=3, unfreeze={1: "head", 3: "block2"}))
    same = {name for name, value in before.items() if name in three and np.array_equal(three[name], value)}
    assert same == {name for name in three if name.startswith("block1") or "num_batches" in name}


def test_a_table_of_layers_that_cannot_be_is_refused() -> None:
    subject = WholeNetwork.of(small_cnn(), new_head=True)
    with pytest.raises(InputError, match="`unfreeze` names `block7`, which is no layer of the network"):
        fit(subject, photos(), unfreeze={1: "head", 2: "block7"})
    with pytest.raises(InputError, match="`unfreeze` must map epochs, the first of which is 1, to layers"):
        config(unfreeze={2: "head"})
    late = "`unfreeze` lets `all` train from epoch 4 on, but `epochs` is 3, so it never would: raise `epochs`, or name"
    with pytest.raises(InputError, match=late):
        config(epochs=3, unfreeze={1: "head", 3: "block2", "4": "all"})


def test_a_refit_ends_before_the_layers_begin_that_had_not_begun_in_the_best_epoch() -> None:
    subject = WholeNetwork.of(small_cnn(), new_head=True)
    # At such a rate the network is worse as soon as it trains.
    rates = {"schedule": "table", "rate_table": {0: 0.001, 1: 10.0}}
    result = fit(subject, photos(), epochs=2, refit=True, unfreeze={1: "head", 2: "all"}, optimizer="sgd", **rates)
    assert result.best_epoch == 1
    before = small_cnn().weights()
    assert all(np.array_equal(value, before[name]) for name, value in weights(result).items() if name in before)


def test_layers_that_are_not_there_are_named_without_a_row() -> None:
    subject = WholeNetwork.of(small_cnn(), new_head=True)
    subject.check(config(unfreeze={1: "head", 2: "block2"}, layer_rates={"block1": 0.1}))
    with pytest.raises(InputError, match=r"`unfreeze` names `blok2`.*Did you mean `block2`\?"):
        subject.check(config(unfreeze={1: "head", 2: "blok2"}))
    with pytest.raises(InputError, match=r"`layer_rates` names `hidden2`.*Did you mean `hidden1`\?"):
        Head().check(config(hidden=(4,), layer_rates={"hidden2": 0.1}))


def test_a_layer_has_a_rate_by_either_of_its_names() -> None:
    subject = WholeNetwork.of(load_network("resnet20", weights="random"), new_head=True)
    named = subject.named(config(layer_rates={"block2": 0.1}))
    assert named.layer_rates == {"layer2": 0.1}
    subject.check(config(layer_rates={"block2": 0.1}))
