"""Photos as rows: what is kept of them, what the network gets of them, and that both are what scoring has."""

import copy
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from sparkwright.events import Event, Warned
from sparkwright.networks.augmentation import Augmentation
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.replica import Replica, Shard
from sparkwright.training.rows.kept import Kept
from sparkwright.training.rows.readers import Draw, ImageReader, NumberReader
from sparkwright.training.subject import WholeNetwork
from sparkwright.training.tasks import Classification

pytestmark = pytest.mark.timeout(120)

DRAW = Draw(seed=0, epoch=1, replica=2, step=3)
ALL = Augmentation(crop=(0.5, 1), flip_horizontal=0.5, rotate=10, brightness=0.2, saturation=0.2, cutout=0.2)


def photo(number: int, width: int = 60, height: int = 44) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(out, "JPEG")
    return out.getvalue()


def kept(reader: ImageReader, count: int = 6) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    raw = np.stack([reader.read(photo(number)) for number in range(count)])
    return raw, np.arange(count, dtype=np.int64) - 3  # keys are signed


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_inputs_without_a_draw_are_those_of_scoring_bit_for_bit(channels: str) -> None:
    preprocessing = Preprocessing((32, 32), channels=channels, mean=(0.4, 0.5, 0.6), augmentation=ALL)  # type: ignore[arg-type]
    reader = ImageReader(preprocessing)
    raw, keys = kept(reader)
    assert raw.dtype == np.uint8
    assert raw.shape[1:] == reader.row_shape == (32, 32, 3)
    scored = np.stack([preprocessing.apply(photo(number)) for number in range(6)])
    assert np.array_equal(reader.batch(raw, keys, None).numpy(), scored)


def test_augmentation_depends_on_the_rows_key_the_step_and_the_seed_alone() -> None:
    reader = ImageReader(Preprocessing((32, 32), augmentation=ALL))
    raw, keys = kept(reader)
    whole = reader.batch(raw, keys, DRAW).numpy()
    turned = reader.batch(raw[::-1].copy(), keys[::-1].copy(), Draw(0, 1, replica=0, step=3)).numpy()
    assert np.array_equal(turned[::-1], whole)
    for other in (Draw(1, 1, 2, 3), Draw(0, 1, 2, 4)):
        assert not np.array_equal(reader.batch(raw, keys, other).numpy(), whole)
    assert not np.array_equal(reader.batch(raw, keys + 1, DRAW).numpy()[0], whole[0])


def test_mixup_blends_inputs_as_it_says_and_depends_on_replica_and_step() -> None:
    plain = ImageReader(Preprocessing((32, 32)))
    mixing = ImageReader(Preprocessing((32, 32), augmentation=Augmentation(mixup=1.0)))
    raw, keys = kept(plain)
    x = plain.batch(raw, keys, DRAW).numpy()
    found = mixing.mixing(6, DRAW)
    assert found is not None
    share, partner = found
    assert mixing.batch(raw, keys, DRAW).numpy() == pytest.approx(share * x + (1 - share) * x[partner], abs=1e-5)
    assert plain.mixing(6, DRAW) is None
    others = [mixing.mixing(6, Draw(0, 1, 2, 4)), mixing.mixing(6, Draw(0, 1, 1, 3))]
    assert all(other is not None and other[0] != share for other in others)
    assert np.array_equal(mixing.batch(raw, keys, None).numpy(), x)


def test_photos_that_cannot_be_read_are_counted_by_kind_and_the_others_keep_their_order(tmp_path: Path) -> None:
    reader = ImageReader(Preprocessing((32, 32)))
    rows, problems, _ = reader.read_all(pa.array([photo(0), b"", photo(1), b"no photo"], pa.binary()))
    assert [row is None for row in rows] == [False, True, False, True]
    assert [problem for problem, _ in problems] == [
        "the photo cannot be read (empty)",
        "the photo cannot be read (unreadable)",
    ]
    assert np.array_equal(rows[2], reader.read(photo(1)))
    (tmp_path / "a.jpg").write_bytes(photo(2))
    located = ImageReader(Preprocessing((32, 32)), located=True)
    paths = [str(tmp_path / "a.jpg").encode(), str(tmp_path / "b.jpg").encode()]
    rows, problems, _ = located.read_all(pa.array(paths, pa.binary()))
    assert np.array_equal(rows[0], reader.read(photo(2)))
    assert problems == [("the photo cannot be read (not found)", f"There is no file {tmp_path / 'b.jpg'}.")]
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    _, ((_, example),), _ = located.read_all(pa.array(paths, pa.binary()))
    assert example == f"{tmp_path / 'b.jpg'}: The image cannot be decoded: it is of no known format."


def test_photos_smaller_than_the_input_are_named_where_nothing_resizes() -> None:
    reader = ImageReader(Preprocessing((100, 100), resize="none"))
    rows, problems, remarks = reader.read_all(pa.array([photo(0)], pa.binary()))
    assert rows == [None]
    ((problem, example),) = problems
    assert problem == "the photo cannot be read (wrong size)"
    assert "is smaller than the input, 100 x 100" in example
    assert remarks == []


def test_photos_that_lose_their_edges_where_nothing_resizes_are_told_of_before_the_training() -> None:
    network = load_network("digits_cnn").with_preprocessing(
        Preprocessing((16, 16), "none", channels="grey", mean=(0,), std=(1,))
    )
    exact, larger = photo(0, 16, 16), photo(1, 17, 16)
    table = {"photo": [exact, larger] * 4, "label": [0, 1] * 4}
    told: list[Event] = []
    config = TrainingConfig(epochs=1, replicas=1, learning_rate=0.001)
    fit_table(table, config, features="photo", subject=WholeNetwork.of(network, new_head=True), emit=told.append)
    assert isinstance(told[0], Warned)
    assert told[0].message.startswith("4 photos are larger than the network's input, 16 x 16, and lose all but their")
    resized = load_network("digits_cnn")  # to its input, whatever the photo
    told.clear()
    fit_table(table, config, features="photo", subject=WholeNetwork.of(resized, new_head=True), emit=told.append)
    assert not any(isinstance(event, Warned) for event in told)


def test_training_with_batches_made_ahead_has_the_bits_of_training_without(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network("digits_cnn").with_augmentation(Augmentation(crop=(0.6, 1), rotate=10, mixup=0.3))
    table = {"photo": [photo(number) for number in range(40)], "label": [number % 3 for number in range(40)]}
    config = TrainingConfig(epochs=2, batch_size=6, replicas=2, threads=2, learning_rate=0.001)
    subject = WholeNetwork.of(network, new_head=True, train_from="all")

    def weights() -> dict[str, NDArray[np.float32]]:
        result = fit_table(table, config, features="photo", subject=subject)
        assert result.network is not None
        assert result.network.preprocessing is not None
        assert result.network.preprocessing.augmentation is not None
        return result.network.weights() | result.head.weights()

    ahead = weights()
    monkeypatch.setattr(ImageReader, "ahead", False)
    one_by_one = weights()
    assert all(np.array_equal(ahead[name], one_by_one[name]) for name in ahead)
    start = network.weights()
    assert any(not np.array_equal(ahead[name], start[name]) for name in start if name in ahead)


class Mixing(NumberReader):
    """Rows of numbers that say they were blended, and were not."""

    def mixing(self, rows: int, draw: Draw) -> tuple[float, NDArray[np.int64]] | None:
        return 0.3, np.arange(rows, dtype=np.int64)[::-1].copy()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_mixup_blends_the_losses_with_those_of_the_partners_targets(accumulate: int) -> None:
    x, y, w = torch.randn(4, 3), torch.tensor([0, 1, 1, 2]), torch.tensor([1.0, 2.0, 1.0, 0.5])
    shard = Shard(Kept(x.numpy()), y, w, np.arange(4), np.arange(4), Mixing())
    config = TrainingConfig(batch_size=4 // accumulate, accumulate=accumulate, replicas=1, seed=5)
    layer = nn.Linear(3, 3)
    task = Classification(np.ones(3, np.float32), 0)
    replica = Replica(0, copy.deepcopy(layer), shard, task, config)
    replica.start_epoch(1, 1)
    replica.backward(0, 1)
    (batch,) = replica._batches
    output = layer(x[batch])
    partner = batch.flip(0)
    if accumulate == 1:
        loss = 0.3 * task.loss(output, y[batch], w[batch]) + 0.7 * task.loss(output, y[partner], w[partner])
    else:
        loss = sum(  # type: ignore[assignment]
            0.3 * task.loss(output[part], y[batch[part]], w[batch[part]]) / 2
            + 0.7 * task.loss(output[part], y[partner[part]], w[partner[part]]) / 2
            for part in (slice(0, 2), slice(2, 4))
        )
    loss.backward()  # type: ignore[no-untyped-call]
    for own, expected in zip(replica.module.parameters(), layer.parameters(), strict=True):
        assert own.grad is not None
        assert expected.grad is not None
        assert torch.allclose(own.grad, expected.grad, atol=1e-6)
    assert replica.loss_sum == pytest.approx(4 * float(loss.detach()), rel=1e-5)
