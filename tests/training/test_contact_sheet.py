"""The sheet of augmented photos, and how a training tells of it."""

import base64
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sparkwright.events import Event, PhotosAugmented
from sparkwright.networks.augmentation import Augmentation
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.preprocessing import Preprocessing
from sparkwright.training.arrays import fit_table
from sparkwright.training.config import TrainingConfig
from sparkwright.training.contact_sheet import draw_contact_sheet
from sparkwright.training.subject import WholeNetwork


@pytest.mark.parametrize("channels", [3, 1])
def test_a_contact_sheet_has_24_photos_all_changed_anew(channels: int) -> None:
    photos = np.random.default_rng(0).integers(0, 255, (2, 32, 48, channels), dtype=np.uint8)
    sheet = draw_contact_sheet(photos, Augmentation(crop=(0.3, 0.8)), seed=3)
    drawn = Image.open(io.BytesIO(sheet))
    assert (drawn.format, drawn.size) == ("JPEG", (6 * 50 - 2, 4 * 34 - 2))
    tiles = {drawn.crop((x, y, x + 48, y + 32)).tobytes() for x in range(0, 300, 50) for y in range(0, 136, 34)}
    assert len(tiles) == 24
    assert draw_contact_sheet(photos, Augmentation(crop=(0.3, 0.8)), seed=3) == sheet
    assert draw_contact_sheet(photos[:0], Augmentation(crop=(0.3, 0.8))) == b""


def _sheets(augmentation: str | None) -> list[bytes]:
    """Train on photos of one colour each, of which the red ones validate; return the sheets that are told of."""
    contents = []
    for colour in ("blue", "red") * 8:
        file = io.BytesIO()
        Image.new("RGB", (9, 9), colour).save(file, "PNG")
        contents.append(file.getvalue())
    sides = ["train", "validation"] * 8
    rows = {"content": pa.array(contents, pa.binary()), "label": list("aabb") * 4, "split": sides}
    preprocessing = Preprocessing((8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, augmentation=augmentation)
    network = load_network("small_cnn", weights="random", input_shape=(3, 8, 8), channels=(2, 2), features=2)
    subject = WholeNetwork.of(network.with_preprocessing(preprocessing), new_head=True)
    told: list[Event] = []
    config = TrainingConfig(epochs=1, replicas=2)
    fit_table(pa.table(rows), config, features="content", split="split", subject=subject, emit=told.append)
    return [base64.b64decode(event.sheet) for event in told if isinstance(event, PhotosAugmented)]


def test_a_training_tells_once_of_training_photos_that_it_augments_and_of_no_others() -> None:
    (sheet,) = _sheets("photos")
    pixels = np.asarray(Image.open(io.BytesIO(sheet))).reshape(-1, 3).astype(int)
    assert np.mean(pixels[:, 2] > pixels[:, 0] + 50) > 0.5  # blue
    assert not np.any(pixels[:, 0] > pixels[:, 2] + 50)
    assert _sheets(None) == []
