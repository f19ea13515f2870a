"""store.json: what a store is, and how it differs from what a command asks for."""

import contextlib
import json
from pathlib import Path
from typing import Any

from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.records import record_file
from flowcpc.stores.records.contract import Numerics


def read_store_file(root: Path) -> tuple[str, Numerics]:
    """Return (array_format, numerics) of the store at `root`.

    Raises FileNotFoundError if there is no store, ValueError for another format or version.
    """
    file = root / layout.STORE_FILE
    if layout.is_remains(root):
        raise FileNotFoundError(without_store_file(root))
    if not file.is_file():
        problem = f"{root} is not a flowcpc store (it has no {layout.STORE_FILE})"
        cure = f"create one with: flowcpc extract-flow VIDEOS {root}"
        raise FileNotFoundError(f"{problem}; {cure}")
    try:
        meta = record_file.read_record(file)
    except DamagedStoreError as error:
        old = None
        with contextlib.suppress(ValueError):
            old = json.loads(file.read_bytes())
        if isinstance(old, dict) and "checksum" not in old:  # as the first formats
            _check_format(root, old)
        message = f"{file} does not fit its checksum; restore it from a copy of the store"
        raise DamagedStoreError(message) from error
    _check_format(root, meta)
    return meta["array_format"], meta["numerics"]


def without_store_file(root: Path) -> str:
    """Return a sentence for a store that lost its store.json."""
    return (
        f"{root} holds the files of a store, but its {layout.STORE_FILE} is missing; take it from "
        "a copy of this store or from any store made with the same options, which has the same file"
    )


def _check_format(root: Path, meta: dict[str, Any]) -> None:
    if meta.get("format") != layout.FORMAT:
        problem = f"{root / layout.STORE_FILE} does not describe a flowcpc store"
        raise ValueError(f"{problem}; give the folder that extract-flow wrote")
    version = meta.get("format_version")
    if version != layout.FORMAT_VERSION:
        raise ValueError(
            f"{root} has format version {version}, but this release reads {layout.FORMAT_VERSION}; "
            "use the release that wrote it, or extract into a new store"
        )


def describe_differences(stored: Numerics, wanted: Numerics) -> list[str]:
    """Return each difference of numerics as a phrase, without those that follow from another."""
    values_of = {name: values for name, *values in layout.differing_values(stored, wanted)}
    if names := values_of.get("encoding.name"):
        rest = {name: v for name, v in values_of.items() if not name.startswith("encoding.")}
        values_of = {"encoding": names, **rest}
    if values_of.keys() & {"height", "width", "short_side"}:
        values_of.pop("flows_per_chunk", None)
    if {"short_side", "height"} <= values_of.keys():  # one store has a size, the other a short side
        for name in ("height", "width", "short_side", "long_side"):
            values_of.pop(name, None)
        values_of["size"] = [_size_option(stored), _size_option(wanted)]
    return [_phrase(name, *values) for name, values in values_of.items()]


def _size_option(numerics: Numerics) -> str:
    side = numerics.get("short_side")
    return f"--short-side {side}" if side else f"--size {numerics['height']}x{numerics['width']}"


def _phrase(name: str, stored: Any, wanted: Any) -> str:
    if name == "frames" and stored is None:
        return "it holds flow without frames, and --with-frames asks for them"
    if name == "frames" and wanted is None:
        return "it holds frames too, and --with-frames is not given"
    return f"{name} is {stored!r} in the store and {wanted!r} here"
