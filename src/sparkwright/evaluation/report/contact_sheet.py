"""A contact sheet: photos as a network sees them in training, to judge by eye whether they are still what they are."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparkwright.networks.preprocessing import ImageError, Preprocessing

__all__ = ["TILES", "draw_contact_sheet"]

TILES = 24
"""Photos of a sheet."""

_COLUMNS = 6
_SIDE = 128  # pixels of a tile's longer side, at most
_GAP = (112, 122, 134)  # between tiles: parts photos on a white ground too, on a light page as on a dark one


def draw_contact_sheet(photos: Sequence[bytes], preprocessing: Preprocessing, seed: int = 0) -> bytes:
    """Return augmented photos side by side.

    Args:
        photos: Files' bytes; what cannot be read is left out. Fewer than `TILES` come several times, each time changed
            anew.
        preprocessing: Decodes, crops and augments them.
        seed: Of what is drawn.

    Returns:
        A JPEG of `TILES` tiles; nothing without augmentation or without photos.
    """
    augmentation = preprocessing.augmentation
    cropped = _cropped(photos, preprocessing)
    if augmentation is None or not cropped:
        return b""
    tiles = np.stack(
        [
            augmentation.apply(cropped[number % len(cropped)], np.random.default_rng((seed, number)))
            for number in range(TILES)
        ]
    )
    if augmentation.mixup:
        share, partner = augmentation.mixing(TILES, np.random.default_rng((seed, TILES)))
        tiles = np.rint(share * tiles + (1 - share) * tiles[partner]).astype(np.uint8)
    return _sheet(tiles)


def _cropped(photos: Sequence[bytes], preprocessing: Preprocessing) -> list[NDArray[np.uint8]]:
    found = []
    for photo in photos[:TILES]:
        try:
            found.append(preprocessing.crop(photo))
        except ImageError:
            continue
    return found


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
