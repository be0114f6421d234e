"""Spaces of settings: what may be in them, what is refused, and what becomes of them in Optuna and in a training."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from sparkwright import TrainingConfig
from sparkwright.errors import InputError, NotFoundError
from sparkwright.networks.augmentation import PRESETS
from sparkwright.training.config import FINETUNING
from sparkwright.training.settings import TASKS
from sparkwright.training.tasks.classification import Classification
from sparkwright.tuning.space import Choice, Fixed, Float, Int, Space, augmentation_of, configure

CONDITIONAL = Space(
    {
        "momentum": Float(0.5, 0.9, when={"optimizer": "sgd"}),
        "optimizer": ["adamw", "sgd"],
        "learning_rate": [
            Float(1e-4, 1e-2, log=True, when={"optimizer": "adamw"}),
            Float(1e-3, 1.0, log=True, when={"optimizer": "sgd"}),
        ],
        "hidden.layers": Int(0, 2),
        "hidden.width": Int(16, 64, log=True),
        "drop_at": Choice([[0.5], [0.5, 0.75]]),
        "replicas": Fixed(2),
    }
)


def refusal(dimensions: object) -> list[str]:
    with pytest.raises(InputError, match="The space cannot be searched") as error:
        Space(dimensions)
    return list(error.value.problems)


def drawn(space: Space, trials: int) -> list[tuple[dict[str, object], dict[str, object]]]:
    """Values and Optuna's parameters of trials."""
    import optuna

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [study.ask() for _ in range(trials)]
    return [(space.suggest(trial), trial.params) for trial in asked]


@pytest.fixture(autouse=True)
def _quiet_optuna():
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def test_everything_wrong_with_a_space_is_in_one_message():
    problems = refusal(
        {
            "lerning_rate": [0.1],
            "dropout": {"low": 0.5, "high": 0.1},
            "epsilon": {"low": 0, "high": 1, "log": True},
            "batch_size": Float(1, 3),
            "accumulate": {"low": 1.5, "high": 3},
            "optimizer": ["adamm", "sgd"],
            "schedule": [],
            "momentum": {"low": 0, "high": 1.5},
            "epochs": [10, 20],
            "beta2": {"lo": 0.9, "high": 0.99},
        }
    )
    assert problems == [
        "unknown setting `lerning_rate`. Did you mean `learning_rate`?",
        "`dropout`: low must be at most high, not 0.5 with high 0.1.",
        "`epsilon`: low must be above 0 on a log scale, not 0.",
        "`batch_size` takes whole numbers: use Int (in YAML leave out the type), not Float.",
        "`accumulate`: low, high and step must be whole numbers, not 1.5.",
        "`optimizer` must be one of sgd, adam, adamw, rmsprop, adadelta, adagrad, lamb, lars, not 'adamm'. "
        "Did you mean `adam`?",
        "`schedule`: choices must name at least one value; the list is empty.",
        "`momentum` must be at least 0 and below 1, not 1.5.",
        "`epochs` is not searched: trials are as long as the search says: give `epochs` to it.",
        "`beta2`: there is no word 'lo'. Did you mean `low`?",
        "`beta2`: a range must say low, too.",
    ]


@pytest.mark.parametrize(
    ("dimensions", "problem"),
    [
        ({}, "it is empty"),
        ([("dropout", 0.1)], "it is list"),
        ("dropout", "it is str"),
        ({"seed": [1, 2]}, "`seed` is not searched: the search has one seed"),
        ({"learningRate": 0.1, "learning_rate": 0.2}, "`learning_rate` is there twice"),
        ({"optimizer": {"low": 1, "high": 2}}, "`optimizer` is not a number, so it has no range: list its choices"),
        ({"hiddenLayers": {"low": 1, "high": 2}}, "Or search `hidden.layers` and `hidden.width`"),
        ({"hidden.layers": [1, 2]}, "`hidden.layers` needs `hidden.width`"),
        ({"hidden": [[8]], "hidden.width": [8]}, "`hidden` and `hidden.width` say the same"),
        ({"hidden.width": {"low": 0, "high": 8}}, "`hidden.width` must be a whole number of at least 1, not 0"),
        ({"dropout": {"low": "a", "high": 1}}, "low, high and step must be numbers, not 'a'"),
        ({"dropout": {"low": float("nan"), "high": 1}}, "low, high and step must be numbers, not nan"),
        ({"dropout": {"low": True, "high": 1}}, "low, high and step must be numbers, not True"),
        ({"dropout": Float(0.1, 0.5, log=1)}, "log must be true or false, not 1"),
        ({"dropout": Float(0.1, 0.5, step=0)}, "step must be above 0, not 0"),
        ({"dropout": Float(0.1, 0.5, log=True, step=0.1)}, "log and step do not go together"),
        ({"dropout": {"low": 0.1, "high": 0.5, "value": 0.3}}, "these do not go together"),
        ({"dropout": {"low": 0.1, "high": 0.5, "type": "real"}}, "type must be int or float, not 'real'"),
        ({"activation": ["relu", "relu"]}, "choices must differ; 'relu' is there twice"),
        ({"activation": Choice("relu")}, "choices must be a list, not 'relu'"),
        ({"optimizer": [object]}, "a value must be text, a number, true, false, None"),
        ({"clip_norm": [None, float("inf")]}, "a value must be finite, not inf"),
        ({"loss": ["hubber"]}, "`loss` must be one of"),
        ({"augmentation": ["fotos"]}, "Did you mean `photos`?"),
        ({"drop_at": [0.5, 0.75]}, "`drop_at` must be shares of the epochs between 0 and 1, not 0.5"),
    ],
)
def test_what_no_search_can_try_is_refused(dimensions, problem):
    assert any(problem in said for said in refusal(dimensions))


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ({"optimiser": "sgd"}, "names `optimiser`, which the space does not search. Did you mean `optimizer`?"),
        ({"optimizer": "sgdd"}, "never holds: `optimizer` is never 'sgdd'. Did you mean `sgd`?"),
        ({"optimizer": []}, "never holds: it lists no value of `optimizer`"),
        ({"dropout": 0.5}, "names `dropout`, any number of a range: conditions need values that can be listed"),
        ({"accumulate": [3]}, "never holds: `accumulate` is never 3"),
        ({"momentum": 0.5}, "conditions go round in a circle: `momentum` needs `momentum`"),
        ({}, "`when` must map other settings to values"),
        ("sgd", "`when` must map other settings to values"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(when, problem):
    space = {"optimizer": ["adamw", "sgd"], "dropout": Float(0, 0.5), "accumulate": Int(1, 2)}
    assert any(problem in said for said in refusal({**space, "momentum": Choice([0.5, 0.9], when=when)}))


def test_conditions_in_a_circle_are_named():
    circle = {
        "optimizer": Choice(["sgd"], when={"schedule": "cosine"}),
        "schedule": Choice(["cosine"], when={"activation": "relu"}),
        "activation": Choice(["relu"], when={"optimizer": "sgd"}),
    }
    said = "conditions go round in a circle: `optimizer` needs `schedule` needs `activation` needs `optimizer`."
    assert refusal(circle) == [said]


def test_alternatives_each_need_a_condition():
    assert refusal({"optimizer": ["sgd"], "momentum": [{"value": 0.5, "when": {"optimizer": "sgd"}}, 0.9]}) == [
        "`momentum`: all alternatives need a condition (`when`); 0.9 has none."
    ]
    assert refusal({"momentum": [Fixed(0.5), Fixed(0.9)]}) == [
        "`momentum`: all alternatives need a condition (`when`)."
    ]


def test_names_and_values_may_be_those_of_the_estimators_and_of_numpy():
    space = Space({"learningRate": Float(np.float64(0.1), np.int64(1)), "hiddenLayers": [(8,), np.int64(4)]})
    assert json.loads(json.dumps(space.to_dict())) == {
        "learning_rate": {"type": "float", "low": 0.1, "high": 1},
        "hidden": {"choices": [[8], 4]},
    }


def test_a_space_is_the_same_after_json():
    again = Space.from_dict(json.loads(json.dumps(CONDITIONAL.to_dict())))
    assert again == CONDITIONAL
    assert again != Space({"dropout": [0.1]})
    assert repr(again).startswith("Space({'optimizer'")


def test_what_conditions_name_is_drawn_first_and_only_active_settings_have_values():
    assert list(CONDITIONAL.dimensions)[:2] == ["optimizer", "momentum"]
    values = [values for values, _ in drawn(CONDITIONAL, 60)]
    assert {"sgd", "adamw"} == {each["optimizer"] for each in values}
    for each in values:
        assert ("momentum" in each) == (each["optimizer"] == "sgd")
        assert ("hidden.width" in each) == (each["hidden.layers"] > 0)
        assert each["replicas"] == 2
        assert isinstance(each["drop_at"], list)
        low, high = (1e-4, 1e-2) if each["optimizer"] == "adamw" else (1e-3, 1.0)
        assert low <= each["learning_rate"] <= high


def test_values_and_optuna_s_parameters_turn_into_each_other():
    distributions = CONDITIONAL.distributions()
    assert "learning_rate[optimizer=sgd]" in distributions
    assert "replicas" not in distributions
    for values, parameters in drawn(CONDITIONAL, 40):
        assert set(parameters) <= set(distributions)
        assert CONDITIONAL.values(parameters) == values
        assert CONDITIONAL.parameters(values) == parameters
        assert json.loads(json.dumps(values)) == values


def test_a_trial_that_is_enqueued_has_the_values_that_were_asked_for():
    import optuna

    values = {"optimizer": "adamw", "learning_rate": 0.001, "hidden.layers": 0, "drop_at": [0.5], "replicas": 2}
    study = optuna.create_study()
    study.enqueue_trial(CONDITIONAL.parameters(values))
    assert CONDITIONAL.suggest(study.ask()) == values


def test_values_that_the_space_does_not_hold_are_all_named():
    values = {"optimizer": "adam", "learning_rate": 1.0, "hidden.layers": 3, "hidden.width": 16, "replicas": 3}
    with pytest.raises(InputError, match="The space does not hold these values") as error:
        CONDITIONAL.parameters({**values, "optimizer": "sgd", "schedule": "step"})
    said = "\n".join(error.value.problems)
    assert "`hidden.layers` is never 3 in the space" in said
    assert "`momentum` has no value." in said
    assert "`drop_at` has no value." in said
    assert "`replicas` is never 3 in the space" in said
    assert "`schedule` is not drawn with the others." in said


def test_steps_are_decimals_and_end_at_the_last_one_up_to_high():
    space = Space({"dropout": Float(0.1, 0.75, step=0.1), "batch_size": Int(16, 70, step=16)})
    assert {values["dropout"] for values, _ in drawn(space, 100)} == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert {values["batch_size"] for values, _ in drawn(space, 100)} == {16, 32, 48, 64}


def test_values_make_a_training_s_configuration():
    base = TrainingConfig(momentum=0.8, epochs=7)
    config = configure(base, {"hidden.layers": 2, "hidden.width": 32, "optimizer": "sgd", "augmentation": "photos"})
    assert (config.hidden, config.optimizer, config.momentum, config.epochs) == ((32, 32), "sgd", 0.8, 7)
    assert configure(base.replace(hidden=[4]), {"hidden.layers": 0}).hidden == ()
    assert configure(base, {"hidden.width": 16}).hidden == (16,)
    assert configure(base, {}) == base
    with pytest.raises(InputError, match="`nesterov` needs a `momentum` above 0"):
        configure(base, {"optimizer": "sgd", "momentum": 0.0})


def test_an_augmentation_is_a_preset_its_fields_or_none():
    assert augmentation_of({}, PRESETS["aerial"]) == PRESETS["aerial"]
    assert augmentation_of({"augmentation": None}, PRESETS["aerial"]) is None
    assert augmentation_of({"augmentation": "photos"}) == PRESETS["photos"]
    assert augmentation_of({"augmentation": {"mixup": 0.2}}).mixup == 0.2
    assert Space({"augmentation": {"mixup": 0.2}}).dimensions["augmentation"] == (Fixed({"mixup": 0.2}),)


def test_a_grid_has_every_combination_of_what_is_active():
    space = Space({"optimizer": ["adamw", "sgd"], "momentum": Float(0.5, 0.9, when={"optimizer": "sgd"})})
    assert space.grid(3) == [
        {"optimizer": "adamw"},
        *({"optimizer": "sgd", "momentum": pytest.approx(value)} for value in (0.5, 0.7, 0.9)),
    ]


def test_a_grid_is_even_on_the_log_scale_and_takes_all_of_few_whole_numbers():
    space = Space({"learning_rate": Float(1e-4, 1.0, log=True), "hidden.width": Int(64, 1024, log=True)})
    assert [values["learning_rate"] for values in space.grid(5)[::5]] == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1.0])
    assert [values["hidden.width"] for values in space.grid(5)[:5]] == [64, 128, 256, 512, 1024]
    assert [values["batch_size"] for values in Space({"batch_size": Int(1, 3)}).grid(9)] == [1, 2, 3]
    assert [values["dropout"] for values in Space({"dropout": Float(0, 0.5, step=0.25)}).grid(9)] == [0, 0.25, 0.5]
    assert [values["dropout"] for values in Space({"dropout": Float(0.2, 0.4)}).grid(1)] == pytest.approx([0.3])


def test_a_grid_that_is_too_large_is_refused():
    space = Space({name: Float(0.1, 0.9) for name in ("dropout", "momentum", "beta2", "ema_decay", "pull")})
    with pytest.raises(InputError, match="more than 100,000 configurations with 20 values a range"):
        space.grid(20)


def test_values_that_no_training_takes_are_named_before_the_search():
    space = Space({"schedule": ["cosine", "table"], "optimizer": ["sgd"], "momentum": [0.0, 0.9], "pull": [0.5]})
    with pytest.raises(InputError, match="The space cannot be searched") as error:
        space.check(TrainingConfig())
    assert len(error.value.problems) == 2
    assert "`schedule` 'table' needs a `rate_table`" in error.value.problems[0]
    assert error.value.problems[1] == "`nesterov` needs a `momentum` above 0."


def test_a_value_that_only_some_configurations_take_is_left_to_the_trials():
    Space({"optimizer": ["sgd"], "momentum": [0.0, 0.9], "nesterov": [True, False]}).check(TrainingConfig())


def test_what_needs_classes_is_refused_in_a_regression():
    space = Space({"label_smoothing": Float(0.05, 0.1)})
    space.check(TrainingConfig())
    with pytest.raises(InputError, match="`label_smoothing` needs classes; with `task` 'regression' it must be 0"):
        space.check(TrainingConfig(task="regression"))


def test_a_loss_is_not_searched_and_compared_by():
    space = Space({"loss": ["cross_entropy", "focal"]})
    space.check(TrainingConfig(), "accuracy")
    with pytest.raises(InputError, match="`loss` changes what the loss is"):
        space.check(TrainingConfig(), "loss")


def test_what_is_no_part_of_the_validation_loss_is_searched_and_compared_by_it():
    Space({"class_weights": [None, "balanced"], "label_smoothing": [0.0, 0.1]}).check(TrainingConfig(), "loss")
    y, logits = torch.tensor([0, 1, 1]), torch.randn(3, 2)
    plain, weighted = (
        Classification(np.array([1, factor], np.float32), smoothing) for factor, smoothing in ((1, 0.0), (5, 0.2))
    )
    assert weighted.loss(logits, y, torch.ones(3)) != plain.loss(logits, y, torch.ones(3))
    assert torch.equal(weighted.measure(logits, y, torch.ones(3)), plain.measure(logits, y, torch.ones(3)))


def test_what_is_no_photo_is_not_augmented():
    space = Space({"augmentation": [None, "photos"]})
    space.check(TrainingConfig(), photos=True)
    with pytest.raises(InputError, match="`augmentation` needs whole networks that train on photos"):
        space.check(TrainingConfig(), photos=False)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["head", "linear", "mlp"])
def test_the_library_s_spaces_suit_every_task_and_hold_its_defaults(name, task):
    space = Space.load(name, task=task, photos=False)
    base = TrainingConfig(task=task, hidden=[128] if name == "mlp" else [])
    space.check(base, photos=False)
    defaults = space.values_of(base)
    again = configure(base, defaults)
    assert (again.rate, again.hidden, again.batch_size) == (base.rate, base.hidden, base.batch_size)
    assert again.decay == pytest.approx(base.decay, abs=0.01)
    for values, _ in drawn(space, 30):
        configure(base, values)


def test_the_library_s_space_of_fine_tunings_holds_its_defaults():
    space = Space.load("finetuning")
    space.check(FINETUNING)
    again = configure(FINETUNING, space.values_of(FINETUNING))
    assert again == FINETUNING.replace(dropout=FINETUNING.dropped)
    assert "augmentation" not in Space.load("finetuning", photos=False).dimensions


def test_a_space_without_the_configuration_has_no_values_for_it():
    assert Space.load("mlp").values_of(TrainingConfig()) is None
    assert Space({"optimizer": ["sgd"]}).values_of(TrainingConfig()) is None
    assert Space({"optimizer": "sgd", "momentum": [0.9]}).values_of(TrainingConfig()) is not None
    assert Space({"hidden.layers": [2], "hidden.width": [8]}).values_of(TrainingConfig(hidden=[8, 4])) is None


def test_yaml_and_json_say_what_python_says(tmp_path: Path):
    text = """
    learningRate: {low: 1e-4, high: 1.0, log: true}   # 1e-4 is a number
    optimizer: [adamw, sgd]
    momentum: {low: 0.5, high: 0.9, when: {optimizer: sgd}}
    hidden.layers: {low: 0, high: 2}
    hidden.width: {low: 16, high: 64, log: true}
    clip_norm: [null, 1]
    unfreeze: {1: head, 3: all}
    schedule: one_cycle
    """
    python = Space(
        {
            "learning_rate": Float(1e-4, 1.0, log=True),
            "optimizer": Choice(["adamw", "sgd"]),
            "momentum": Float(0.5, 0.9, when={"optimizer": "sgd"}),
            "hidden.layers": Int(0, 2),
            "hidden.width": Int(16, 64, log=True),
            "clip_norm": Choice([None, 1]),
            "unfreeze": Fixed({1: "head", 3: "all"}),
            "schedule": Fixed("one_cycle"),
        }
    )
    (tmp_path / "space.yaml").write_text(text)
    (tmp_path / "space.json").write_text(json.dumps(python.to_dict()))
    assert Space.load(str(tmp_path / "space.yaml")) == python
    assert Space.load(str(tmp_path / "space.json")) == python
    assert python.searched == ["learning_rate", "optimizer", "momentum", "hidden.layers", "hidden.width", "clip_norm"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"- dropout\n- momentum\n", "It must be a mapping from settings to what they may be; it is list"),
        (b"", "It must be a mapping from settings to what they may be; it is NoneType"),
        (b"dropout: [0.1, 0.2", "is not YAML: while parsing"),
        (b"dropout: 0.1\nmomentum: 0.5\ndropout: 0.2\n", "'dropout' is there twice"),
        (b"dropout: \xff\xfe", "is not text in UTF-8"),
        (b"dropout: !!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
        (b"dropuot: 0.1\n", r"cannot be searched: unknown setting `dropuot`. Did you mean `dropout`\?"),
        (b"1: 2\n", "unknown setting `1`"),
    ],
)
def test_a_file_that_is_no_space_is_refused_by_its_name(tmp_path, text, problem):
    path = tmp_path / "space.yaml"
    path.write_bytes(text)
    with pytest.raises(InputError, match=problem):
        Space.load(str(path))


def test_a_space_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(NotFoundError, match=r"the library's own are head, linear, mlp, finetuning\. Did you mean `lin"):
        Space.load("liner")


def test_spaces_that_the_guide_shows_can_be_searched(tmp_path: Path):
    guide = Path(__file__).parents[2] / "docs" / "how-to" / "tuning.md"
    shown = re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    assert len(shown) == 2
    for text in shown:
        (tmp_path / "space.yaml").write_text(text)
        Space.load(str(tmp_path / "space.yaml")).check(TrainingConfig())
