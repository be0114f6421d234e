"""P6: what the docs call the default is the default."""

import dataclasses

from sparkwright.training.config import TrainingConfig


def test_every_setting_of_a_training_is_documented() -> None:
    documented = TrainingConfig.__doc__ or ""
    missing = [f.name for f in dataclasses.fields(TrainingConfig) if f"        {f.name}: " not in documented]
    assert missing == []


def test_the_estimators_take_their_defaults_from_the_configuration() -> None:
    from sparkwright.training.estimators import MLPClassifier

    config = TrainingConfig()
    fields = {f.name for f in dataclasses.fields(TrainingConfig)} - {"task"}
    assert set(MLPClassifier.fields.values()) == fields
    assert all(hasattr(config, field) for field in fields)
