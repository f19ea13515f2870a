"""The paper's settings by name, with the paper's results (Lorre et al. 2019, tables 1 to 5)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flowcpc.train.settings.config import PretrainConfig, suggestion


@dataclasses.dataclass(frozen=True)
class Preset:
    """Named settings."""

    config: PretrainConfig
    pretrained: bool = True  # False for the paper's baseline of initial weights
    # The paper's accuracy at telling the predicted segment from the negatives, %.
    unsupervised: float | None = None
    # Its accuracies at action recognition on UCF-101, %, by labels per class (all, 18, 5): a linear
    # layer on the frozen encoder, and everything trained.
    linear: Mapping[str, float] = dataclasses.field(default_factory=dict)
    finetune: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _paper(
    name: str,
    linear: float,
    unsupervised: float | None = None,
    few: tuple[float, float] | None = None,
    finetune: tuple[float, float, float] | None = None,
    *,
    pretrained: bool = True,
    **settings: Any,
) -> Preset:
    """Return a preset; `few` and `finetune` are table 5's columns (18, 5) and (all, 18, 5)."""
    labels = {"all": linear} | (dict(zip(("18", "5"), few, strict=True)) if few else {})
    tuned = dict(zip(("all", "18", "5"), finetune, strict=True)) if finetune else {}
    return Preset(PretrainConfig(preset=name, **settings), pretrained, unsupervised, labels, tuned)


# Differences from PretrainConfig's defaults. What the paper leaves open is as in its table 1.
_TCAM: Mapping[str, Any] = {"context": "tcam"}
_ONE_FLOW: Mapping[str, Any] = {"context": "tcam", "num_flows": 1}
_CONSECUTIVE: Mapping[str, Any] = {"selection": "consecutive", "spacing": 0}
_MODEL2: Mapping[str, Any] = dict(model="model2", context="lstm", num_observed=1, framing="resize")
_TABLE4: Mapping[str, Any] = {**_MODEL2, "num_segments": 10, "selection": "overlap", "spacing": 5}

_TINY = PretrainConfig(  # for a CPU: flow of 36x48 px and clips of 24 flows or more, as `make demo`
    preset="tiny",
    num_flows=3,
    spacing=2,
    size=(32, 32),
    width=16,
    steps=1_000,
    learning_rates=((0, 0.01), (800, 0.002)),
    checkpoint_every=100,
)

_ALL = (
    # Table 1: model 1, Conv3D, ten frames, variable spacing
    _paper("table1-image", 14.5, 90.4, modality="image"),
    _paper("table1-flow", 55.4, 81.7),
    # Table 2: model 1, TCAM; one flow and different spacings, then different numbers of flows
    _paper("table2-spacing-0", 40.9, **_ONE_FLOW, **_CONSECUTIVE),
    _paper("table2-spacing-3", 43.2, **_ONE_FLOW, selection="spaced", spacing=3),
    _paper("table2-spacing-5", 43.5, **_ONE_FLOW, selection="spaced", spacing=5),
    _paper("table2-spacing-variable", 44.6, **_ONE_FLOW),
    _paper("table2-flows-1", 44.6, **_ONE_FLOW),
    _paper("table2-flows-3", 48.8, **_TCAM, num_flows=3),
    _paper("table2-flows-5", 48.6, **_TCAM, num_flows=5),
    _paper("table2-flows-10", 49.6, **_TCAM),
    # Table 3: ten flows, variable spacing
    _paper("table3-model1-lstm", 32.8, context="lstm"),
    _paper("table3-model1-conv3d", 55.4),
    _paper("table3-model2-lstm", 43.6, **_MODEL2),
    _paper("table3-model2-conv3d", 45.2, **{**_MODEL2, "context": "masked-conv3d"}),
    # Table 4: model 2, LSTM, ten segments of ten flows with an overlap of five
    _paper("table4-easy", 37.9, 90.3, **_TABLE4),
    _paper("table4-difficult", 44.9, 33.7, **_TABLE4, difficult_negatives=True),
    # Table 5: model 1, ten flows, variable spacing; table5-random finetuned is from scratch
    _paper("table5-random", 21.1, None, (20.9, 18.5), (76.4, 65.3, 41.8), pretrained=False),
    _paper("table5-tcam", 49.6, None, (47.8, 34.7), (80.5, 70.8, 50.0), **_TCAM),
    _paper("table5-conv3d", 55.4, None, (51.6, 37.5), (80.0, 71.4, 49.5)),
    Preset(_TINY),
)
_COLUMNS = ("model", "context", "modality", "selection", "num_flows", "num_segments", "classes")
_HEAD = "preset  model  context  input  selection  N  T  classes  chance %  linear %  unsup. %"
PRESETS = {preset.config.preset: preset for preset in _ALL}


def find_preset(name: str) -> Preset:
    """Return the preset called `name`. Raises ValueError with the nearest name."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; {suggestion(name, tuple(PRESETS))}")
    return PRESETS[name]


def describe(name: str) -> dict[str, Any]:
    """Return a preset as JSON values: what `flowcpc presets` shows, and all of its `settings`.

    The baseline of initial weights has no model, context, selection or classes.
    """
    preset = find_preset(name)
    config = preset.config
    of_some = {"consecutive": "", "variable": f" 0-{config.spacing}"}
    spacing = of_some.get(config.selection, f" {config.spacing}")
    task = {
        "model": config.model,
        "context": config.context,
        "selection": config.selection + spacing,
        "classes": config.classes,
        "chance": 100 / config.classes,
    }
    return {
        "preset": name,
        "modality": config.modality,
        "num_flows": config.num_flows,
        "num_segments": config.num_segments,
        **{key: value if preset.pretrained else None for key, value in task.items()},
        "paper_linear": dict(preset.linear) or None,
        "paper_finetune": dict(preset.finetune) or None,
        "paper_unsupervised": preset.unsupervised,
        "settings": config.to_json(),
    }


def presets_table() -> str:
    """Return a table of all presets and the paper's numbers as text."""
    rows = [_HEAD.split("  ")]
    for name, preset in PRESETS.items():
        about = describe(name)
        chance = about["chance"] and f"{about['chance']:.2f}"
        values = [*map(about.get, _COLUMNS), chance, preset.linear.get("all"), preset.unsupervised]
        rows.append([name, *("-" if value is None else str(value) for value in values)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, "<<<<<>>>>>>", widths, strict=True)
        lines.append("  ".join(f"{cell:{side}{width}}" for cell, side, width in cells).rstrip())
    return "\n".join(lines)
