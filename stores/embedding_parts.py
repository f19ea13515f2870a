"""Embeddings of one run on disk: Parquet files called parts, and a manifest.

```
<folder>/_manifest.json      EmbeddingManifest: the encoder, the SHA-256 of every part
<folder>/part-<hh>.parquet   the rows of the videos whose id's hash begins with <hh>
```
A row depends on its video and the weights alone, and its position on its key, so a resumed command
leaves the same bytes as one that was never killed. The manifest is written before a part is
replaced and then fits both, the old part and the new one.
"""

import contextlib
import dataclasses
import hashlib
import io
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX, replace_file, sha256_of_file
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.locks import locked
from flowcpc.stores.layout import WHOLE_VIDEO, hash_folder
from flowcpc.stores.records.contract import EmbeddingManifest
from flowcpc.stores.records.record_file import read_record, write_record

FORMAT_VERSION = 1
MANIFEST = "_manifest.json"  # readers of a Parquet folder skip names like this
EMBEDDING = "embedding"
_KEY = [("video_id", "ascending"), ("start", "ascending")]
_FEW_VIDEOS = 4096  # beyond, two hex digits name a part, since a part is written as a whole


def read_manifest(folder: Path) -> EmbeddingManifest:
    """Return the manifest of `folder`. Raises DamagedStoreError if there is none of use."""
    try:
        record = read_record(folder / MANIFEST)
        version = record.pop("format_version", None)
        if version == FORMAT_VERSION:
            return EmbeddingManifest(**record)
        problem = f"{folder} is of another format version, {version}"
    except FileNotFoundError:
        problem = f"{folder} lacks {MANIFEST}"
    except DamagedStoreError:
        problem = f"{folder / MANIFEST} does not fit its checksum"
    raise DamagedStoreError(f"{problem}; run flowcpc embed again")


def read_part(folder: Path, manifest: EmbeddingManifest, part: str) -> pa.Table:
    """Return a part. Raises DamagedStoreError if its bytes are not those that were written.

    It is empty if a command was killed after it announced the part and before it wrote it.
    """
    path, expected = _part_path(folder, part), manifest.parts[part]
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if not manifest.finished and expected["before"] is None:
            return empty_part(manifest.about["size"])
        raise DamagedStoreError(f"{path} does not exist; run flowcpc embed again") from error
    if hashlib.sha256(data).hexdigest() not in (expected["sha256"], expected["before"]):
        raise DamagedStoreError(f"{path} does not fit its checksum; run flowcpc embed again")
    return pq.read_table(pa.BufferReader(data))


def read_parts(
    folder: Path, *, whole_videos: bool | None = None
) -> tuple[EmbeddingManifest, pa.Table]:
    """Return the manifest and the rows by video_id and start.

    `whole_videos` selects those of whole videos or of segments (None: both). Raises as `read_part`.
    """
    manifest = read_manifest(folder)
    tables = [empty_part(manifest.about["size"])]
    for part in sorted(manifest.parts):
        table = read_part(folder, manifest, part)
        if whole_videos is not None:  # first, so that only one part is in memory as a whole
            table = table.filter(pc.equal(pc.equal(table["start"], WHOLE_VIDEO), whole_videos))
        tables.append(table)
    return manifest, pa.concat_tables(tables).sort_by(_KEY)


def empty_part(size: int) -> pa.Table:
    """Return a part without rows, for vectors of `size` numbers; all parts have its schema."""
    fields = {
        "run": pa.string(),
        "video_id": pa.string(),
        "start": pa.int64(),  # first flow; WHOLE_VIDEO for the mean of a video's segments
        "stop": pa.int64(),
        "generation": pa.string(),  # of the flow that it was computed from
        "step": pa.int64(),
        EMBEDDING: pa.list_(pa.field("element", pa.float32()), size),  # as Parquet calls it
    }
    return pa.schema(list(fields.items())).empty_table()


def run_folder(run: str) -> str:
    """Return the name of the folder of a run called `run`, without the hash that follows."""
    return re.sub(r"[^\w.-]", "_", run).lstrip(".-") or "run"


@contextlib.contextmanager
def opened_parts(
    folder: Path, about: Mapping[str, Any], videos: Collection[str]
) -> Iterator["PartsWriter"]:
    """Yield the only writer of a folder of embeddings.

    Embeddings of other weights, and of videos that are not in `videos`, are deleted. Raises
    ValueError while another process writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another process is writing embeddings into {folder}; wait until it ends, then run the "
    with locked(folder, busy=busy + "command again"):
        for leftover in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
        yield PartsWriter(folder, about, videos)


class PartsWriter:
    """Adds embeddings to a folder, a part at a time."""

    def __init__(self, folder: Path, about: Mapping[str, Any], videos: Collection[str]) -> None:
        self._folder = folder
        self.replaced = False  # whether embeddings of other weights were there
        self._manifest = EmbeddingManifest(dict(about), 1 if len(videos) <= _FEW_VIDEOS else 2)
        # video_id -> generation of its flow, for every video that has its embeddings.
        self.generations: dict[str, str] = {}
        # The part that was added to last: it is likely to be the next.
        self._tables: dict[str, pa.Table] = {}
        with contextlib.suppress(DamagedStoreError):
            earlier = read_manifest(folder)
            self.replaced = earlier.about != self._manifest.about
            if not self.replaced:
                self._manifest = earlier
                self._survey(set(videos))
                return
        self._write_manifest()  # first, so that no manifest names the parts that are deleted
        for part in folder.glob("*.parquet"):
            part.unlink()

    def part_of(self, video_id: str) -> str:
        """Return the part that a video belongs to."""
        return hash_folder(video_id)[: self._manifest.digits]

    def add(self, part: str, table: pa.Table) -> None:
        """Store the rows of whole videos of `part`; they replace the videos' earlier rows."""
        stored = self._load(part)
        same_video = pc.is_in(stored["video_id"], table["video_id"].combine_chunks())
        added = table.select(stored.column_names).cast(stored.schema)
        self._replace(part, pa.concat_tables([stored.filter(pc.invert(same_video)), added]))
        self._remember(table)

    def begin(self) -> None:
        """Record that embeddings are missing."""
        if self._manifest.finished or not (self._folder / MANIFEST).exists():
            self._write_manifest(finished=False)

    def finish(self) -> None:
        """Record that the embeddings are complete."""
        sums = self._manifest.parts.items()
        parts = {part: {"sha256": sum["sha256"], "before": None} for part, sum in sums}
        if not self._manifest.finished or parts != self._manifest.parts:
            self._write_manifest(finished=True, parts=parts)

    def _survey(self, videos: set[str]) -> None:
        """Read all parts; delete damaged ones, and videos that are not in `videos`."""
        for part in sorted(self._manifest.parts):
            path = _part_path(self._folder, part)
            try:
                table = read_part(self._folder, self._manifest, part)
                self._manifest.parts[part] = {"sha256": sha256_of_file(path), "before": None}
            except (DamagedStoreError, FileNotFoundError):
                del self._manifest.parts[part]
                self._write_manifest()
                path.unlink(missing_ok=True)
                continue
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
            if part in self._manifest.parts:
                self._tables = {part: read_part(self._folder, self._manifest, part)}
            else:
                self._tables = {part: empty_part(self._manifest.about["size"])}
        return self._tables[part]

    def _replace(self, part: str, table: pa.Table) -> None:
        table, buffer = table.sort_by(_KEY).combine_chunks(), io.BytesIO()
        pq.write_table(table, buffer)
        before = self._manifest.parts.get(part, {}).get("sha256")
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        self._manifest.parts[part] = {"sha256": digest, "before": before}
        self._write_manifest()
        replace_file(_part_path(self._folder, part), buffer.getvalue())
        self._tables = {part: table}

    def _write_manifest(self, **changes: Any) -> None:
        self._manifest = dataclasses.replace(self._manifest, **changes)
        record = {"format_version": FORMAT_VERSION, **vars(self._manifest)}
        write_record(self._folder / MANIFEST, record)


def _part_path(folder: Path, part: str) -> Path:
    return folder / f"part-{part}.parquet"
