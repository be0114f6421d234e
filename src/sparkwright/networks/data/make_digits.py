"""Make ``digits.safetensors``: the weights of the catalogue's `digits_cnn`, trained on the digits 0 to 4 alone.

Run it as ``python src/sparkwright/networks/data/make_digits.py``; it takes half a minute on one core. Four fifths of
the images train; the script fails where fewer than 98 % of the others are labelled right.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from sparkwright.data.digits import write_digits
from sparkwright.networks.catalogue import CATALOGUE, load_network

_DIGITS = range(5)
_EPOCHS = 30
_SHIFT = 2  # pixels; every image is moved at random, so that the features do not depend on its place


def main() -> None:
    """Train, check and save."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = load_network("digits_cnn", weights="random")
    x, y = _images()
    is_test = np.arange(len(x)) % 5 == 4
    module = network.to_module()  # type: ignore[attr-defined]
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=1e-2)
    inputs, targets = torch.from_numpy(x[~is_test]), torch.from_numpy(y[~is_test])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 3e-3, epochs=_EPOCHS, steps_per_epoch=len(inputs) // 64 + 1
    )
    module.train()
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(inputs)), 64):
            shift = [int(n) for n in torch.randint(-_SHIFT, _SHIFT + 1, (2,))]
            loss = torch.nn.functional.cross_entropy(
                module(inputs[rows].roll(shift, (2, 3))), targets[rows], label_smoothing=0.1
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    trained = network.with_weights(module.state_dict())  # type: ignore[attr-defined]
    accuracy = float(np.mean(trained.forward(x[is_test]).argmax(1) == y[is_test]))
    if accuracy < 0.98:
        raise RuntimeError(f"Only {accuracy:.3f} of {is_test.sum()} test images are right.")
    path = Path(__file__).with_name("digits.safetensors")
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, path, metadata={"test_accuracy": f"{accuracy:.4f}", "test_rows": str(is_test.sum())})


def _images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the images as the network reads them, N x 1 x 16 x 16, and their digits."""
    preprocessing = CATALOGUE["digits_cnn"].preprocessing
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder), _DIGITS)
        files = sorted(Path(folder).rglob("*.png"), key=lambda file: file.name)
        x = np.stack([preprocessing.apply(file) for file in files])  # type: ignore[union-attr]
    return x, np.array([int(file.parent.name) for file in files])


if __name__ == "__main__":
    main()
