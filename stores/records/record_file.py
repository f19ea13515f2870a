"""Records: what a store says of a video, one JSON file each, checked as the bytes that were written.

Not every change of JSON changes its values, so the checksum is over the text. Long columns stand in a record as packed arrays, which a table of
hundreds of thousands of videos is made from in minutes.
"""

import base64
import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.errors import DamagedStoreError

_BEGIN, _MIDDLE, _END = b'{"checksum": "', b'", "record": ', b"}"
_DIGITS = 64


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write `record` as JSON with a checksum of itself, atomically."""
    body = json.dumps(record, ensure_ascii=False, sort_keys=True).encode()
    replace_file(path, _BEGIN + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _END)


def read_record(path: str | Path) -> dict[str, Any]:
    """Return the record at `path`. Raises FileNotFoundError, or DamagedStoreError when a byte of it is not what was written."""
    with open(path, "rb") as file:
        data = file.read()
    start = len(_BEGIN) + _DIGITS + len(_MIDDLE)
    body = data[start : -len(_END)]
    intact = _BEGIN + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _END == data
    if not intact:
        raise DamagedStoreError(
            f"{path} does not fit its checksum; flowcpc verify names all damage and what mends it"
        )
    record: dict[str, Any] = json.loads(body)
    return record


def record_names(store: Path, kind: str) -> list[str]:
    """Return the records of `kind` ("commits" or "failures") as "<hh>/<key>.json", sorted.

    Strings, because a hundred thousand Path objects take seconds.
    """
    try:
        folders = sorted(os.listdir(store / kind))
    except FileNotFoundError:
        return []
    names = []
    for folder in folders:
        with contextlib.suppress(NotADirectoryError):
            entries = sorted(os.listdir(store / kind / folder))
            names += [f"{folder}/{name}" for name in entries if name.endswith(".json")]
    return names


def pack_array(values: NDArray[Any], dtype: str) -> str:
    """Return `values` as text: bytes of the little-endian `dtype`, deflated, in base64."""
    return base64.b64encode(zlib.compress(values.astype(dtype).tobytes())).decode()


def unpack_array(text: object, dtype: str) -> NDArray[Any]:
    """Return the array that `pack_array` made a text of; read-only."""
    return np.frombuffer(zlib.decompress(base64.b64decode(str(text))), dtype)


def pack_columns(columns: Mapping[str, Any], dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Return equally long columns as one packed text beside their names and dtypes; those without a dtype are left out."""
    arrays = [np.asarray(columns[name]).astype(dtype) for name, dtype in dtypes.items()]
    data = b"".join(array.tobytes() for array in arrays)
    packed = base64.b64encode(zlib.compress(data)).decode()
    return {
        "columns": [list(column) for column in dtypes.items()],
        "rows": len(arrays[0]),
        "packed": packed,
    }


def unpack_columns(value: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the columns that `pack_columns` packed."""
    data = zlib.decompress(base64.b64decode(value["packed"]))
    columns, at = {}, 0
    for name, dtype in value["columns"]:
        columns[name] = np.frombuffer(data, dtype, value["rows"], at)
        at += columns[name].nbytes
    return columns
