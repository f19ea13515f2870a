import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.parse import resolve, to_yaml, with_gamma, with_settings
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


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("batchsize=4", "no setting 'batchsize'; did you mean 'batch_size'"),
        ("preset=tiny", "no setting 'preset'"),
        ("batch_size", "'batch_size' is not key=value"),
        ("batch_size=x", "batch_size=x cannot be read; batch_size is a whole number, such as 16"),
        ("batch_size=4.5", "batch_size=4.5 cannot be read; batch_size is a whole number"),
        ("dropout=half", "dropout=half cannot be read; dropout is a number, such as 0.5"),
        (
            "difficult_negatives=1",
            "difficult_negatives=1 cannot be read; difficult_negatives is true or false",
        ),
        ("size=224", "size=224 cannot be read; size is of the form 224x224"),
        ("learning_rates=0.1", "of the form 0:0.01,3000:0.005"),
        ("batch_size=1", "batch_size=1 is too small"),
        ("selection=varable", "did you mean 'variable'"),
    ],
)
def test_wrong_settings_are_answered_in_words(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_settings(PAPER, [setting])


def test_each_source_overrides_those_before_it(file: Path) -> None:
    """preset < file < --set < --steps and --modality; --gamma works on what came out."""
    file.write_text("preset: tiny\nseed: 1\nbatch_size: 4\nsteps: 5\nmodality: flow\n")
    tiny = find_preset("tiny").config
    assert resolve() == PRESETS["table1-flow"].config
    assert resolve("tiny") == tiny
    assert resolve(file=file) == dataclasses.replace(tiny, seed=1, batch_size=4, steps=5)
    found = resolve(
        file=file, settings=["batch_size=6", "steps=7", "learning_rates=0:0.8,5:0.3"], steps=9, modality="image", gamma=0.5
    )  # fmt: skip
    assert (found.preset, found.seed, found.batch_size, found.steps, found.modality) == (
        "tiny",
        1,
        6,
        9,
        "image",
    )
    assert found.learning_rates == ((0, 0.8), (5, 0.4))
    assert resolve("tiny", file=file) == resolve(file=file)


def test_settings_that_only_go_together_may_come_from_different_sources(file: Path) -> None:
    file.write_text("model: model2\ncontext: lstm\n")
    assert resolve(file=file, settings=["num_observed=1"]).model == "model2"
    with pytest.raises(ValueError, match="num_observed=4 does not go with model=model2"):
        resolve(file=file)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.pretrained])
def test_a_preset_comes_back_from_its_yaml_and_its_saved_json(name: str, file: Path) -> None:
    config = PRESETS[name].config
    file.write_text(to_yaml(config))
    assert resolve(file=file) == config
    file.write_text(json.dumps(config.to_json(), indent=2))
    assert resolve(file=file) == config


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
    assert resolve(file=file) == config


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
    assert resolve(file=file).learning_rates == ((0, 0.5),)


@pytest.mark.parametrize("text", ["size: 12x34", "size: [12, 34]", "size:\n- 12\n- 34\n"])
def test_a_size_may_be_written_in_several_ways(text: str, file: Path) -> None:
    file.write_text(text)
    assert resolve(file=file).size == (12, 34)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batchsize: 4", "mine.yaml: there is no setting 'batchsize'; did you mean 'batch_size'"),
        ("1: 4", "mine.yaml: there is no setting '1'"),
        ("preset: tinny", "mine.yaml: there is no preset 'tinny'; did you mean 'tiny'"),
        ("preset: ''", "mine.yaml: there is no preset ''"),
        ("preset: [tiny]", r"mine.yaml: preset is not the name of a preset"),
        (
            "batch_size: four",
            "mine.yaml: batch_size=four cannot be read; batch_size is a whole number, such as 16",
        ),
        ("batch_size: 8.5", "mine.yaml: batch_size=8.5 cannot be read"),
        (
            "batch_size: [8]",
            "mine.yaml: batch_size holds several values; batch_size is a whole number",
        ),
        ("batch_size:", "mine.yaml: batch_size= cannot be read"),
        ("flip: 1", "mine.yaml: flip=1 cannot be read; flip is true or false"),
        ("model: {a: 1}", "mine.yaml: model holds several values; model is of the form model1"),
        (
            "learning_rates: 0.01",
            "mine.yaml: learning_rates=0.01 cannot be read; learning_rates is of the form 0:0.01,",
        ),
        ("learning_rates: {0: [1, 2]}", "mine.yaml: learning_rates=.* cannot be read"),
        ("learning_rates: []", "mine.yaml: learning_rates= cannot be read"),
        ("size: 224", "mine.yaml: size=224 cannot be read; size is of the form 224x224"),
        ("size: {224: 224}", "mine.yaml: size=224 cannot be read"),
        (
            "seed: 1\nseed: 2\n",
            "mine.yaml cannot be read as YAML: seed stands there twice .* line 1",
        ),
        ("seed: [1", "mine.yaml cannot be read as YAML: .* line 1"),
        ("seed: \0", "mine.yaml cannot be read as YAML"),
        ("just words", "mine.yaml holds no settings by name"),
        ("", "mine.yaml holds no settings by name"),
        ("- seed: 1", "mine.yaml holds no settings by name"),
        ("seed: 1\n---\nseed: 2\n", "mine.yaml cannot be read as YAML"),
        ("steps: 0", "steps=0 is too small"),
    ],
)
def test_wrong_files_are_answered_in_words(text: str, words: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        resolve(file=file)
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.yaml"):
        resolve(file=tmp_path / "nowhere.yaml")
    with pytest.raises(
        ValueError, match=r"is a folder; give a file of settings, as a run's config\.json is"
    ):
        resolve(file=tmp_path)
    (tmp_path / "latin").write_bytes(b"seed: \xff")
    with pytest.raises(ValueError, match="latin cannot be read as YAML"):
        resolve(file=tmp_path / "latin")


def test_two_presets_are_one_too_many(file: Path) -> None:
    file.write_text("preset: tiny")
    with pytest.raises(
        ValueError, match=r"table1-flow was asked for, and .*mine.yaml starts from the preset tiny"
    ):
        resolve("table1-flow", file=file)


def test_the_baseline_of_initial_weights_is_not_pretrained(file: Path) -> None:
    for words in ({"preset": "table5-random"}, {"file": file}):
        file.write_text(to_yaml(PRESETS["table5-random"].config))
        with pytest.raises(
            ValueError,
            match=r"table5-random .*nothing to pretrain; .*flowcpc evaluate STORE --mode random",
        ):
            resolve(**words)


def test_gamma_keeps_the_boundaries() -> None:
    """Spec cpc.md, Schedules: first * gamma^i at the i-th boundary."""
    found = with_gamma(PAPER.learning_rates, 0.1)
    assert [begin for begin, _ in found] == [0, 3_000, 10_000, 20_000]
    assert [rate for _, rate in found] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])
    assert with_gamma(((0, 0.3),), 0.5) == ((0, 0.3),)


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_gamma_is_a_factor(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma=.* is not a factor by which a rate falls"):
        resolve(gamma=gamma)


def test_a_file_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 5000)
    with pytest.raises(ValueError, match=r"deep.yaml is nested too deeply for settings"):
        resolve(file=tmp_path / "deep.yaml")
