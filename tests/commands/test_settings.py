import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.commands.settings import (
    parse_settings,
    pretrain_config,
    to_yaml,
    with_gamma,
    with_settings,
)
from flowcpc.train.evaluation.config import SCHEDULES, EvaluationConfig
from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.presets import PRESETS, find_preset

PAPER = PretrainConfig()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def test_settings_are_parsed_by_type() -> None:
    settings = [
        "batch_size=8",
        "size=32x48",
        "difficult_negatives=true",
        "weight_decay=0",
        "selection=overlap",
    ]
    config = with_settings(PAPER, [*settings, "spacing=5", "learning_rates=0:0.1,50:1e-2"])
    assert (config.batch_size, config.size, config.difficult_negatives) == (8, (32, 48), True)
    assert (config.weight_decay, config.selection, config.spacing) == (0.0, "overlap", 5)
    assert config.learning_rates == ((0, 0.1), (50, 0.01))
    assert with_settings(config, []) == config


def test_every_setting_can_be_written_as_it_is_saved() -> None:
    config = find_preset("tiny").config
    for name, value in config.to_json().items():
        if name == "preset":
            continue
        text = "x".join(map(str, value)) if name == "size" else str(value)
        if name.endswith("learning_rates"):
            text = ",".join(f"{step}:{rate}" for step, rate in value)
        assert with_settings(config, [f"{name}={text}"]) == config, name


def test_settings_of_an_evaluation_are_parsed_by_the_same_parser() -> None:
    settings = ["dropout = 0", "linear_learning_rates=0:1,7:0.5", "strengths=1,10", "neighbours=9"]
    config = with_settings(SCHEDULES["cpu"], settings)
    assert (config.dropout, config.neighbours, config.strengths) == (0.0, 9, (1.0, 10.0))
    assert config.linear_learning_rates == ((0, 1.0), (7, 0.5))


def test_a_key_of_two_classes_goes_to_the_first() -> None:
    settings = ["batch_size=3", "width=2", "segments=4"]
    assert parse_settings(settings, EvaluationConfig, PretrainConfig) == [
        {"batch_size": 3, "segments": 4},
        {"width": 2},
    ]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("batchsize=4", "no setting 'batchsize'; did you mean 'batch_size'"),
        ("preset=tiny", "no setting 'preset'"),
        ("batch_size", "'batch_size' is not key=value"),
        ("batch_size=x", "batch_size must be a whole number, such as 16, got 'x'"),
        ("batch_size=4.5", "batch_size must be a whole number, such as 16, got '4.5'"),
        ("dropout=half", "dropout must be a number, such as 0.5, got 'half'"),
        ("difficult_negatives=1", "difficult_negatives must be true or false, got '1'"),
        ("size=224", "size must be of the form 224x224, got '224'"),
        ("learning_rates=0.1", "learning_rates must be of the form 0:0.01,3000:0.005"),
        ("batch_size=1", "batch_size must be at least 2, got 1"),
        ("selection=varable", "did you mean 'variable'"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_settings(PAPER, [setting])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("dropout", "'dropout' is not key=value"),
        ("dropuot=0", "no setting 'dropuot'; did you mean 'dropout'"),
        ("schedule=cpu", "no setting 'schedule'"),
        ("batch_size=2.5", "batch_size must be a whole number, such as 16, got '2.5'"),
        ("linear_learning_rates=0.1", "linear_learning_rates must be of the form 0:0.005,10000:"),
        ("strengths=", "strengths must be of the form 0.001,0.01,0.1,1.0, got ''"),
    ],
)
def test_a_wrong_setting_of_an_evaluation_is_named(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_settings(SCHEDULES["cpu"], [setting])


def test_each_source_overrides_those_before_it(file: Path) -> None:
    """Later sources override earlier ones, and --gamma applies to the result."""
    file.write_text("preset: tiny\nseed: 1\nbatch_size: 4\nsteps: 5\nmodality: flow\n")
    tiny = find_preset("tiny").config
    assert pretrain_config() == PRESETS["table1-flow"].config
    assert pretrain_config("tiny") == tiny
    assert pretrain_config(file=file) == dataclasses.replace(tiny, seed=1, batch_size=4, steps=5)
    found = pretrain_config(
        file=file,
        settings=["batch_size=6", "steps=7", "learning_rates=0:0.8,5:0.3"],
        steps=9,
        modality="image",
        gamma=0.5,
    )
    assert (found.preset, found.seed, found.batch_size, found.steps, found.modality) == (
        "tiny",
        1,
        6,
        9,
        "image",
    )
    assert found.learning_rates == ((0, 0.8), (5, 0.4))
    assert pretrain_config("tiny", file=file) == pretrain_config(file=file)


def test_settings_that_only_go_together_may_come_from_different_sources(file: Path) -> None:
    file.write_text("model: model2\ncontext: lstm\n")
    assert pretrain_config(file=file, settings=["num_observed=1"]).model == "model2"
    with pytest.raises(ValueError, match="num_observed must be 1 with model=model2, got 4"):
        pretrain_config(file=file)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.pretrained])
def test_a_preset_comes_back_from_its_yaml_and_its_saved_json(name: str, file: Path) -> None:
    config = PRESETS[name].config
    file.write_text(to_yaml(config))
    assert pretrain_config(file=file) == config
    file.write_text(json.dumps(config.to_json(), indent=2))
    assert pretrain_config(file=file) == config


def test_the_yaml_is_what_other_readers_take_it_for() -> None:
    values = yaml.safe_load(to_yaml(PAPER))
    assert values.keys() == PAPER.to_json().keys()
    assert values["learning_rates"] == dict(PAPER.learning_rates)
    assert (values["dropout"], values["flip"], values["batch_size"]) == (0.5, False, 16)


@given(
    rates=st.lists(st.floats(1e-12, 1e6), min_size=1, max_size=4),
    decay=st.floats(0, 10),
    size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
    flip=st.booleans(),
)
def test_any_settings_come_back_from_their_yaml(
    rates: list[float],
    decay: float,
    size: tuple[int, int],
    flip: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    schedule = tuple((70 * place, rate) for place, rate in enumerate(rates))
    config = dataclasses.replace(
        PAPER, learning_rates=schedule, weight_decay=decay, size=size, flip=flip
    )
    file = tmp_path_factory.mktemp("yaml") / "c.yaml"
    file.write_text(to_yaml(config))
    assert pretrain_config(file=file) == config


@pytest.mark.parametrize(
    "text",
    [
        "learning_rates: 0:0.5",  # YAML's own number in base 60
        "learning_rates: {0: 0.5}",
        "learning_rates:\n  0: 5e-1\n",
        "learning_rates: [[0, 0.5]]",
        "learning_rates: ['0:0.5']",
        '{"learning_rates": [[0, 0.5]]}',
    ],
)
def test_a_schedule_may_be_written_in_several_ways(text: str, file: Path) -> None:
    file.write_text(text)
    assert pretrain_config(file=file).learning_rates == ((0, 0.5),)


@pytest.mark.parametrize("text", ["size: 12x34", "size: [12, 34]", "size:\n- 12\n- 34\n"])
def test_a_size_may_be_written_in_several_ways(text: str, file: Path) -> None:
    file.write_text(text)
    assert pretrain_config(file=file).size == (12, 34)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batchsize: 4", "there is no setting 'batchsize'; did you mean 'batch_size'"),
        ("1: 4", "there is no setting '1'"),
        ("preset: tinny", "there is no preset 'tinny'; did you mean 'tiny'"),
        ("preset: ''", "there is no preset ''"),
        ("preset: [tiny]", "preset must be a name"),
        ("batch_size: four", "batch_size must be a whole number, such as 16, got 'four'"),
        ("batch_size: 8.5", "batch_size must be .*, got '8.5'"),
        ("batch_size: [8]", "batch_size must be a whole number, such as 16, got several values"),
        ("batch_size:", "batch_size must be .*, got ''"),
        ("flip: 1", "flip must be true or false, got '1'"),
        ("model: {a: 1}", "model must be a name, such as model1, got several values"),
        ("learning_rates: 0.01", "learning_rates must be of the form 0:0.01,.*, got '0.01'"),
        ("learning_rates: {0: [1, 2]}", "learning_rates must be"),
        ("size: 224", "size must be of the form 224x224, got '224'"),
        ("size: {224: 224}", "size must be of the form 224x224"),
        ("seed: 1\nseed: 2\n", "mine.yaml is not valid YAML: seed occurs twice .* line 1"),
        ("seed: [1", "mine.yaml is not valid YAML: .* line 1"),
        ("seed: \0", "mine.yaml is not valid YAML"),
        ("just words", "mine.yaml holds no settings"),
        ("", "mine.yaml holds no settings"),
        ("- seed: 1", "mine.yaml holds no settings"),
        ("seed: 1\n---\nseed: 2\n", "mine.yaml is not valid YAML"),
        ("learning_rates: []", "the steps of learning_rates"),
        ("steps: 0", "steps must be at least 1, got 0"),
    ],
)
def test_wrong_files_are_answered_in_words(text: str, words: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        pretrain_config(file=file)
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value) or "learning_rates" in words or "steps" in words


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist"):
        pretrain_config(file=tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match=r"is a folder; give a file"):
        pretrain_config(file=tmp_path)
    (tmp_path / "latin").write_bytes(b"seed: \xff")
    with pytest.raises(ValueError, match="latin is not valid YAML"):
        pretrain_config(file=tmp_path / "latin")


def test_two_presets_are_one_too_many(file: Path) -> None:
    file.write_text("preset: tiny")
    with pytest.raises(
        ValueError, match=r"table1-flow on the command line and tiny in .*mine.yaml"
    ):
        pretrain_config("table1-flow", file=file)


def test_the_baseline_of_initial_weights_is_not_pretrained(file: Path) -> None:
    for words in ({"preset": "table5-random"}, {"file": file}):
        file.write_text(to_yaml(PRESETS["table5-random"].config))
        with pytest.raises(
            ValueError,
            match=r"table5-random .*nothing to pretrain.*flowcpc evaluate STORE --mode random",
        ):
            pretrain_config(**words)


def test_gamma_keeps_the_boundaries() -> None:
    """The rate is first * gamma^i from the i-th boundary on."""
    found = with_gamma(PAPER.learning_rates, 0.1)
    assert [begin for begin, _ in found] == [0, 3_000, 10_000, 20_000]
    assert [rate for _, rate in found] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])
    assert with_gamma(((0, 0.3),), 0.5) == ((0, 0.3),)


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_gamma_is_a_factor(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma must be above 0 and at most 1"):
        pretrain_config(gamma=gamma)


def test_a_file_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 5000)
    with pytest.raises(ValueError, match=r"deep\.yaml is nested too deeply"):
        pretrain_config(file=tmp_path / "deep.yaml")
