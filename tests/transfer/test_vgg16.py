"""VGG16, the classic of the field, goes the same way as a small network: 138 million weights, 4,096 features."""

import pytest

from sparkwright.data.digits import write_digits
from sparkwright.scoring.feature_set import open_features
from sparkwright.training.config import TrainingConfig
from sparkwright.transfer import transfer


@pytest.mark.timeout(300)
def test_vgg16_cut_at_fc2_gives_4096_features_and_a_model(spark, tmp_path):
    write_digits(tmp_path / "all", digits=[5, 6])
    for path in sorted((tmp_path / "all").glob("*/*.png"))[::36]:
        target = tmp_path / "photos" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    result = transfer(
        spark,
        str(tmp_path / "photos"),
        "vgg16",
        str(tmp_path / "run"),
        weights="random",
        layer="fc2",
        training=TrainingConfig(epochs=2, replicas=2),
    )
    features = open_features(spark, f"{result.run}/features")
    assert features.manifest.key.width == 4096
    assert {len(row["features"]) for row in features.rows.select("features").collect()} == {4096}
    assert result.metrics["data"]["errors"]["count"] == 0
    assert result.model.full.summary().to_dict()["parameters"] > 134_000_000
