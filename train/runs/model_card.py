"""RUN/README.md: a description of a run for people who have only its folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.errors import counted
from flowcpc.stores.flow_store import open_store
from flowcpc.train.data.splits import videos_of
from flowcpc.train.runs.checkpoint import Checkpoint, require_checkpoint
from flowcpc.train.runs.metrics import read_metrics

CARD = "README.md"
_LONGEST_LIST = 4  # of longer ones only the length is shown
_MEASURES = ("loss", "accuracy", "held_out_loss", "held_out_accuracy")
_TEXT = """# {name}

An encoder of {config.num_flows} stacked {inputs}, pretrained without labels by video contrastive
predictive coding (Lorre et al. 2019): {config.model} with {config.context}, step {step} of
{config.steps}. It maps a segment to a vector of {config.latent_size} numbers.
{transductive}
## Load the encoder

This folder is all you need besides flowcpc. No code in it is executed.

```python
import flowcpc
import torch

encoder = flowcpc.load_encoder(".")  # this folder
stacks = torch.zeros(1, {config.channels}, {height}, {width})  # float32 (n, channels, h, w)
latents = encoder(stacks)  # float32 (n, {config.latent_size})
```

{preparation}

`flowcpc embed VIDEO... --weights RUN` does all of this for video files. `flowcpc export-encoder RUN
OUT --to onnx` writes the encoder for other programs.

## Data

{data}

{metrics}
`accuracy` is the share of predictions that pick the right one of `classes` segments.
`held_out_accuracy` is the same on videos of the test split. Neither measures how useful the vectors
are; `flowcpc evaluate` does.

{settings}
{numerics}
## Licence

The code that made and loads this encoder is licensed under Apache-2.0. The terms of the data set
decide whether the weights may be used and shared. Add them here before you share this folder.
"""
_TRANSDUCTIVE = """
**Transductive:** the encoder was also pretrained on the flow of the test videos (`split: all`).
Results on them are not results on unseen videos.
"""
_IMAGES = """\
Channels are r0 g0 b0 r1 ... of the images, prepared like the frames of a flowcpc store."""
_FLOW = """\
Channels are u0 v0 u1 v1 ...: flow in px per frame interval, (u, v) = (x, y), with the numerics
below. Subtract from each component of each flow its mean over the whole frame. Then {framing}
{height}x{width} px. Do not scale the values."""


def write_model_card(run_path: str | os.PathLike[str], store_path: str | os.PathLike[str]) -> Path:
    """Write RUN/README.md about the checkpoint of a run trained on a store, and return its path.

    Raises FileNotFoundError if the run or the store does not exist, ValueError if the checkpoint is
    not valid.
    """
    run = Path(run_path)
    checkpoint = require_checkpoint(run)
    config = checkpoint.config
    height, width = config.size
    framing = "crop the centre to" if config.framing == "crop" else "resize the whole frame to"
    flow = _FLOW.format(framing=framing, height=height, width=width)
    numerics = pd.json_normalize(checkpoint.numerics).to_dict("records")[0]  # names with dots
    text = _TEXT.format(
        name=run.resolve().name,
        config=config,
        inputs="flows" if config.modality == "flow" else "images",
        step=checkpoint.step,
        transductive=_TRANSDUCTIVE if config.split == "all" else "",
        height=height,
        width=width,
        preparation=flow if config.modality == "flow" else _IMAGES,
        data=_data(checkpoint, store_path),
        metrics=_table("Metrics", "last measured", _last_metrics(run, checkpoint)),
        settings=_table("Settings", "setting", config.to_json()),
        numerics=_table("Numerics of the flow", "name", {str(k): v for k, v in numerics.items()}),
    )
    replace_file(run / CARD, text.encode())
    return run / CARD


def _data(checkpoint: Checkpoint, store_path: str | os.PathLike[str]) -> str:
    config = checkpoint.config
    store = open_store(store_path)
    videos = videos_of(store, config.fold, config.split)
    labels, flows = videos["label"].nunique(), int(videos["flows"].sum())
    split = f"the {config.split} split of fold {config.fold}"
    return (
        f"{counted(len(videos), 'video')} ({counted(flows, 'flow')}"
        f"{f', {labels} classes, whose labels were not used' if labels else ''})\n"
        f"in {'all splits' if config.split == 'all' else split} of the store "
        f"`{store.path.resolve().name}`, as it is now."
    )


def _last_metrics(run: Path, checkpoint: Checkpoint) -> dict[str, str]:
    classes = checkpoint.config.classes
    metrics: dict[str, float] = {"chance": 1 / classes, "classes": classes}
    lines: Any = read_metrics(run)
    for line in lines:
        if line["step"] <= checkpoint.step:
            metrics |= {name: line[name] for name in _MEASURES if line.get(name) is not None}
    return {name: f"{value:.4g}" for name, value in metrics.items()}


def _table(title: str, column: str, values: Mapping[str, Any]) -> str:
    lines = [f"## {title}\n", f"| {column} | value |", "|---|---|"]
    for name, value in values.items():
        if isinstance(value, list) and len(value) > _LONGEST_LIST:
            value = f"{len(value)} values"
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"| {name} | {text} |")
    return "\n".join([*lines, ""])
