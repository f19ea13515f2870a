"""The paper's settings and numbers, and the command that prints them."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowcpc.commands import main
from flowcpc.commands.settings import pretrain_config
from flowcpc.train.settings.config import PretrainConfig
from flowcpc.train.settings.presets import PRESETS, describe, find_preset, presets_table

# Lorre et al. 2019, tables 1 to 5: linear %, unsupervised %, and the settings in captions and text.
PAPER = {
    "table1-image": (14.5, 90.4, "model1 conv3d image T=8 N=10 variable"),
    "table1-flow": (55.4, 81.7, "model1 conv3d flow T=8 N=10 variable"),
    "table2-spacing-0": (40.9, None, "model1 tcam flow T=8 N=1 consecutive"),
    "table2-spacing-3": (43.2, None, "model1 tcam flow T=8 N=1 spaced 3"),
    "table2-spacing-5": (43.5, None, "model1 tcam flow T=8 N=1 spaced 5"),
    "table2-spacing-variable": (44.6, None, "model1 tcam flow T=8 N=1 variable"),
    "table2-flows-1": (44.6, None, "model1 tcam flow T=8 N=1 variable"),
    "table2-flows-3": (48.8, None, "model1 tcam flow T=8 N=3 variable"),
    "table2-flows-5": (48.6, None, "model1 tcam flow T=8 N=5 variable"),
    "table2-flows-10": (49.6, None, "model1 tcam flow T=8 N=10 variable"),
    "table3-model1-lstm": (32.8, None, "model1 lstm flow T=8 N=10 variable"),
    "table3-model1-conv3d": (55.4, None, "model1 conv3d flow T=8 N=10 variable"),
    "table3-model2-lstm": (43.6, None, "model2 lstm flow T=8 N=10 variable"),
    "table3-model2-conv3d": (45.2, None, "model2 masked-conv3d flow T=8 N=10 variable"),
    "table4-easy": (37.9, 90.3, "model2 lstm flow T=10 N=10 overlap 5"),
    "table4-difficult": (44.9, 33.7, "model2 lstm flow T=10 N=10 overlap 5 difficult"),
    "table5-random": (21.1, None, "model1 conv3d flow T=8 N=10 variable"),
    "table5-tcam": (49.6, None, "model1 tcam flow T=8 N=10 variable"),
    "table5-conv3d": (55.4, None, "model1 conv3d flow T=8 N=10 variable"),
}
TABLE_5 = {  # linear with all, 18, 5 labels per class; the same finetuned
    "table5-random": ((21.1, 20.9, 18.5), (76.4, 65.3, 41.8)),
    "table5-tcam": ((49.6, 47.8, 34.7), (80.5, 70.8, 50.0)),
    "table5-conv3d": ((55.4, 51.6, 37.5), (80.0, 71.4, 49.5)),
}


def in_words(config: PretrainConfig) -> str:
    spacing = f" {config.spacing}" if config.selection in ("spaced", "overlap") else ""
    difficult = " difficult" if config.difficult_negatives else ""
    shape = f"T={config.num_segments} N={config.num_flows}"
    kind = f"{config.model} {config.context} {config.modality}"
    return f"{kind} {shape} {config.selection}{spacing}{difficult}"


def test_every_table_of_the_paper_is_there_with_its_numbers() -> None:
    assert list(PRESETS) == [*PAPER, "tiny"]
    for name, (linear, unsupervised, words) in PAPER.items():
        preset = PRESETS[name]
        assert (preset.linear["all"], preset.unsupervised, in_words(preset.config)) == (
            linear,
            unsupervised,
            words,
        )
        few, finetuned = TABLE_5.get(name, ((linear,), ()))
        assert tuple(preset.linear.values()) == few
        assert tuple(preset.finetune.values()) == finetuned
        assert preset.pretrained == (name != "table5-random")
    assert not PRESETS["tiny"].linear


def test_what_the_paper_says_of_all_its_runs() -> None:
    """Section 4.3."""
    for name in PAPER:
        config = PRESETS[name].config
        assert config.num_observed == (4 if config.model == "model1" else 1)
        assert (config.framing, config.size) == (
            "crop" if config.model == "model1" else "resize",
            (224, 224),
        )
        assert (config.batch_size, config.steps, config.width, config.norm, config.flip) == (
            16,
            60_000,
            64,
            "bn",
            False,
        )
        assert config.learning_rates == PretrainConfig().learning_rates
        assert config.classes == {"table4-easy": 151, "table4-difficult": 160}.get(name, 121)


@pytest.mark.parametrize(
    "names",
    [
        ("table1-flow", "table3-model1-conv3d", "table5-conv3d"),
        ("table2-flows-10", "table5-tcam"),
        ("table2-flows-1", "table2-spacing-variable"),
    ],
)
def test_tables_that_report_the_same_run_share_its_settings(names: tuple[str, ...]) -> None:
    assert len({PRESETS[name].config.identity() for name in names}) == 1


def test_unknown_presets() -> None:
    with pytest.raises(ValueError, match="no preset 'tinny'; did you mean 'tiny'"):
        find_preset("tinny")
    with pytest.raises(
        ValueError, match="no preset 'table2-flow-3'; did you mean 'table2-flows-3'"
    ):
        find_preset("table2-flow-3")


def flowcpc(*words: object) -> Result:
    return CliRunner().invoke(main.main, [str(word) for word in words])


def test_the_command_lists_them_beside_the_papers_numbers() -> None:
    result = flowcpc("presets")
    assert result.exit_code == 0
    assert result.stdout == presets_table() + "\n"
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(PRESETS)
    rows = {line.split()[0]: re.split(r"  +", line) for line in lines[1:]}
    assert rows["table4-difficult"][1:] == [
        "model2", "lstm", "flow", "overlap 5", "10", "10", "160", "0.62", "44.9", "33.7",
    ]  # fmt: skip
    assert rows["table5-random"][1:] == ["-", "-", "flow", "-", "10", "8", "-", "-", "21.1", "-"]


def test_the_command_prints_json_for_programs() -> None:
    listed = json.loads(flowcpc("presets", "--json").stdout)
    assert [row["preset"] for row in listed] == list(PRESETS)
    for row in listed:
        assert PretrainConfig.from_json(row["settings"]) == PRESETS[row["preset"]].config
    assert json.loads(flowcpc("presets", "table5-tcam", "--json").stdout) == describe("table5-tcam")
    assert describe("table5-tcam")["paper_finetune"] == {"all": 80.5, "18": 70.8, "5": 50.0}
    assert describe("table1-flow")["chance"] == pytest.approx(100 / 121)


def test_the_command_prints_settings_that_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(flowcpc("presets", "table4-difficult").stdout)
    assert pretrain_config(file=tmp_path / "mine.yaml") == PRESETS["table4-difficult"].config
    result = flowcpc("presets", "tinny")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "did you mean 'tiny'" in result.stderr
