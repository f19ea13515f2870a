"""A run compared with the paper (Lorre et al. 2019): its numbers, and how the settings differ."""

from flowcpc.stores.flow_store import FlowStore
from flowcpc.train.settings.config import PretrainConfig, Settings
from flowcpc.train.settings.presets import PRESETS, Preset

PAPER = "Lorre et al. 2019"
DATA = "UCF-101, 101 classes, 9,537 training and 3,783 test videos in fold 1, flow of 256x342 px"
# Settings that decide how a run is done and not what it learns from.
_SILENT = {"preset", "schedule", "fold", "seed", "precision"}
_SILENT |= {"checkpoint_every", "log_every", "validate_every"}
_WORDS = {
    "num_flows": "flows per segment",
    "num_segments": "segments",
    "num_observed": "segments observed",
    "size": "input size",
    "width": "encoder width",
    "batch_size": "videos in a batch",
}


def paper_of(config: PretrainConfig) -> Preset | None:
    """Return the preset that a run started from, if the paper has numbers of it."""
    preset = PRESETS.get(config.preset)
    return preset if preset is not None and (preset.linear or preset.finetune) else None


def differences(config: Settings, reference: Settings) -> list[str]:
    """Return a phrase for each setting of `config` that differs from `reference`.

    >>> differences(PretrainConfig(steps=100, width=16), PretrainConfig())
    ['encoder width 16 instead of 64', 'steps 100 instead of 60,000']
    """
    theirs = reference.to_json()
    return [
        f"{_WORDS.get(name, name.replace('_', ' '))} {written(name, value)} "
        f"instead of {written(name, theirs[name])}"
        for name, value in config.to_json().items()
        if name not in _SILENT and value != theirs[name]
    ]


def data_of(store: FlowStore, fold: int) -> str:
    """Return a phrase that says what a store holds, to stand beside DATA."""
    videos = store.videos()
    column = f"fold{fold}"
    splits = videos[column].to_list() if column in videos else []
    size = f"{store.short_side} px on the shorter side"
    if store.size:
        size = f"{store.size[0]}x{store.size[1]} px"
    return (
        f"{store.path.resolve().name}, {videos['label'].nunique()} classes, "
        f"{splits.count('train'):,} training and {splits.count('test'):,} test videos "
        f"in fold {fold}, flow of {size}"
    )


def written(name: str, value: object) -> str:
    """Return a setting's JSON value as a person reads it.

    >>> written("size", [224, 224]), written("steps", 60000)
    ('224x224', '60,000')
    >>> written("learning_rates", [[0, 0.01], [3000, 0.005]])
    '0.01, 0.005 from 3,000'
    """
    if isinstance(value, list) and not isinstance(value[0], list):
        return ("x" if name == "size" else ", ").join(map(str, value))
    if isinstance(value, list):
        return ", ".join(f"{rate:g} from {step:,}" if step else f"{rate:g}" for step, rate in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
