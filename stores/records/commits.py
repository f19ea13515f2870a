"""Commit records, checked: one counts if it is whole, stands under its own name and is of the store's numerics."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.layout import STORE_FILE, record_name
from flowcpc.stores.records.record_file import read_record

Record = dict[str, Any]


def digest_of(array_format: str, numerics: Mapping[str, Any]) -> str:
    """Return 16 hex digits that name what decides the stored values; every commit has those of the store that it was written in."""
    return hashlib.sha256(
        json.dumps([array_format, numerics], sort_keys=True).encode()
    ).hexdigest()[:16]


def store_digest(store: Path) -> str:
    """Return the digest of the store.json that is there now. Raises DamagedStoreError, or FileNotFoundError."""
    meta = read_record(store / STORE_FILE)
    return digest_of(meta["array_format"], meta["numerics"])


def read_commit(store: Path, name: str, digest: str) -> Record:
    """Return the commit called `name` (record_name), of the numerics `digest`. Raises FileNotFoundError, or DamagedStoreError in words."""
    path = store / "commits" / name
    commit = read_record(path)
    fault = find_fault(name, commit, digest)
    if fault:
        raise DamagedStoreError(
            f"{path} cannot be used: {fault}; flowcpc verify names all damage and what mends it"
        )
    return commit


def find_fault(name: str, record: Mapping[str, Any], digest: str | None) -> str:
    """Return why a record that is whole is not the one called `name`, a commit of the numerics `digest` (None: a failure); nothing where it is."""
    video_id = record.get("video_id")
    if video_id is None or record_name(video_id) != name:
        return f"it is the record of {video_id or 'no video'}"
    if record.get("numerics") != digest:
        return f"it is of other numerics than {STORE_FILE} says, as when the files of two stores are mixed"
    return ""
