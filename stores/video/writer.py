"""Writing one video: a new generation, checked, then the commit record that makes it valid."""

import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import sha256_of_file, sync
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.locks import locked
from flowcpc.stores.codec.blosc import compress, decompress
from flowcpc.stores.codec.checksums import crc32c_of
from flowcpc.stores.encoding import Encoding
from flowcpc.stores.records import catalog, record_file
from flowcpc.stores.records.chunk_map import ChunkMap
from flowcpc.stores.records.contract import CommitRecord, FileSum, SourceRecord
from flowcpc.stores.video.frames import FrameFileWriter

if TYPE_CHECKING:
    from flowcpc.stores.video.hdf5_arrays import Hdf5Writer
    from flowcpc.stores.video.zarr_arrays import ZarrWriter


@dataclasses.dataclass(eq=False)
class VideoWriter:
    """Writes one generation of one video; a context manager that leaves no files without `commit`.

    It buffers at most one chunk. `path` and `frames_path` are its files, `array` writes its chunks.
    """

    store: Path
    video_id: str
    _: dataclasses.KW_ONLY
    array_format: str  # "zarr" or "hdf5"
    digest: str  # of the store's numerics
    encoding: Encoding
    with_frames: bool  # then `append_frames` takes one more than flows
    chunk: tuple[int, int, int, int]  # shape, (flows, 2, H, W)

    def __post_init__(self) -> None:
        self._generation = uuid.uuid4().hex[:12]
        self._pending: list[NDArray[Any]] = []
        self._flows = 0
        self._sizes: list[int] = []
        self._checks: list[int] = []
        self._committed = False
        self._frames: FrameFileWriter | None = None
        self._lock = contextlib.ExitStack()
        name = (self.video_id, self._generation)
        self.path = self.store / layout.generation_path(*name, self.array_format)
        self.frames_path = self.store / layout.frames_path(*name)

    def __enter__(self) -> "VideoWriter":
        # As one of the store's writers, so that nobody deletes what this process writes.
        self._lock.enter_context(locked(self.store / layout.LOCK_FILE, shared=True))
        try:
            self.array = self._make_array()
            if self.with_frames:
                self._frames = FrameFileWriter(self.frames_path, self.chunk[2:])
        except BaseException:
            self._remove()
            self._lock.close()
            raise
        return self

    def append(self, codes: NDArray[Any]) -> None:
        """Add flows, (n, 2, H, W) of the encoding's dtype, n >= 0.

        Raises ValueError for another shape or dtype, OSError (for example a full disk), and
        DamagedStoreError if a chunk changes when it is compressed and decompressed.
        """
        if codes.shape[1:] != self.chunk[1:] or codes.dtype != self.encoding.dtype:
            rule = f"this store takes {self.encoding.dtype} (n, *{self.chunk[1:]})"
            raise ValueError(f"codes of {self.video_id} are {codes.dtype} {codes.shape}; {rule}")
        self._pending.extend(codes)
        while len(self._pending) >= self.chunk[0]:
            self._write(self._pending[: self.chunk[0]])
            del self._pending[: self.chunk[0]]
        # Copies: views would keep the whole block.
        self._pending = [flow.copy() for flow in self._pending]

    def append_frames(self, jpegs: Iterable[bytes]) -> None:
        """Add frames, RGB JPEGs of the flow's size. Raises ValueError for others, and OSError."""
        for jpeg in jpegs:
            if self._frames is None:
                problem = f"{self.store} holds flow without frames"
                raise ValueError(f"{problem}; do not append those of {self.video_id}")
            self._frames.write(jpeg)

    def commit(
        self,
        source: SourceRecord,
        video: Mapping[str, Any],
        *,
        frames: Mapping[str, Any],
        shots: Mapping[str, Any],
        segments: Mapping[str, Any],
    ) -> CommitRecord:
        """Sync and check what was appended, then make it the video's flow. Returns the commit.

        `video` has VideoColumns except size and bytes. The tables are equally long lists by
        column; `frames` has a row per flow.
        Raises DamagedStoreError if the disk returns other bytes than were written, and ValueError
        if there is no flow or the number of frames is not the number of flows plus one.
        """
        if self._pending:
            self._write(self._pending)
            self._pending = []
        if not self._flows:
            raise ValueError(f"{self.path} has no flow; a video needs at least two frames")
        self.array.close()
        chunks, jpegs = self._chunk_map(), self._finish_frames()
        self._read_back(chunks)
        if jpegs is not None:
            self._read_back(jpegs)
        files: dict[str, FileSum] = {}
        for path in self._files():
            name = str(path.relative_to(self.store))
            files[name] = {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
        size = {"flows": self._flows, "height": self.chunk[2], "width": self.chunk[3]}
        size["bytes"] = sum(entry["bytes"] for entry in files.values())
        values = {
            **source,
            "generation": self._generation,
            "numerics": self.digest,
            "files": files,
            "chunks": {**chunks.to_json(), "flows_per_chunk": self.chunk[0]},
            "video": {**video, **size},
            **catalog.pack_tables({"frames": frames, "shots": shots, "segments": segments}),
        }
        record = cast(CommitRecord, values)
        sync(self.path.parent)
        if jpegs is not None:
            record["jpegs"] = jpegs.to_json()
            record["video"]["frame_bytes"] = files[jpegs.files[0]]["bytes"]
            sync(self.frames_path.parent)
        catalog.invalidate(self.store)
        record_file.write_record(layout.commit_path(self.store, self.video_id), record)
        self._committed = True
        layout.failure_path(self.store, self.video_id).unlink(missing_ok=True)
        return record

    def __exit__(self, *_: object) -> None:
        if not self._committed and not self._is_named():
            # On a full disk some files cannot be closed; they are removed all the same.
            with contextlib.suppress(OSError, RuntimeError):
                self.array.abort()
            self._remove()
        self._lock.close()

    def _is_named(self) -> bool:
        """Return whether the commit names this generation: an error may follow its rename."""
        try:
            record = record_file.read_record(layout.commit_path(self.store, self.video_id))
        except FileNotFoundError:
            return False
        except (DamagedStoreError, OSError):
            return True  # nobody knows, so nothing is deleted
        return bool(record["generation"] == self._generation)

    def _make_array(self) -> "ZarrWriter | Hdf5Writer":
        # Loading zarr takes a second, and readers never need it.
        attributes = {**self.encoding.attributes(), "video_id": self.video_id}
        arguments = (self.path, self.chunk, self.encoding, attributes)
        if self.array_format == "zarr":
            from flowcpc.stores.video.zarr_arrays import ZarrWriter

            return ZarrWriter(*arguments)
        from flowcpc.stores.video.hdf5_arrays import Hdf5Writer

        return Hdf5Writer(*arguments)

    def _write(self, codes: Sequence[NDArray[Any]]) -> None:
        """Write a chunk of so many flows; one that is not full ends in zeros."""
        chunk = np.zeros(self.chunk, self.encoding.dtype)
        chunk[: len(codes)] = codes
        frame = compress(chunk)
        if decompress(frame, chunk.nbytes) != chunk.tobytes():
            problem = f"a chunk of {self.video_id} changes when it is compressed and decompressed"
            raise DamagedStoreError(f"{problem}; check this machine's memory and processor")
        check = crc32c_of(frame)
        self.array.write(frame, check, len(codes))
        self._sizes.append(len(frame))
        self._checks.append(check)
        self._flows += len(codes)

    def _chunk_map(self) -> ChunkMap:
        files = tuple(str(path.relative_to(self.store)) for path in self.array.files)
        columns = np.array([self.array.offsets, self._sizes, self._checks], np.int64)
        return ChunkMap(files, self.array.chunks_per_file, *columns)

    def _finish_frames(self) -> ChunkMap | None:
        if self._frames is None:
            return None
        self._frames.close()
        jpegs = self._frames.chunk_map(self.store)
        if not jpegs.holds(self._flows + 1, 1):
            problem = f"{self.video_id} has {len(jpegs.sizes)} frames and {self._flows} flows"
            raise ValueError(f"{problem}; a video has one frame more than flows")
        return jpegs

    def _read_back(self, chunks: ChunkMap) -> None:
        """Raise DamagedStoreError unless every chunk is in its file as it was compressed."""
        for number, name in enumerate(chunks.files):
            part = slice(number * chunks.chunks_per_file, (number + 1) * chunks.chunks_per_file)
            columns = (chunks.offsets[part], chunks.sizes[part], chunks.checks[part])
            with open(self.store / name, "rb") as file:
                for offset, size, check in zip(*columns, strict=True):
                    file.seek(offset)
                    if crc32c_of(file.read(size)) != check:
                        problem = f"{name} reads back other bytes than were written"
                        raise DamagedStoreError(f"{problem}; check the disk")

    def _files(self) -> list[Path]:
        paths = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        flow = [path for path in paths if path.is_file()]
        return flow if self._frames is None else [*flow, self.frames_path]

    def _remove(self) -> None:
        if self._frames is not None:
            self._frames.abort()
            self.frames_path.unlink(missing_ok=True)
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)
