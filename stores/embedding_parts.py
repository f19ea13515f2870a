"""Embeddings of one run on disk: Parquet files called parts, and a manifest that says what they are.

```
<folder>/_manifest.json      weights, step and settings that made them; the SHA-256 of every part; whether all that was asked for is there
<folder>/part-<hh>.parquet   the rows of the videos whose id's hash begins with <hh>
```
A row of a part depends on its video and on the weights alone, and its place on its key, so whatever was killed and begun again leaves the same
bytes. The manifest is written before a part is replaced and then fits both: the part that was there and the one that comes.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX, replace_file
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.hashing import sha256_of_file
from flowcpc.stores.base.locks import locked
from flowcpc.stores.layout import WHOLE_VIDEO, hash_folder
from flowcpc.stores.records.record_file import read_record, write_record

FORMAT_VERSION = 1
MANIFEST = "_manifest.json"  # Parquet readers of a folder leave such names out
EMBEDDING = "embedding"
_KEY = [("video_id", "ascending"), ("start", "ascending")]
_FEW_VIDEOS = 4096  # up to so many one hex digit names a part, beyond two: a part is what is written at a time


@dataclass(frozen=True)
class Manifest:
    """What a folder of embeddings holds.

    Attributes
    ----------
    about : dict
        Of the encoder: run, config (a hash of its settings), weights (their SHA-256), step, fold, num_flows, size (length of a vector).
    digits : int
        Hex digits in the name of a part.
    finished : bool
        Whether the last command that wrote here came to its end.
    parts : dict
        Name of each part -> sha256 and, while it is replaced, that of the file before.
    """

    about: dict[str, Any]
    digits: int
    finished: bool = False
    parts: dict[str, dict[str, str | None]] = field(default_factory=dict)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of `folder`. Raises DamagedStoreError when there is none that can be used."""
    try:
        record = read_record(folder / MANIFEST)
    except FileNotFoundError as error:
        raise DamagedStoreError(f"{folder} lacks {MANIFEST}; run flowcpc embed again") from error
    except DamagedStoreError as error:
        raise DamagedStoreError(
            f"{folder / MANIFEST} does not fit its checksum; run flowcpc embed again"
        ) from error
    if record.pop("format_version", None) != FORMAT_VERSION:
        raise DamagedStoreError(f"{folder} is of another format version; run flowcpc embed again")
    return Manifest(**record)


def read_part(folder: Path, manifest: Manifest, part: str) -> pa.Table | None:
    """Return a part as it is now, None where a killed command had announced its first file and not written it.

    Raises DamagedStoreError when its bytes are not those that were written.
    """
    path, expected = folder / f"part-{part}.parquet", manifest.parts[part]
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if not manifest.finished and expected["before"] is None:
            return None
        raise DamagedStoreError(f"{path} does not exist; run flowcpc embed again") from error
    if hashlib.sha256(data).hexdigest() not in (expected["sha256"], expected["before"]):
        raise DamagedStoreError(f"{path} does not fit its checksum; run flowcpc embed again")
    return pq.read_table(pa.BufferReader(data))


def read_parts(folder: Path, *, whole_videos: bool | None = None) -> tuple[Manifest, pa.Table]:
    """Return the manifest and the rows, by video_id and start: all of them, or those of whole videos, or those of segments.

    Raises DamagedStoreError when a byte is not what was written.
    """
    manifest = read_manifest(folder)
    tables = [empty_part(manifest.about["size"])]
    for part in sorted(manifest.parts):
        table = read_part(folder, manifest, part)
        if table is not None:
            whole = pc.equal(table["start"], WHOLE_VIDEO)
            chosen = (
                table
                if whole_videos is None
                else table.filter(whole if whole_videos else pc.invert(whole))
            )
            tables.append(chosen)
    return manifest, pa.concat_tables(tables).sort_by(_KEY)


def empty_part(size: int) -> pa.Table:
    """Return a part without rows, of vectors of `size` numbers; its schema is every part's."""
    fields = {
        "run": pa.string(),
        "video_id": pa.string(),
        "start": pa.int64(),  # first flow; WHOLE_VIDEO for the mean of a video's segments
        "stop": pa.int64(),
        "generation": pa.string(),  # of the flow that it was made from
        "step": pa.int64(),
        EMBEDDING: pa.list_(pa.field("element", pa.float32()), size),  # as Parquet calls it
    }
    return pa.schema(list(fields.items())).empty_table()


def run_folder(run: str) -> str:
    """Return what the embeddings of a run called `run` are filed under, without the hash that follows."""
    return re.sub(r"[^\w.-]", "_", run).lstrip(".-") or "run"


@contextlib.contextmanager
def opened_parts(
    folder: Path, about: Mapping[str, Any], videos: Collection[str]
) -> Iterator["PartsWriter"]:
    """Give the writer of a folder of embeddings, alone in it. What other weights left there goes, and so do rows of none of `videos`.

    Raises ValueError while another process writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError:
            raise ValueError(
                f"another process is writing embeddings into {folder}; wait until it ends, then "
                "run the command again"
            ) from None
        for left in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            left.unlink(missing_ok=True)
        yield PartsWriter(folder, about, videos)


class PartsWriter:
    """Adds embeddings to a folder, a part at a time.

    Attributes
    ----------
    generations : dict
        video_id -> generation of its flow, of every video that has its embeddings.
    replaced : bool
        Whether embeddings of other weights were there.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], videos: Collection[str]) -> None:
        self._folder = folder
        self.replaced = False
        self._manifest = Manifest(dict(about), 1 if len(videos) <= _FEW_VIDEOS else 2)
        self.generations: dict[str, str] = {}
        self._tables: dict[
            str, pa.Table
        ] = {}  # of the part that was added to last: it is likely the next
        with contextlib.suppress(DamagedStoreError):
            found = read_manifest(folder)
            self.replaced = found.about != self._manifest.about
            if not self.replaced:
                self._manifest = found
                self._survey(set(videos))
                return
        self._write_manifest()  # before they go: parts that no manifest names are nobody's
        for old in folder.glob("*.parquet"):
            old.unlink()

    def part_of(self, video_id: str) -> str:
        """Return the part that a video belongs to."""
        return hash_folder(video_id)[: self._manifest.digits]

    def add(self, part: str, table: pa.Table) -> None:
        """Put the rows of whole videos, all of `part`, in place of what it has of these videos; they are on disk afterwards."""
        ours = self._load(part)
        stays = ours.filter(
            pc.invert(pc.is_in(ours["video_id"], table["video_id"].combine_chunks()))
        )
        self._replace(
            part, pa.concat_tables([stays, table.select(ours.column_names).cast(ours.schema)])
        )
        self._remember(table)

    def begin(self) -> None:
        """Write down that not all is there that is asked for."""
        if self._manifest.finished or not (self._folder / MANIFEST).exists():
            self._manifest = Manifest(
                self._manifest.about, self._manifest.digits, False, self._manifest.parts
            )
            self._write_manifest()

    def finish(self) -> None:
        """Write down that everything is there that was asked for."""
        settled = {
            part: {"sha256": sums["sha256"], "before": None}
            for part, sums in self._manifest.parts.items()
        }
        finished = Manifest(self._manifest.about, self._manifest.digits, True, settled)
        if finished != self._manifest:
            self._manifest = finished
            self._write_manifest()

    def _survey(self, videos: set[str]) -> None:
        """Find out what is there: damaged parts go, and so do videos that the store does not have."""
        for part in sorted(self._manifest.parts):
            try:
                table = read_part(self._folder, self._manifest, part)
            except DamagedStoreError:
                table = None
            if table is None:
                del self._manifest.parts[part]
                self._write_manifest()
                (self._folder / f"part-{part}.parquet").unlink(missing_ok=True)
                continue
            digest = sha256_of_file(self._folder / f"part-{part}.parquet")
            self._manifest.parts[part] = {"sha256": digest, "before": None}
            known = pc.is_in(table["video_id"], pa.array(sorted(videos), pa.string()))
            if not pc.all(known, min_count=0).as_py():
                table = table.filter(known)
                self._replace(part, table)
            self._remember(table)
        self._tables.clear()

    def _remember(self, table: pa.Table) -> None:
        ids, generations = table["video_id"].to_pylist(), table["generation"].to_pylist()
        self.generations.update(zip(ids, generations, strict=True))

    def _load(self, part: str) -> pa.Table:
        if part not in self._tables:
            there = (
                read_part(self._folder, self._manifest, part)
                if part in self._manifest.parts
                else None
            )
            self._tables = {
                part: empty_part(self._manifest.about["size"]) if there is None else there
            }
        return self._tables[part]

    def _replace(self, part: str, table: pa.Table) -> None:
        table = table.sort_by(_KEY).combine_chunks()
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        before = self._manifest.parts.get(part, {"sha256": None})["sha256"]
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        self._manifest.parts[part] = {"sha256": digest, "before": before}
        self._write_manifest()
        replace_file(self._folder / f"part-{part}.parquet", buffer.getvalue())
        self._tables = {part: table}

    def _write_manifest(self) -> None:
        write_record(
            self._folder / MANIFEST, {"format_version": FORMAT_VERSION, **vars(self._manifest)}
        )
