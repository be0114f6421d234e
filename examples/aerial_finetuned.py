"""Aerial photos of 21 kinds of land use: the whole network is fine-tuned, three seeds, an asserted accuracy.

    python examples/aerial_finetuned.py PHOTOS NETWORK RUN

PHOTOS holds train/CLASS/… and test/CLASS/… (UC Merced, 80 and 20 photos a class); NETWORK is a name from
`sparkwright networks`, or a file or folder with a network; RUN is where the runs go. The network sees whole tiles, not
their centres. A head is trained on its features, then all layers on the photos themselves, augmented. A fifth of the
training photos, picked by the seed, chooses the best epoch. Mean accuracy on the test photos over three seeds must be
at least 0.96, which a head on features reaches with all 80 photos of a class (`aerial.py`). Some minutes a seed on two
cores.
"""

import dataclasses
import statistics
import sys

from sparkwright import session
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.network import Network
from sparkwright.training.config import FINETUNING, TrainingConfig
from sparkwright.transfer import transfer

EXPECTED = 0.96  # of UC Merced and MobileNet v1 0.75, with 64 photos a class to train on

HEAD = TrainingConfig(replicas=2)  # two copies of the network, each with half of the photos
WHOLE = FINETUNING.replace(label_smoothing=0.1, sync_every=8, channels_last=True)


def main(photos: str, network: str, out: str) -> None:
    """Run the protocol with three seeds and assert the mean accuracy."""
    spark = session.start()
    whole_tiles, accuracies = seeing_whole(load_network(network)), []
    for seed in range(3):
        result = transfer(
            spark,
            photos,
            whole_tiles,
            f"{out}/seed-{seed}",
            split="folder",
            seed=seed,
            training=HEAD,
            finetune="all",
            finetuning=WHOLE,
            augmentation="aerial",
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


def seeing_whole(network: Network) -> Network:
    """Return the network with photos resized to its input; most are made for the centre of a larger one."""
    return network.with_preprocessing(dataclasses.replace(network.preprocessing, short_side=None))


if __name__ == "__main__":
    main(*sys.argv[1:])
