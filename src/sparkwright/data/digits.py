"""scikit-learn's handwritten digits as real picture files: data that is there without a network."""

from collections.abc import Iterable
from pathlib import Path

from sparkwright.errors import InputError

__all__ = ["write_digits"]

SCALE = 4


def write_digits(folder: Path, digits: Iterable[int] = range(10)) -> int:
    """Write the chosen digits as grey PNG files of 32 x 32 pixels: ``folder/7/0042.png``.

    The originals have 8 x 8 pixels of 17 grey values; each becomes a square of `SCALE` x `SCALE`, so that nothing is
    lost and nothing added. The number is the row in scikit-learn's data set. The same call writes the same bytes.

    Args:
        folder: Made if it is missing; files of the same names are overwritten.
        digits: Which of 0 to 9.

    Returns:
        How many files: about 180 a digit, 1,797 in all.

    Raises:
        InputError: A digit is not one of 0 to 9.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    chosen = set(digits)
    if not chosen or not chosen <= set(range(10)):
        raise InputError(f"The digits must be some of 0 to 9, not {sorted(chosen)}.")
    bunch = load_digits()
    written = 0
    for number, (image_HW, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        if int(label) in chosen:
            file = Path(folder) / str(int(label)) / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            grey_HW = np.round(image_HW * (255 / 16)).astype(np.uint8)
            Image.fromarray(np.kron(grey_HW, np.ones((SCALE, SCALE), np.uint8))).save(file)
            written += 1
    return written
