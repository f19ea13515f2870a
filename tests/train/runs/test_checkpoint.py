import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import FRAMES
from train_cases import CONFIG

from flowcpc.stores.base import atomic
from flowcpc.train.model.cpc import ModelOne, build_model
from flowcpc.train.model.encoder import Encoder
from flowcpc.train.report.runs import read_runs
from flowcpc.train.runs import checkpoint
from flowcpc.train.runs.checkpoint import (
    check_numerics,
    hold_run,
    load_checkpoint,
    load_encoder,
    open_run,
    require_checkpoint,
    save_checkpoint,
)
from flowcpc.train.runs.tensors import load_strictly, tensors_to_bytes

NUMERICS = {"height": 18, "width": 20, "encoding": {"name": "companded8", "step": 0.125}}

WINDOW = [1.0, 1 / 3, *[0.0] * (5 + CONFIG.num_predicted)]  # of seven sums, and one per horizon


def save(run: Path, step: int, seed: int = 0) -> ModelOne:
    torch.manual_seed(seed)
    model = build_model(CONFIG)
    momentum = {name: value + 1 for name, value in model.named_parameters()}
    save_checkpoint(
        run,
        step=step,
        config=CONFIG,
        numerics=NUMERICS,
        videos="digest",
        window=WINDOW,
        model=model.state_dict(),
        momentum=momentum,
    )
    return model


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    model = save(tmp_path, 5)
    found = require_checkpoint(tmp_path)
    assert (found.step, found.config, found.numerics, found.videos, found.window) == (
        5,
        CONFIG,
        NUMERICS,
        "digest",
        WINDOW,
    )
    other = build_model(CONFIG)
    load_strictly(other, found.part("model"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    momentum = found.part("momentum")
    assert momentum.keys() == dict(model.named_parameters()).keys()
    assert all(
        torch.equal(value, model.get_parameter(name) + 1) for name, value in momentum.items()
    )


def test_the_newest_checkpoint_is_the_only_one(tmp_path: Path) -> None:
    for step in (5, 10):
        save(tmp_path, step)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["weights-10.safetensors"]


@pytest.mark.parametrize("file", ["weights-10.safetensors", "checkpoint.json"])
def test_killed_while_saving_the_older_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    save(tmp_path, 5, seed=1)
    expected = load_checkpoint(tmp_path)

    def replace_file(path: Path, data: bytes) -> None:
        if path.name == file:
            raise OSError("disk full")
        atomic.replace_file(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "replace_file", replace_file)
        with pytest.raises(OSError, match="disk full"):
            save(tmp_path, 10, seed=2)
    found = load_checkpoint(tmp_path)
    assert found.step == 5
    assert found.sha256 == expected.sha256
    save(tmp_path, 10, seed=2)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_the_encoder_of_a_run(tmp_path: Path) -> None:
    model = save(tmp_path, 5)
    encoder = load_encoder(tmp_path)
    assert isinstance(encoder, Encoder)
    assert not encoder.training
    assert encoder.config == CONFIG
    stacks = torch.randn(3, 4, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(encoder(stacks), model.encoder.eval()(stacks))


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="holds no checkpoint of a run; make one with: flowcpc pretrain"
    ):
        load_encoder(tmp_path / "nowhere")


def test_damage_is_found(tmp_path: Path) -> None:
    save(tmp_path, 5)
    file = tmp_path / "weights-5.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 4
    file.write_bytes(data)
    with pytest.raises(ValueError, match="does not fit its checksum"):
        load_checkpoint(tmp_path)
    file.unlink()
    with pytest.raises(
        ValueError, match=r"\(weights-5.safetensors does not exist\); restore the run"
    ):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be used"):
        load_checkpoint(tmp_path)


def rewrite(run: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Put `tensors` in place of the weights, with the checksum that fits them."""
    meta = json.loads((run / "checkpoint.json").read_text())
    data = tensors_to_bytes(tensors)
    (run / meta["weights"]).write_bytes(data)
    (run / "checkpoint.json").write_text(
        json.dumps(meta | {"sha256": hashlib.sha256(data).hexdigest()})
    )


def test_every_tensor_of_the_model_counts(tmp_path: Path) -> None:
    """Not the encoder's alone, which an evaluation reads."""
    save(tmp_path, 5)
    tensors = require_checkpoint(tmp_path).tensors
    context = next(name for name in tensors if name.startswith("model.context."))
    for changed, words in (
        (
            {name: value for name, value in tensors.items() if name != context},
            f"{context} is missing",
        ),
        (
            {
                name: value
                for name, value in tensors.items()
                if name != "momentum.predictors.weight"
            },
            "momentum.predict",
        ),
        (tensors | {"bogus.weight": torch.zeros(2)}, "bogus.weight is unexpected"),
    ):
        rewrite(tmp_path, changed)
        with pytest.raises(ValueError, match=rf"checkpoint\.json cannot be used .*{words}"):
            load_checkpoint(tmp_path)
    rewrite(tmp_path, tensors)
    before = torch.get_rng_state()
    load_checkpoint(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)  # to look at the model draws nothing


def test_weights_of_another_width_are_a_short_sentence(tmp_path: Path) -> None:
    save(tmp_path, 5)
    meta = json.loads((tmp_path / "checkpoint.json").read_text())
    meta["config"]["width"] = 4
    (tmp_path / "checkpoint.json").write_text(json.dumps(meta))
    with pytest.raises(
        ValueError, match=r"instead of .*; and \d\d+ more; use the settings that made them"
    ) as caught:
        load_checkpoint(tmp_path)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda meta: [], "it is no JSON object"),
        (
            lambda meta: meta | {"config": meta["config"] | {"width": "many"}},
            "a value in it has the wrong type",
        ),
        (
            lambda meta: {name: value for name, value in meta.items() if name != "window"},
            "it lacks window",
        ),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_said_in_words(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    save(tmp_path, 5)
    file = tmp_path / "checkpoint.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=rf"cannot be used \({words}"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *(
            ("numerics", value, "numerics is not an object of names and values")
            for value in (None, [], "a")
        ),
        *(("videos", value, "videos is not a text") for value in (None, 5, ["v"])),
        *(
            ("window", value, rf"window is not a list of {len(WINDOW)} numbers")
            for value in (
                None,
                5,
                {},
                [],
                WINDOW[:-1],
                [*WINDOW, 0.0],
                ["1", *WINDOW[1:]],
                [None, *WINDOW[1:]],
            )
        ),
        *(("step", value, "step is not a whole number") for value in ("5", 5.0, None, True)),
    ],
)
def test_values_beside_the_weights_are_of_their_kind(
    tmp_path: Path, name: str, value: object, words: str
) -> None:
    save(tmp_path, 5)
    file = tmp_path / "checkpoint.json"
    meta = json.loads(file.read_text()) | {name: value}
    weights = (
        tmp_path / f"weights-{meta['step']}.safetensors"
    )  # a step of another kind may name them as well
    (tmp_path / "weights-5.safetensors").rename(weights)
    file.write_text(json.dumps(meta | {"weights": weights.name}))
    with pytest.raises(
        ValueError, match=rf"checkpoint\.json cannot be used \({words}\); restore the run"
    ):
        load_checkpoint(tmp_path)


def test_no_run_is_suggested_where_something_else_is(
    tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path, {"a": np.zeros((3, 2, 20, 20), np.float32)})
    for path, words in (
        (store, "it is a store, or a part of one: give the folder that flowcpc pretrain wrote"),
        (tmp_path, "it is something else: give the folder that flowcpc pretrain wrote"),
    ):
        for read in (require_checkpoint, lambda path: read_runs([path])):
            with pytest.raises(FileNotFoundError, match=words):
                read(path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").touch()  # killed before its first checkpoint
    with pytest.raises(FileNotFoundError, match=r"make one with: flowcpc pretrain STORE .*begun"):
        require_checkpoint(tmp_path / "begun")


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 5)
    meta = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps(meta | {"format_version": 1}))
    with pytest.raises(ValueError, match="format version 1, this release reads 2"):
        load_checkpoint(tmp_path)


def test_a_run_is_held_by_one_process_and_swept(tmp_path: Path) -> None:
    (tmp_path / f".1a{atomic.TEMPORARY_SUFFIX}").touch()
    with hold_run(tmp_path):
        assert list(tmp_path.iterdir()) == []
        with (
            pytest.raises(ValueError, match="is being trained by another process"),
            hold_run(tmp_path),
        ):
            pass
    with hold_run(tmp_path):
        pass


def test_other_numerics_are_named(tmp_path: Path) -> None:
    save(tmp_path, 5)
    found = require_checkpoint(tmp_path)
    check_numerics(found, NUMERICS)
    with pytest.raises(
        ValueError,
        match=r"encoding.step was 0.125 and is 0.25 in this store; height was 18 and is 36",
    ):
        check_numerics(
            found, NUMERICS | {"height": 36, "encoding": {"name": "companded8", "step": 0.25}}
        )


def test_frames_beside_the_flow_matter_to_runs_on_images_alone(tmp_path: Path) -> None:
    save(tmp_path, 5)
    found = require_checkpoint(tmp_path)
    check_numerics(found, NUMERICS | FRAMES)
    images = dataclasses.replace(found, config=dataclasses.replace(CONFIG, modality="image"))
    with pytest.raises(ValueError, match=r"frames was None and is .*jpeg"):
        check_numerics(images, NUMERICS | FRAMES)


def test_a_run_that_lost_its_checkpoint_is_not_trained_anew(tmp_path: Path) -> None:
    save(tmp_path, 48)
    (tmp_path / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match=r"holds weights-48.safetensors but no checkpoint.json"):
        open_run(tmp_path, CONFIG, NUMERICS, "digest")
    assert (tmp_path / "weights-48.safetensors").exists()


def test_a_kill_before_the_first_checkpoint_was_named_is_no_loss(tmp_path: Path) -> None:
    save(tmp_path, CONFIG.checkpoint_every)
    (tmp_path / "checkpoint.json").unlink()
    assert open_run(tmp_path, CONFIG, NUMERICS, "digest") is None


def test_weights_of_another_step_are_refused(tmp_path: Path) -> None:
    save(tmp_path, 5)
    meta = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps({**meta, "step": 4}))
    with pytest.raises(ValueError, match=r"weights-5.safetensors are not the weights of step 4"):
        load_checkpoint(tmp_path)
