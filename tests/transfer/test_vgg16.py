"""VGG16, the classic of the field, goes the same way as a small network: 138 million weights, 4,096 features."""

import numpy as np
import pytest

from sparkwright.data.digits import write_digits
from sparkwright.data.images import read_images
from sparkwright.models import Model
from sparkwright.scoring.features import featurize
from sparkwright.training.arrays import fit_arrays
from sparkwright.training.config import TrainingConfig
from sparkwright.transfer import load_cut


@pytest.mark.timeout(300)
def test_vgg16_cut_at_fc2_gives_4096_features_and_a_model(spark, tmp_path):
    write_digits(tmp_path / "all", digits=[5, 6])
    for path in sorted((tmp_path / "all").glob("*/*.png"))[::90]:
        target = tmp_path / "photos" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    cut = load_cut("vgg16", "random", None, "fc2")
    photos = read_images(spark, str(tmp_path / "photos"), labels="folder")
    made = featurize(spark, photos.rows.coalesce(1), cut, str(tmp_path / "features"))
    assert (made.manifest.key.width, made.manifest.errors) == (4096, 0)
    rows = made.rows.collect()
    features = np.array([row["features"] for row in rows], np.float32)
    assert features.shape == (photos.files, 4096)
    trained = fit_arrays(features, [row["label"] for row in rows], TrainingConfig(epochs=2, replicas=2))
    model = Model(network=cut, head=trained.head, task="classification", classes=trained.classes)
    assert model.full.summary().to_dict()["parameters"] > 134_000_000
