"""Settings of users, `key=value` or YAML, become configuration objects of the Python API.

Names and types are those of a dataclass's fields; the dataclass checks ranges and combinations.
"""

import contextlib
import dataclasses
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from flowcpc.train.settings.config import PretrainConfig, Schedule, Settings, Size, suggestion
from flowcpc.train.settings.presets import find_preset

Config = TypeVar("Config", bound=Settings)
DEFAULT_PRESET = "table1-flow"
_LABELS = ("preset", "schedule")  # fields that name where settings started from
Numbers = tuple[float, ...]


def with_settings(config: Config, settings: Iterable[str]) -> Config:
    """Return `config` changed by every `key=value` of `settings`.

    A size is written 224x224, a schedule 0:0.01,3000:0.005, several numbers 0.1,1, a switch true or
    false. Raises ValueError with the key and the value that is wrong, or the name nearest to an
    unknown key.

    >>> with_settings(PretrainConfig(), ["learning_rates=0:0.1,50:0.01"]).learning_rates
    ((0, 0.1), (50, 0.01))
    """
    return dataclasses.replace(config, **parse_settings(settings, type(config))[0])


def parse_settings(settings: Iterable[str], *classes: type[Settings]) -> list[dict[str, Any]]:
    """Return the values of `key=value` texts, one mapping for each of `classes`.

    A key that two classes have goes to the first one. Raises ValueError as `with_settings`.
    """
    texts = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"{setting!r} is not key=value; write for example batch_size=8")
        texts[key.strip()] = text.strip()
    return _typed_values(texts, *classes)


def pretrain_config(
    preset: str | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    settings: Iterable[str] = (),
    steps: int | None = None,
    gamma: float | None = None,
    modality: str | None = None,
) -> PretrainConfig:
    """Return the settings of a pretraining; each source overrides those before it.

    They start from `preset`, which is that of the file, or table1-flow, unless given. `file` is
    YAML, or JSON such as the config.json of a run: a mapping of settings, and a `preset`.
    `settings` are `key=value`; `gamma` is the argument of `with_gamma`.

    Raises ValueError for a name, a value or a combination that is not valid, naming it and its
    file, and FileNotFoundError if there is no such file.
    """
    values = {} if file is None else _read_yaml(Path(file))
    preset_of_file = values.pop("preset", None)
    if not isinstance(preset_of_file, str | None):
        raise ValueError(f"{file}: preset must be a name, for example preset: tiny")
    if None not in (preset, preset_of_file) and preset != preset_of_file:
        where = f"{preset} on the command line and {preset_of_file} in {file}"
        raise ValueError(f"the preset is {where}; leave one of them out")
    name = preset if preset_of_file is None else preset_of_file
    with _naming(None if preset_of_file is None else file):
        start = find_preset(DEFAULT_PRESET if name is None else name)
    with _naming(file):
        (changes,) = _typed_values(values, PretrainConfig)
    if not start.pretrained:
        command = f"flowcpc evaluate STORE --mode random --preset {name} --out OUT"
        raise ValueError(f"{name} keeps initial weights (nothing to pretrain); use {command}")
    changes |= parse_settings(settings, PretrainConfig)[0]
    given = {"steps": steps, "modality": modality}
    changes |= {key: value for key, value in given.items() if value is not None}
    config = dataclasses.replace(start.config, **changes)
    rates = config.learning_rates if gamma is None else with_gamma(config.learning_rates, gamma)
    return dataclasses.replace(config, learning_rates=rates)


def with_gamma(schedule: Schedule, gamma: float) -> Schedule:
    """Return a schedule of the same boundaries whose rate falls by the factor `gamma` at each.

    Raises ValueError unless 0 < gamma <= 1.

    >>> with_gamma(((0, 0.5), (3, 0.4), (9, 0.1)), 0.5)
    ((0, 0.5), (3, 0.25), (9, 0.125))
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma must be above 0 and at most 1, got {gamma}")
    first = schedule[0][1]
    return tuple((begin, first * gamma**number) for number, (begin, _) in enumerate(schedule))


def to_yaml(config: PretrainConfig) -> str:
    """Return all settings as YAML, from which `pretrain_config(file=...)` reads the same."""
    lines = []
    for name, kind in typing.get_type_hints(PretrainConfig).items():
        text = _as_text(getattr(config, name), kind)
        if kind == Schedule:
            text = "{" + text.replace(":", ": ").replace(",", ", ") + "}"
        lines.append(f"{name}: {text}\n")
    return "".join(lines)


class _TextLoader(yaml.BaseLoader):
    """Leaves every scalar as text, parsed like that of key=value; YAML takes 0:0.01 for a number
    in base 60.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping; a key that occurs twice is an error."""
        mapping = super().construct_mapping(node, deep=True)
        if len(mapping) != len(node.value):
            keys = [str(self.construct_object(key, deep=True)) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            problem = f"{twice} occurs twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return mapping


def _read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a file; its values are texts, and mappings and lists of them."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder; give a file, such as the config.json of a run")
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; give a file of settings")
    try:
        values = yaml.load(file.read_bytes(), Loader=_TextLoader)
    except RecursionError:
        message = f"{file} is nested too deeply; write lines such as batch_size: 8"
        raise ValueError(message) from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no settings; write lines such as batch_size: 8")
    return values


@contextlib.contextmanager
def _naming(file: str | os.PathLike[str] | None) -> Iterator[None]:
    """Put the file's name before the text of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise error if file is None else ValueError(f"{file}: {error}") from None


def _typed_values(values: Mapping[str, Any], *classes: type[Settings]) -> list[dict[str, Any]]:
    """Return texts, and lists and mappings of them, as the fields of `classes` have them."""
    kinds = [typing.get_type_hints(one) for one in classes]
    names = [name for kind in kinds for name in kind if name not in _LABELS]
    typed: list[dict[str, Any]] = [{} for _ in classes]
    for name, value in values.items():
        if name not in names:
            raise ValueError(f"there is no setting {name!r}; {suggestion(str(name), names)}")
        owner = next(number for number, kind in enumerate(kinds) if name in kind)
        default = getattr(classes[owner](), name)
        try:
            typed[owner][name] = _parse(value, kinds[owner][name])
        except (ValueError, KeyError, TypeError):
            rule = _rule(default, kinds[owner][name])
            shown = repr(value) if isinstance(value, str) else "several values"
            raise ValueError(f"{name} must be {rule}, got {shown}") from None
    return typed


def _parse(value: Any, kind: Any) -> Any:
    """Return `value`, a text or what YAML has for one, as a value of the type `kind`."""
    if kind == Size:
        height, width = value.lower().split("x") if isinstance(value, str) else value
        return int(height), int(width)
    if kind == Numbers:
        return tuple(map(float, value.split(",") if isinstance(value, str) else value))
    if kind == Schedule:
        pairs = value.split(",") if isinstance(value, str) else value
        pairs = pairs.items() if isinstance(pairs, dict) else pairs
        split = (pair.split(":") if isinstance(pair, str) else pair for pair in pairs)
        return tuple((int(step), float(rate)) for step, rate in split)
    if not isinstance(value, str):
        raise TypeError
    return {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)


def _as_text(value: Any, kind: Any) -> str:
    if kind == Schedule:
        return ",".join(f"{step}:{rate}" for step, rate in value)
    if isinstance(value, tuple):
        return ("x" if kind == Size else ",").join(map(str, value))
    return str(value).lower() if kind is bool else str(value)


def _rule(default: Any, kind: Any) -> str:
    if kind is bool:
        return "true or false"
    words = {int: "a whole number, such as", float: "a number, such as", str: "a name, such as"}
    return f"{words.get(kind, 'of the form')} {_as_text(default, kind)}"
