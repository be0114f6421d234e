"""Deep learning on the Spark cluster you already have.

The public names load on first use: ``import sparkwright`` loads neither torch nor pyspark.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# ONNX Runtime's wheels (1.29 and later) report their use to Microsoft from the first import on, and keep a file for it
# in the folder for temporary ones. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Public name → module that defines it.
_HOME = {
    "Augmentation": "sparkwright.networks.augmentation",
    "AudioPreprocessing": "sparkwright.networks.audio",
    "Choice": "sparkwright.tuning.dimensions",
    "Evaluation": "sparkwright.evaluation.evaluate",
    "Featurizer": "sparkwright.scoring.featurizer",
    "FetchLimits": "sparkwright.scoring.inputs.fetch",
    "Fixed": "sparkwright.tuning.dimensions",
    "Float": "sparkwright.tuning.dimensions",
    "Images": "sparkwright.data.images",
    "Int": "sparkwright.tuning.dimensions",
    "MLPClassifier": "sparkwright.training.estimators.heads",
    "MLPRegressor": "sparkwright.training.estimators.heads",
    "Model": "sparkwright.models",
    "ModelTransformer": "sparkwright.scoring.model_transformer",
    "Network": "sparkwright.networks.network",
    "NetworkClassifier": "sparkwright.training.estimators.networks",
    "NetworkRegressor": "sparkwright.training.estimators.networks",
    "Pack": "sparkwright.data.pack",
    "Prediction": "sparkwright.scoring.predictor",
    "Predictor": "sparkwright.scoring.predictor",
    "Preprocessing": "sparkwright.networks.preprocessing",
    "SeriesPreprocessing": "sparkwright.networks.series",
    "Space": "sparkwright.tuning.space",
    "TextPreprocessing": "sparkwright.networks.text",
    "TrainingConfig": "sparkwright.training.config",
    "TrainingResult": "sparkwright.training.result",
    "Tuner": "sparkwright.tuning.tuner",
    "TuningConfig": "sparkwright.tuning.config",
    "WholeNetwork": "sparkwright.training.subject",
    "evaluate": "sparkwright.evaluation.evaluate",
    "evaluate_multilabel": "sparkwright.evaluation.evaluate",
    "evaluate_outputs": "sparkwright.evaluation.evaluate",
    "evaluate_regression": "sparkwright.evaluation.evaluate",
    "featurize": "sparkwright.scoring.features",
    "find_duplicates": "sparkwright.data.splits",
    "fit_arrays": "sparkwright.training.arrays",
    "fit_table": "sparkwright.training.arrays",
    "from_factory": "sparkwright.networks.factory",
    "load_network": "sparkwright.networks.catalogue",
    "mlp": "sparkwright.networks.mlp",
    "open_features": "sparkwright.scoring.feature_set",
    "pack": "sparkwright.data.pack",
    "predict": "sparkwright.scoring.model_transformer",
    "read_images": "sparkwright.data.images",
    "register": "sparkwright.scoring.sql",
    "reduce_precision": "sparkwright.scoring.precision",
    "split": "sparkwright.data.splits",
    "split_by_column": "sparkwright.data.splits",
    "split_by_folder": "sparkwright.data.splits",
    "split_by_table": "sparkwright.data.splits",
    "split_counts": "sparkwright.data.splits",
    "start": "sparkwright.session",
    "to_model": "sparkwright.training.estimators.models",
    "train": "sparkwright.training.cluster.fit",
    "trust": "sparkwright.networks.factory",
    "tune": "sparkwright.tuning.tune",
    "unregister": "sparkwright.scoring.sql",
}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sparkwright' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
