"""Settings as people write them: `key=value`, a YAML file, options -> PretrainConfig, and back."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from flowcpc.train.settings.config import PretrainConfig, Schedule, suggestion
from flowcpc.train.settings.presets import find_preset

DEFAULT_PRESET = "table1-flow"
_KEYS = tuple(field.name for field in dataclasses.fields(PretrainConfig) if field.name != "preset")
_DEFAULTS = PretrainConfig()


def resolve(
    preset: str | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    settings: Sequence[str] = (),
    steps: int | None = None,
    gamma: float | None = None,
    modality: str | None = None,
) -> PretrainConfig:
    """Return the settings of a pretraining; each of the following overrides those before it.

    Parameters
    ----------
    preset : str, optional
        Where to start; the file's `preset`, or else table1-flow, unless given.
    file : path, optional
        YAML (or JSON, such as a run's config.json): a mapping of settings, and under `preset` a name to start from.
    settings : sequence of str
        `key=value`.
    steps, modality
        The settings of these names.
    gamma : float, optional
        Factor by which the learning rate falls at each boundary of the schedule, from its first rate.

    Raises
    ------
    ValueError
        A name, a value or a combination cannot be taken; the message names it, and its file.
    FileNotFoundError
        There is no such file.
    """
    values = {} if file is None else _read_yaml(Path(file))
    base = values.pop("preset", None)
    if not isinstance(base, str | None):
        raise ValueError(
            f"{file}: preset is not the name of a preset; write for example preset: tiny"
        )
    if base is not None and preset is not None and base != preset:
        raise ValueError(
            f"{preset} was asked for, and {file} starts from the preset {base}; leave one of them out"
        )
    with _naming(None if base is None else file):
        chosen = find_preset(
            next(name for name in (base, preset, DEFAULT_PRESET) if name is not None)
        )
    if not chosen.pretrained:
        raise ValueError(
            f"{chosen.config.preset} is the encoder with its initial weights, so there is nothing to pretrain; "
            f"evaluate it: flowcpc evaluate STORE --mode random --preset {chosen.config.preset} --out OUT"
        )
    changes: dict[str, Any] = {}
    with _naming(file):
        changes |= {key: _parse(_known(key), _as_text(key, value)) for key, value in values.items()}
    changes |= _changes(settings)
    changes |= {
        key: value for key, value in (("steps", steps), ("modality", modality)) if value is not None
    }
    config = dataclasses.replace(chosen.config, **changes)
    if gamma is None:
        return config
    return dataclasses.replace(config, learning_rates=with_gamma(config.learning_rates, gamma))


def with_settings(config: PretrainConfig, settings: Sequence[str]) -> PretrainConfig:
    """Return `config` with every `key=value` of `settings` put in.

    Sizes are written 224x224, schedules `0:0.01,3000:0.005`, switches true or false. Raises ValueError naming the key and the value that cannot
    be taken; for an unknown key the nearest one.

    >>> with_settings(PretrainConfig(), ["size=32x48", "learning_rates=0:0.1,50:0.01"]).learning_rates
    ((0, 0.1), (50, 0.01))
    """
    return dataclasses.replace(config, **_changes(settings))


def with_gamma(schedule: Schedule, gamma: float) -> Schedule:
    """Return a schedule of the same boundaries whose rate falls by the factor `gamma` at each. Raises ValueError unless 0 < gamma <= 1.

    >>> with_gamma(((0, 0.5), (3, 0.4), (9, 0.1)), 0.5)
    ((0, 0.5), (3, 0.25), (9, 0.125))
    """
    if not 0 < gamma <= 1:
        raise ValueError(
            f"gamma={gamma} is not a factor by which a rate falls; take one above 0 and up to 1"
        )
    return tuple(
        (begin, schedule[0][1] * gamma**place) for place, (begin, _) in enumerate(schedule)
    )


def to_yaml(config: PretrainConfig) -> str:
    """Return all settings as YAML from which `resolve(file=...)` makes the same."""
    lines = [f"preset: {config.preset}"]
    for key in _KEYS:
        value = getattr(config, key)
        if isinstance(value, tuple) and key != "size":
            text = "{" + ", ".join(f"{begin}: {rate!r}" for begin, rate in value) + "}"
        else:
            text = _written(key, value)
        lines.append(f"{key}: {text}")
    return "\n".join(lines) + "\n"


class _TextLoader(yaml.BaseLoader):
    """Leaves every scalar as text, to be read as that of key=value is; YAML itself would take 0:0.01 for a number in base 60."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; a key that stands twice is an error."""
        found = super().construct_mapping(node, deep=True)
        if len(found) != len(node.value):
            keys = [str(self.construct_object(key, deep=True)) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice} stands there twice", node.start_mark
            )
        return found


def _read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a file; its values are texts, and mappings and lists of them."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give a file of settings, as a run's config.json is")
    if not file.exists():
        raise FileNotFoundError(
            f"there is no file {file}; give one that holds settings as `batch_size: 8`"
        )
    try:
        values = yaml.load(file.read_bytes(), Loader=_TextLoader)
    except RecursionError:
        raise ValueError(
            f"{file} is nested too deeply for settings; write lines such as `batch_size: 8`"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(
            f"{file} cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no settings by name; write lines such as `batch_size: 8`")
    return values


@contextlib.contextmanager
def _naming(file: str | os.PathLike[str] | None) -> Iterator[None]:
    """Put the file's name before what a ValueError says."""
    try:
        yield
    except ValueError as error:
        if file is None:
            raise
        raise ValueError(f"{file}: {error}") from None


def _changes(settings: Sequence[str]) -> dict[str, Any]:
    changes = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is not key=value; write for example batch_size=8")
        key = _known(key.strip())
        changes[key] = _parse(key, text.strip())
    return changes


def _known(key: str) -> str:
    if key not in _KEYS:
        raise ValueError(f"there is no setting {key!r}; {suggestion(str(key), _KEYS)}")
    return key


def _as_text(key: str, value: Any) -> str:
    """Return a value from YAML as `key=value` has it: [224, 224] is 224x224, {0: 0.01} and [[0, 0.01]] are 0:0.01."""
    if isinstance(value, str):
        return value
    if not isinstance(getattr(_DEFAULTS, key), tuple):
        raise ValueError(f"{key} holds several values; {key} is {_form(key)}")
    if key == "size":
        return "x".join(map(str, value))
    pairs = value.items() if isinstance(value, dict) else value
    return ",".join(
        ":".join(map(str, pair)) if not isinstance(pair, str) else pair for pair in pairs
    )


def _parse(key: str, text: str) -> Any:
    """Return `text` as the type of the setting."""
    default = getattr(_DEFAULTS, key)
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if key == "size":
            height, width = text.lower().split("x")
            return int(height), int(width)
        if isinstance(default, tuple):
            pairs = (part.split(":") for part in text.split(","))
            return tuple((int(step), float(rate)) for step, rate in pairs)
        return type(default)(text)
    except (ValueError, KeyError):
        raise ValueError(f"{key}={text} cannot be read; {key} is {_form(key)}") from None


def _form(key: str) -> str:
    """Return what a setting looks like, in words."""
    default = getattr(_DEFAULTS, key)
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int | float):
        return f"a {'whole ' if isinstance(default, int) else ''}number, such as {default}"
    return f"of the form {_written(key, default)}"


def _written(key: str, value: Any) -> str:
    if key == "size":
        return "x".join(map(str, value))
    if isinstance(value, tuple):
        return ",".join(f"{step}:{rate}" for step, rate in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
