"""RUN/README.md: what a run is, on one page for people who have nothing but its folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.plurals import counted
from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.splits import videos_of
from flowcpc.train.runs.checkpoint import Checkpoint, require_checkpoint
from flowcpc.train.runs.metrics import read_metrics

CARD = "README.md"
_TRANSDUCTIVE = "**Transductive:** the flow of test videos was trained on too (`split: all`), so results on them are not those on unseen videos."


def write_model_card(run_path: str | os.PathLike[str], store_path: str | os.PathLike[str]) -> Path:
    """Write RUN/README.md about the checkpoint of a run that was trained on a store, and return its path.

    Raises FileNotFoundError when there is no run or no store, ValueError when the checkpoint cannot be used.
    """
    run = Path(run_path)
    checkpoint = require_checkpoint(run)
    parts = [
        _summary(run.resolve().name, checkpoint),
        _loading(checkpoint),
        _data(checkpoint, store_path),
        _metrics(run, checkpoint),
        _table("Settings", "setting", checkpoint.config.to_json()),
        _table("Numerics of the flow", "what", _flat(checkpoint.numerics)),
        _licence(),
    ]
    replace_file(run / CARD, "\n".join(parts).encode())
    return run / CARD


def _summary(name: str, checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    transductive = f"\n\n{_TRANSDUCTIVE}" if config.split == "all" else ""
    what = f"{config.num_flows} stacked {'flows' if config.modality == 'flow' else 'images'}"
    return f"""# {name}

An encoder of {what}, pretrained without labels by video contrastive predictive coding (Lorre et al. 2019):
{config.model} with {config.context}, step {checkpoint.step} of {config.steps}.
A segment becomes a vector of {config.latent_size} numbers.{transductive}
"""


def _loading(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    height, width = config.size
    return f"""## Load it

This folder is enough, with flowcpc installed; no code in it is executed.

```python
import flowcpc
import torch

encoder = flowcpc.load_encoder(".")  # this folder
stacks = torch.zeros(1, {config.channels}, {height}, {width})  # float32 (n, channels, height, width): see below
latents = encoder(stacks)  # float32 (n, {config.latent_size})
```

{_channels(checkpoint)}

`flowcpc embed VIDEO... --weights RUN` does all of it to video files, and `flowcpc export-encoder RUN OUT --to onnx` writes a file for other programs.
"""


def _channels(checkpoint: Checkpoint) -> str:
    config = checkpoint.config
    if config.modality == "image":
        return "Channels are r0 g0 b0 r1 ... of the images, prepared as flowcpc prepares the frames of its stores."
    cut = "the central crop" if config.framing == "crop" else "the whole frame, resized,"
    return (
        "Channels are u0 v0 u1 v1 ..., flow in px per frame interval, (u, v) = (x, y), with the numerics below. From each component\n"
        f"of each flow the mean over the whole frame is subtracted; then {cut} of {config.size[0]}x{config.size[1]} px is taken. Nothing is scaled."
    )


def _data(checkpoint: Checkpoint, store_path: str | os.PathLike[str]) -> str:
    config = checkpoint.config
    store = open_store(store_path)
    videos = videos_of(store, config.fold, config.split)
    labels = videos["label"].nunique()
    which = (
        "all splits" if config.split == "all" else f"the {config.split} split of fold {config.fold}"
    )
    classes = f", {labels} classes, whose labels were not used" if labels else ""
    return f"""## Data

{counted(len(videos), "video")} ({counted(int(videos["flows"].sum()), "flow")}{classes})
in {which} of the store `{store.path.resolve().name}`, as it is now.
"""


def _metrics(run: Path, checkpoint: Checkpoint) -> str:
    lines = [line for line in read_metrics(run) if line["step"] <= checkpoint.step]
    config = checkpoint.config
    found = {"chance": 1 / config.classes, "classes": config.classes}
    for key in ("loss", "accuracy", "held_out_loss", "held_out_accuracy"):
        values = [line[key] for line in lines if line.get(key) is not None]
        if values:
            found[key] = values[-1]
    table = _table(
        "Metrics", "last measured", {name: _number(value) for name, value in found.items()}
    )
    return (
        f"{table}\n`accuracy` is the share of predictions that pick the right segment out of `classes`; `held_out_accuracy` the same on\n"
        "videos of the test split. They say nothing of how useful the vectors are; `flowcpc evaluate` measures that.\n"
    )


def _licence() -> str:
    return """## Licence

The code that made and loads this encoder is under Apache-2.0. Weights are made from videos: whether they may be used and passed on is
decided by the terms of the data set, which this file cannot know. Say them here before you share the folder.
"""


def _table(title: str, column: str, values: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {value if isinstance(value, str) else json.dumps(value)} |"
        for name, value in values.items()
    ]
    return "\n".join([f"## {title}\n", f"| {column} | value |", "|---|---|", *rows, ""])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names; long lists (a table of levels) are counted only."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = (
                f"{len(value)} values" if isinstance(value, list) and len(value) > 4 else value
            )
    return found


def _number(value: float) -> str:
    return f"{value:.4g}"
