"""Aerial photos of 21 kinds of land use: transfer learning with given folders, three seeds, an asserted accuracy.

    python examples/aerial.py PHOTOS NETWORK RUN

PHOTOS holds train/CLASS/… and test/CLASS/… (UC Merced, 80 and 20 photos a class); NETWORK is a name from
`sparkwright networks`, or a file or folder with a network; RUN is where the runs go. A fifth of the training photos
validates, picked by the seed. Mean accuracy on the test photos over three seeds must be at least 0.955.
"""

import statistics
import sys

from sparkwright import session
from sparkwright.transfer import transfer

EXPECTED = 0.955  # of UC Merced's 80/20 split and MobileNet v1 0.75


def main(photos: str, network: str, out: str) -> None:
    """Run the protocol with three seeds and assert the mean accuracy."""
    spark = session.start()
    accuracies = []
    for seed in range(3):
        result = transfer(
            spark,
            photos,
            network,
            f"{out}/seed-{seed}",
            split="folder",
            seed=seed,
            reuse=[f"{out}/seed-{done}/features" for done in range(seed)],
            overwrite=True,
        )
        test = result.metrics["test"]
        accuracies.append(test["accuracy"])
        low, high = test["accuracy_interval"]
        print(f"seed {seed}: test accuracy {test['accuracy']:.4f} ({low:.4f} to {high:.4f}) on {test['rows']:,} photos")
    mean = statistics.mean(accuracies)
    print(f"mean test accuracy of {len(accuracies)} seeds: {mean:.4f}")
    assert mean >= EXPECTED, f"expected at least {EXPECTED}"
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
