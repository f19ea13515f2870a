"""store.json: what a store is, and whether that is what somebody asks for."""

import json
from pathlib import Path
from typing import Any

from flowcpc.stores import layout
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.records import record_file

Record = dict[str, Any]


def read_store_file(root: Path) -> Record:
    """Return what store.json of the store at `root` says.

    Raises FileNotFoundError when there is no store and ValueError when it is of another format or format version.
    """
    file = root / layout.STORE_FILE
    if layout.is_remains(root):
        raise FileNotFoundError(without_store_file(root))
    if not file.is_file():
        raise FileNotFoundError(
            f"{root} is not a flowcpc store (it has no {layout.STORE_FILE}); make one with: flowcpc extract-flow VIDEOS {root}"
        )
    try:
        meta = record_file.read_record(file)
    except DamagedStoreError as error:
        _refuse_old_formats(root, file)
        raise DamagedStoreError(
            f"{file} does not fit its checksum; restore it from a copy of the store"
        ) from error
    if meta.get("format") != layout.FORMAT:
        raise ValueError(
            f"{file} does not describe a flowcpc store; give the folder that extract-flow wrote"
        )
    _check_version(root, meta.get("format_version"))
    return meta


def without_store_file(root: Path) -> str:
    """Return a sentence on a store that lost its store.json."""
    return (
        f"{root} holds the files of a store, but its {layout.STORE_FILE} is missing; copy it from a copy of this store, "
        "or from any other that was made with the same options: then it is the same"
    )


def _refuse_old_formats(root: Path, file: Path) -> None:
    """Raise ValueError for what is no store.json of this format at all; its predecessor had no checksum."""
    try:
        meta = json.loads(file.read_bytes())
    except ValueError:
        return
    if isinstance(meta, dict) and "checksum" not in meta:
        if meta.get("format") != layout.FORMAT:
            raise ValueError(
                f"{file} does not describe a flowcpc store; give the folder that extract-flow wrote"
            )
        _check_version(root, meta.get("format_version"))


def _check_version(root: Path, version: object) -> None:
    if version != layout.FORMAT_VERSION:
        raise ValueError(
            f"{root} has format version {version}, this release reads {layout.FORMAT_VERSION}; "
            "use the release that wrote it, or extract into a new store"
        )


def describe_differences(stored: Record, wanted: Record) -> list[str]:
    """Return in words what was chosen differently in numerics that are `wanted` and those of a store, without what only follows from it."""
    found = {name: values for name, *values in layout.differing_values(stored, wanted)}
    if "encoding.name" in found:
        names = found["encoding.name"]
        found = {name: values for name, values in found.items() if not name.startswith("encoding.")}
        found = {"encoding": names, **found}
    if found.keys() & {"height", "width", "short_side"}:
        found.pop("flows_per_chunk", None)
    if (
        "short_side" in found and "height" in found
    ):  # the one store has a size, the other a shorter side
        for name in ("height", "width", "short_side", "long_side"):
            found.pop(name, None)
        found["size"] = [layout.size_option(stored), layout.size_option(wanted)]
    return [_in_words(name, *values) for name, values in found.items()]


def _in_words(name: str, stored: Any, wanted: Any) -> str:
    if name == "frames" and stored is None:
        return "it holds flow without frames, and --with-frames asks for them"
    if name == "frames" and wanted is None:
        return "it holds frames too, and --with-frames is not given"
    return f"{name} is {stored!r} in the store and {wanted!r} here"
