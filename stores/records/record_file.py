"""Record files: JSON with a checksum over the bytes as written, since JSON values can hide changes.

Long columns are packed arrays, so that tables of 100,000s of videos are built in minutes.
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
from flowcpc.stores.records.contract import PackedColumns

_BEGIN, _MIDDLE, _END = b'{"checksum": "', b'", "record": ', b"}"
_BODY = slice(len(_BEGIN) + 64 + len(_MIDDLE), -len(_END))


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record` as JSON with its checksum, atomically."""
    replace_file(path, _sealed(json.dumps(record, ensure_ascii=False, sort_keys=True).encode()))


def read_record(path: str | Path) -> dict[str, Any]:
    """Return the record at `path`. Raises FileNotFoundError, or DamagedStoreError if it changed."""
    with open(path, "rb") as file:
        data = file.read()
    if _sealed(data[_BODY]) != data:
        raise DamagedStoreError(
            f"{path} does not fit its checksum; flowcpc verify lists all damage and its repair"
        )
    record: dict[str, Any] = json.loads(data[_BODY])
    return record


def _sealed(body: bytes) -> bytes:
    return _BEGIN + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _END


def record_names(store: Path, kind: str) -> list[str]:
    """Return the records of `kind` ("commits" or "failures") as "<hh>/<key>.json", sorted."""
    # Strings, because a hundred thousand Path objects take seconds.
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
    return _pack(values.astype(dtype).tobytes())


def unpack_array(text: str, dtype: str) -> NDArray[Any]:
    """Return the array that `pack_array` packed; read-only."""
    return np.frombuffer(_unpack(text), dtype)


def pack_columns(columns: Mapping[str, Any], dtypes: Mapping[str, str]) -> PackedColumns:
    """Return the equally long `columns` that have a dtype as one text, with names and dtypes."""
    arrays = [np.asarray(columns[name]).astype(dtype) for name, dtype in dtypes.items()]
    return {
        "columns": [list(column) for column in dtypes.items()],
        "rows": len(arrays[0]),
        "packed": _pack(b"".join(array.tobytes() for array in arrays)),
    }


def unpack_columns(value: PackedColumns) -> dict[str, NDArray[Any]]:
    """Return the columns that `pack_columns` packed."""
    data = _unpack(value["packed"])
    columns, begin = {}, 0
    for name, dtype in value["columns"]:
        columns[name] = np.frombuffer(data, dtype, value["rows"], begin)
        begin += columns[name].nbytes
    return columns


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
