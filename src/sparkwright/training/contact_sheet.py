"""A contact sheet: photos as a network sees them in training, to judge by eye whether they are still what they are."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparkwright.networks.augmentation import Augmentation
from sparkwright.training.rows.encoding import TRAIN
from sparkwright.training.rows.readers import ImageReader, Reader
from sparkwright.training.rows.store import Rows

__all__ = ["contact_sheet", "draw_contact_sheet"]

_TILES = 24
_COLUMNS = 6
_SIDE = 128  # pixels of a tile's longer side, at most
_GAP = (112, 122, 134)  # between tiles: parts photos on a white ground too, on a light page as on a dark one


def contact_sheet(reader: Reader, rows: Mapping[int, Rows]) -> bytes:
    """Return some training photos of one replica that is hosted here, augmented; nothing where none are.

    Args:
        reader: What reads the rows.
        rows: Of each hosted replica. A replica's have the order of their hashes, so that the first are of all classes.
    """
    if not isinstance(reader, ImageReader) or reader.preprocessing.augmentation is None or not rows:
        return b""
    own = next(iter(rows.values()))
    photos = np.asarray(own.x.take(own.order([TRAIN])[:_TILES]))
    return draw_contact_sheet(photos, reader.preprocessing.augmentation)


def draw_contact_sheet(photos: NDArray[np.uint8], augmentation: Augmentation, seed: int = 0) -> bytes:
    """Return augmented photos side by side.

    Args:
        photos: Decoded and cropped, of shape (photos, height, width, channels). Fewer than 24 come several times, each
            time changed anew.
        augmentation: What changes them.
        seed: Of what is drawn.

    Returns:
        A JPEG of 24 tiles; nothing without photos.
    """
    if not len(photos):
        return b""
    tiles = np.stack(
        [
            augmentation.apply(photos[number % len(photos)], np.random.default_rng((seed, number)))
            for number in range(_TILES)
        ]
    )
    if augmentation.mixup:
        share, partner = augmentation.mixing(_TILES, np.random.default_rng((seed, _TILES)))
        tiles = np.rint(share * tiles + (1 - share) * tiles[partner]).astype(np.uint8)
    return _sheet(tiles)


def _sheet(tiles: NDArray[np.uint8]) -> bytes:
    """Return tiles of shape (photos, height, width, channels) in rows of `_COLUMNS`, made small."""
    height, width = tiles.shape[1:3]
    scale = min(1, _SIDE / max(height, width))
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (_COLUMNS * (across + 2) - 2, -(-len(tiles) // _COLUMNS) * (down + 2) - 2), _GAP)
    for number, tile in enumerate(tiles):
        small = Image.fromarray(tile[:, :, 0] if tile.shape[2] == 1 else tile).resize((across, down))
        sheet.paste(small, (number % _COLUMNS * (across + 2), number // _COLUMNS * (down + 2)))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=80)
    return out.getvalue()
