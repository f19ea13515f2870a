import dataclasses
import json

import pytest

from flowcpc.train.settings.config import PretrainConfig, count_classes, learning_rate, named_seed
from flowcpc.train.settings.presets import PRESETS, find_preset


def test_the_defaults_are_the_paper() -> None:
    """Lorre et al. 2019, sections 4.3 and 5, with model 1 and Conv3D."""
    config = PretrainConfig()
    assert (config.num_segments, config.num_observed, config.num_predicted, config.num_flows) == (
        8,
        4,
        4,
        10,
    )
    assert (config.batch_size, config.size, config.width, config.latent_size) == (
        16,
        (224, 224),
        64,
        512,
    )
    assert (config.steps, config.momentum, config.weight_decay) == (60_000, 0.9, 1e-4)
    assert config.learning_rates == ((0, 0.01), (3_000, 0.005), (10_000, 0.001), (20_000, 0.0005))
    assert (config.selection, config.spacing, config.difficult_negatives) == ("variable", 10, False)


@pytest.mark.parametrize(("changes", "classes"), [({}, 121), ({"difficult_negatives": True}, 128)])
def test_classes_of_the_paper(changes: dict[str, bool], classes: int) -> None:
    assert PretrainConfig(**changes).classes == classes
    assert PretrainConfig(num_segments=10, **changes).classes == {121: 151, 128: 160}[classes]


@pytest.mark.parametrize("difficult", [False, True])
def test_classes_where_processes_share_the_batch(difficult: bool) -> None:
    """4 processes share the paper's 16 videos.

    Local negatives come from 4 videos, global ones from all 16.
    """
    local, everywhere = (
        PretrainConfig(negatives=negatives, difficult_negatives=difficult)
        for negatives in ("local", "global")
    )
    assert local.classes_of(4) == count_classes(4, 8, difficult) == 24 + (8 if difficult else 1)
    assert (
        everywhere.classes_of(4)
        == everywhere.classes_of(16)
        == everywhere.classes
        == local.classes_of(1)
    )
    with pytest.raises(
        ValueError,
        match="batch_size must be a multiple of the number of processes, 3, got 16",
    ):
        everywhere.classes_of(3)
    with pytest.raises(
        ValueError,
        match=r"negatives=local .* leaves one video .* negatives=global, or .* 32 or more",
    ):
        local.classes_of(16)


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_json(name: str) -> None:
    config = PRESETS[name].config
    assert config.preset == name
    assert PretrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rates": ((5, 0.1),)}, "must begin at 0"),
        ({"learning_rates": ((0, 0.1), (9, 0.2), (3, 0.1))}, "must begin at 0 and rise"),
        ({"learning_rates": ((0, -1.0),)}, "above 0"),
        ({"learning_rates": ((0, float("nan")),)}, "above 0"),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
        ({"batch_size": 100_000}, "batch_size must be at most 10000, got 100000"),
        ({"num_segments": 4}, "num_segments must be at least 5"),
        ({"num_observed": 2}, "num_observed must be at least 3"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"momentum": 1.0}, "momentum must be .* below 1"),
        ({"dropout": 1.0}, "dropout must be .* below 1, got 1.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0, got nan"),
        ({"size": (0, 10)}, "size"),
        ({"selection": "varable"}, "did you mean 'variable'"),
        ({"selection": "consecutive"}, "set spacing=0"),
        ({"selection": "overlap"}, "spacing must be 1 to 9"),
        ({"split": "test"}, "split='test' is unknown"),
        ({"norm": "batch"}, "norm='batch' is unknown"),
        ({"model": "model3"}, "model='model3' is unknown; did you mean 'model"),
        (
            {"context": "masked-conv3d"},
            "context must be one of tcam, conv3d, lstm with model=model1, got 'masked",
        ),
        ({"model": "model2", "context": "lstm"}, "num_observed must be 1 with model=model2, got 4"),
        ({"rescale_vectors": True}, "set framing=resize"),
    ],
)
def test_wrong_settings_are_answered_in_words(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PretrainConfig(**changes)


def test_saved_settings_of_another_release_are_refused_by_name() -> None:
    values = PretrainConfig().to_json()
    with pytest.raises(ValueError, match="differ in colour"):
        PretrainConfig.from_json({**values, "colour": 1})
    del values["seed"]
    with pytest.raises(ValueError, match="differ in seed"):
        PretrainConfig.from_json(values)


def test_more_steps_keep_the_schedule_and_the_identity() -> None:
    config = find_preset("table1-flow").config
    longer = dataclasses.replace(config, steps=90_000)
    assert longer.learning_rates == config.learning_rates
    assert learning_rate(longer.learning_rates, 89_999) == 0.0005
    assert longer.identity() == config.identity() != dataclasses.replace(config, seed=1).identity()


def test_every_setting_but_label_and_length_is_part_of_the_identity() -> None:
    base = PretrainConfig(framing="resize")
    others = {
        "preset": "x", "steps": 9, "model": "model2", "context": "tcam", "modality": "image",
        "selection": "growing", "framing": "crop", "size": (8, 8), "rescale_vectors": True,
        "flip": True, "norm": "gn", "latent": "before-relu", "dropout": 0.1,
        "difficult_negatives": True, "negatives": "global", "learning_rates": ((0, 0.1),),
        "momentum": 0.1, "weight_decay": 0.1, "precision": "bf16", "split": "all",
    }  # fmt: skip
    needs = {"model": {"context": "lstm", "num_observed": 1}}
    for field in dataclasses.fields(PretrainConfig):
        value = others.get(field.name)
        changes = {field.name: getattr(base, field.name) + 1 if value is None else value}
        changed = dataclasses.replace(base, **changes, **needs.get(field.name, {}))
        assert (changed.identity() == base.identity()) == (field.name in ("preset", "steps")), (
            field.name
        )


def test_a_seed_has_one_stream_per_purpose() -> None:
    seeds = {
        named_seed(seed, *names)
        for seed in (0, 1)
        for names in (("a",), ("b",), ("a", 1), ("a", 2))
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
