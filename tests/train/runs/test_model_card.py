import dataclasses
import re
import subprocess
import sys
from pathlib import Path

from checkout import ROOT
from train_cases import CONFIG, TRAIN_VIDEOS

from flowcpc.train.pretraining.loop import pretrain
from flowcpc.train.runs.checkpoint import require_checkpoint
from flowcpc.train.runs.metrics import read_metrics
from flowcpc.train.runs.model_card import write_model_card


def test_the_card_says_what_the_run_is(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    pretrain(store, run, CONFIG)
    assert write_model_card(run, store) == run / "README.md"
    card = (run / "README.md").read_text()
    assert card.startswith("# my run\n")
    assert f"{TRAIN_VIDEOS} videos" in card
    assert "the train split of fold 1" in card
    config = require_checkpoint(run).config.to_json()
    for name, value in config.items():
        assert re.search(rf"\| {name} \| .+ \|", card), name
        if isinstance(value, str):
            assert f"| {name} | {value} |" in card
    assert "| encoding.name | companded8 |" in card
    loss = [line["loss"] for line in read_metrics(run) if "loss" in line][-1]
    assert f"| loss | {loss:.4g} |" in card
    assert "Apache-2.0" in card
    assert "Transductive" not in card


def test_transductive_runs_are_marked(store: Path, tmp_path: Path) -> None:
    pretrain(store, tmp_path / "run", dataclasses.replace(CONFIG, split="all"))
    assert "**Transductive:**" in write_model_card(tmp_path / "run", store).read_text()


def test_the_card_s_code_runs_in_a_folder_that_was_moved(store: Path, tmp_path: Path) -> None:
    """A folder with the run alone, in a new process."""
    pretrain(store, tmp_path / "run", CONFIG)
    write_model_card(tmp_path / "run", store)
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    store.rename(tmp_path / "away")
    (block,) = re.findall(r"```python\n(.*?)```", (moved / "README.md").read_text(), re.DOTALL)
    assert len(block.strip().splitlines()) <= 6
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{block}\nprint(tuple(latents.shape))",
        ],
        cwd=moved,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == f"(1, {CONFIG.latent_size})"
