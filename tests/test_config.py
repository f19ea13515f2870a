import dataclasses
import json

import pytest

from train.config import PRESETS, PretrainConfig, learning_rate, named_seed, preset, with_settings


def test_the_papers_preset_is_the_paper() -> None:
    """Lorre et al. 2019, sections 4.3 and 5."""
    config = preset("table1-flow")
    assert (config.num_segments, config.num_observed, config.num_predicted, config.num_flows) == (8, 4, 4, 10)
    assert (config.batch_size, config.size, config.width, config.latent_size) == (16, (224, 224), 64, 512)
    assert (config.steps, config.momentum, config.weight_decay) == (60_000, 0.9, 1e-4)
    assert config.learning_rates == ((0, 0.01), (3_000, 0.005), (10_000, 0.001), (20_000, 0.0005))
    assert (config.selection, config.spacing, config.difficult_negatives) == ("variable", 10, False)


def test_tables_1_3_and_5_share_a_setting() -> None:
    same = [preset(name) for name in ("table1-flow", "table3-model1-conv3d", "table5-conv3d")]
    assert len({dataclasses.replace(config, preset="") for config in same}) == 1
    assert len({config.identity() for config in same}) == 1


@pytest.mark.parametrize(("changes", "classes"), [({}, 121), ({"difficult_negatives": True}, 128)])
def test_classes_of_the_paper(changes: dict[str, bool], classes: int) -> None:
    assert PretrainConfig(**changes).classes == classes
    assert PretrainConfig(num_segments=10, **changes).classes == {121: 151, 128: 160}[classes]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name: str) -> None:
    assert preset(name).preset == name
    assert PretrainConfig.from_json(json.loads(json.dumps(preset(name).to_json()))) == preset(name)


def test_settings_are_parsed_by_type() -> None:
    settings = ["batch_size=8", "size=32x48", "difficult_negatives=true", "weight_decay=0", "selection=overlap"]
    config = with_settings(preset("table1-flow"), [*settings, "spacing=5", "learning_rates=0:0.1,50:1e-2"])
    assert (config.batch_size, config.size, config.difficult_negatives) == (8, (32, 48), True)
    assert (config.weight_decay, config.selection, config.spacing) == (0.0, "overlap", 5)
    assert config.learning_rates == ((0, 0.1), (50, 0.01))
    assert with_settings(config, []) == config


def test_every_setting_can_be_written_as_it_is_saved() -> None:
    config = preset("tiny")
    for name, value in config.to_json().items():
        if name == "preset":
            continue
        text = "x".join(map(str, value)) if name == "size" else str(value)
        if name.endswith("learning_rates"):
            text = ",".join(f"{step}:{rate}" for step, rate in value)
        assert with_settings(config, [f"{name}={text}"]) == config, name


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("batchsize=4", "no setting 'batchsize'; did you mean 'batch_size'"),
        ("preset=tiny", "no setting 'preset'"),
        ("batch_size", "'batch_size' is not key=value"),
        ("batch_size=x", "batch_size=x cannot be read"),
        ("batch_size=4.5", "batch_size=4.5 cannot be read"),
        ("difficult_negatives=1", "true or false"),
        ("size=224", "size=224 cannot be read; size is of the form 224x224"),
        ("size=0x10", "size"),
        ("learning_rates=0.1", "of the form 0:0.01,3000:0.005"),
        ("learning_rates=5:0.1", "the first has to be 0"),
        ("learning_rates=0:0.1,9:0.2,3:0.1", "each later than the one before"),
        ("learning_rates=0:-1", "above 0"),
        ("learning_rates=0:nan", "above 0"),
        ("batch_size=1", "batch_size=1 is too small"),
        ("num_segments=4", "num_segments=4 is too small"),
        ("num_observed=2", "num_observed=2 is too small"),
        ("steps=0", "steps=0 is too small"),
        ("seed=-1", "seed=-1 is too small"),
        ("momentum=1", "less than 1"),
        ("weight_decay=nan", "weight_decay=nan"),
        ("selection=varable", "did you mean 'variable'"),
        ("selection=consecutive", "set spacing=0"),
        ("selection=overlap", "take 1 to 9"),
        ("split=test", "split='test' is unknown"),
    ],
)
def test_wrong_settings_are_answered_in_words(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_settings(preset("table1-flow"), [setting])


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="no preset 'tinny'; did you mean 'tiny'"):
        preset("tinny")
    values = preset("tiny").to_json()
    with pytest.raises(ValueError, match="differ in colour"):
        PretrainConfig.from_json({**values, "colour": 1})
    del values["seed"]
    with pytest.raises(ValueError, match="differ in seed"):
        PretrainConfig.from_json(values)


def test_more_steps_keep_the_schedule_and_the_identity() -> None:
    config = preset("table1-flow")
    longer = with_settings(config, ["steps=90000"])
    assert longer.learning_rates == config.learning_rates
    assert learning_rate(longer.learning_rates, 89_999) == 0.0005
    assert longer.identity() == config.identity() != with_settings(config, ["seed=1"]).identity()


def test_a_seed_has_one_stream_per_purpose() -> None:
    seeds = {named_seed(seed, *names) for seed in (0, 1) for names in (("a",), ("b",), ("a", 1), ("a", 2))}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
