"""Commit records, validated: intact, under their own name and of the store's numerics."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.layout import STORE_FILE, record_name
from flowcpc.stores.records.contract import CommitRecord
from flowcpc.stores.records.record_file import read_record


def digest_of(array_format: str, numerics: Mapping[str, Any]) -> str:
    """Return 16 hex digits that name what decides the stored values. Every commit has them."""
    text = json.dumps([array_format, numerics], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def store_digest(store: Path) -> str:
    """Return the digest of store.json as it is now. Raises DamagedStoreError, FileNotFoundError."""
    meta = read_record(store / STORE_FILE)
    return digest_of(meta["array_format"], meta["numerics"])


def read_commit(store: Path, name: str, digest: str) -> CommitRecord:
    """Return the commit called `name` (`record_name`), of the numerics `digest`.

    Raises FileNotFoundError, or DamagedStoreError with the reason.
    """
    path = store / "commits" / name
    commit = read_record(path)
    if fault := find_fault(name, commit, digest):
        cure = "flowcpc verify lists all damage and its repair"
        raise DamagedStoreError(f"{path} cannot be used: {fault}; {cure}")
    return cast(CommitRecord, commit)


def find_fault(name: str, record: Mapping[str, Any], digest: str | None) -> str:
    """Return why an intact record is not a commit called `name` with the numerics `digest`.

    Empty if it is. Give None as `digest` for a failure record.
    """
    video_id = record.get("video_id")
    if video_id is None or record_name(video_id) != name:
        return f"it is the record of {video_id or 'no video'}"
    if record.get("numerics") != digest:
        return f"its numerics differ from {STORE_FILE}, as if files of two stores are mixed"
    return ""
