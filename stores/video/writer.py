"""Writing one video: a new generation, checked, and then its commit record, which alone makes it the video's flow."""

import contextlib
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowcpc.stores import layout
from flowcpc.stores.base.atomic import sync_folder
from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.base.hashing import sha256_of_file
from flowcpc.stores.codec.blosc import compress, decompress
from flowcpc.stores.codec.checksums import crc32c_of
from flowcpc.stores.encoding import Encoding
from flowcpc.stores.records import catalog, record_file
from flowcpc.stores.records.chunk_map import ChunkMap
from flowcpc.stores.records.garbage import hold
from flowcpc.stores.video.frames import FrameFileWriter

if TYPE_CHECKING:
    from flowcpc.stores.video.hdf5_arrays import Hdf5Writer
    from flowcpc.stores.video.zarr_arrays import ZarrWriter

Record = dict[str, Any]


class VideoWriter:
    """Writes one generation of one video; a context manager that leaves nothing behind unless `commit` was called.

    Of what is appended less than a chunk is kept waiting, however long the video.

    Parameters
    ----------
    root : Path
        The store.
    video_id : str
    array_format : str
        "zarr" or "hdf5".
    digest : str
        Of the store's numerics, for the commit.
    chunk : (int, int, int, int)
        Shape of a chunk, (flows, 2, H, W).
    encoding : Encoding
    with_frames : bool
        Whether the store holds frames too: then as many as there are flows, and one more, go in by `append_frames`.
    """

    def __init__(
        self,
        root: Path,
        video_id: str,
        *,
        array_format: str,
        digest: str,
        chunk: tuple[int, int, int, int],
        encoding: Encoding,
        with_frames: bool,
    ) -> None:
        self._root = root
        self._video_id = video_id
        self._array_format = array_format
        self._digest = digest
        self._chunk = chunk
        self._encoding = encoding
        self._generation = uuid.uuid4().hex[:12]
        self._pending: list[NDArray[Any]] = []
        self._flows = 0
        self._sizes: list[int] = []
        self._checks: list[int] = []
        self._committed = False
        self._with_frames = with_frames
        self._frames: FrameFileWriter | None = None
        self.path = root / layout.generation_path(video_id, self._generation, array_format)
        self.frames_path = root / layout.frames_path(video_id, self._generation)

    def __enter__(self) -> "VideoWriter":
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(hold(self._root))
        try:
            self._array = self._make_array()
            if self._with_frames:
                self._frames = FrameFileWriter(self.frames_path, self._chunk[2:])
        except BaseException:
            self._remove()
            self._lock.close()
            raise
        return self

    def append(self, codes: NDArray[Any]) -> None:
        """Add flows, (n, 2, H, W) of the encoding's dtype, n >= 0.

        Raises ValueError for another shape or dtype, OSError (for example a full disk), DamagedStoreError when a chunk does not come back.
        """
        if codes.shape[1:] != self._chunk[1:] or codes.dtype != self._encoding.dtype:
            raise ValueError(
                f"codes of {self._video_id} are {codes.dtype} {codes.shape}; this store takes {self._encoding.dtype} (n, *{self._chunk[1:]})"
            )
        size = self._chunk[0]
        self._pending.extend(codes)
        while len(self._pending) >= size:
            self._write(np.stack(self._pending[:size]), size)
            del self._pending[:size]
        self._pending = [
            flow.copy() for flow in self._pending
        ]  # not views, which would keep the whole block

    def append_frames(self, jpegs: Iterable[bytes]) -> None:
        """Add frames, each a JPEG of three colours and the size of the flow.

        Raises ValueError for anything else, or where the store holds no frames; OSError.
        """
        for jpeg in jpegs:
            if self._frames is None:
                raise ValueError(
                    f"{self._root} holds flow without frames; leave those of {self._video_id} out"
                )
            self._frames.write(jpeg)

    def commit(
        self,
        source: Mapping[str, Any],
        video: Mapping[str, Any],
        *,
        frames: Mapping[str, Any],
        shots: Mapping[str, Any],
        segments: Mapping[str, Any],
    ) -> Record:
        """Sync and check what was appended, then make it the video's flow. Returns the commit record.

        `source` has video_id, path, label, group, folds; `video` the columns of the videos table but for size and bytes; the others lists of equal
        length, `frames` with a row per flow.
        Raises DamagedStoreError when the disk gives back other bytes than were written, ValueError when there is no flow, or not one frame more
        in a store that holds frames.
        """
        if self._pending:
            chunk = np.zeros(self._chunk, self._encoding.dtype)
            chunk[: len(self._pending)] = self._pending
            self._write(chunk, len(self._pending))
            self._pending = []
        if not self._flows:
            raise ValueError(
                f"no flow was written to {self.path}; a video needs at least two frames"
            )
        self._array.close()
        jpegs = self._finish_frames()
        long_tables = {"frames": frames, "shots": shots, "segments": segments}
        chunks = self._chunk_map()
        self._check(chunks)
        if jpegs is not None:
            self._check(jpegs)
        files = {str(path.relative_to(self._root)): _file_record(path) for path in self._files()}
        size = {"flows": self._flows, "height": self._chunk[2], "width": self._chunk[3]}
        size["bytes"] = sum(entry["bytes"] for entry in files.values())
        record = {
            **source,
            "generation": self._generation,
            "numerics": self._digest,
            "files": files,
            "chunks": {**chunks.to_json(), "flows_per_chunk": self._chunk[0]},
            "video": {**video, **size},
            **{name: catalog.pack_rows(name, rows) for name, rows in long_tables.items()},
        }
        sync_folder(self.path.parent)
        if jpegs is not None:
            record["jpegs"] = jpegs.to_json()
            record["video"]["frame_bytes"] = files[jpegs.files[0]]["bytes"]
            sync_folder(self.frames_path.parent)
        catalog.invalidate(self._root)
        record_file.write_record(layout.commit_path(self._root, self._video_id), record)
        self._committed = True
        layout.failure_path(self._root, self._video_id).unlink(missing_ok=True)
        return record

    def __exit__(self, *_: object) -> None:
        if not self._committed and not self._is_named():
            with contextlib.suppress(
                OSError, RuntimeError
            ):  # what cannot be closed, as on a full disk, is removed all the same
                self._array.abort()
            self._remove()
        self._lock.close()

    def _is_named(self) -> bool:
        """Whether the record in place names this generation: an error may come after the rename that put it there."""
        try:
            record = record_file.read_record(layout.commit_path(self._root, self._video_id))
        except FileNotFoundError:
            return False
        except (DamagedStoreError, OSError):
            return True  # nobody knows, so nothing is deleted
        return bool(record["generation"] == self._generation)

    def _make_array(self) -> "ZarrWriter | Hdf5Writer":
        # Loading zarr takes a second, and readers never need it.
        if self._array_format == "zarr":
            from flowcpc.stores.video.zarr_arrays import ZarrWriter as Writer
        else:
            from flowcpc.stores.video.hdf5_arrays import Hdf5Writer as Writer  # type: ignore[assignment]
        attributes = {**self._encoding.attributes(), "video_id": self._video_id}
        return Writer(self.path, self._chunk, self._encoding, attributes)

    def _write(self, chunk: NDArray[Any], flows: int) -> None:
        frame = compress(chunk)
        if decompress(frame, chunk.nbytes) != chunk.tobytes():
            raise DamagedStoreError(
                f"a chunk of {self._video_id} does not come back from its compression; check this machine"
            )
        check = crc32c_of(frame)
        self._array.write(frame, check, flows)
        self._sizes.append(len(frame))
        self._checks.append(check)
        self._flows += flows

    def _chunk_map(self) -> ChunkMap:
        files = tuple(str(path.relative_to(self._root)) for path in self._array.files)
        lists = (self._array.offsets, self._sizes, self._checks)
        return ChunkMap(
            files, self._array.chunks_per_file, *(np.array(values, np.int64) for values in lists)
        )

    def _finish_frames(self) -> ChunkMap | None:
        """Finish the frames' file and return where each of them lies; None where the store holds no frames."""
        if self._frames is None:
            return None
        self._frames.close()
        places = self._frames.chunk_map(self._root)
        if not places.holds(self._flows + 1, 1):
            raise ValueError(
                f"{len(places.sizes)} frames of {self._video_id} were written beside {self._flows} flows; a video has one frame more"
            )
        return places

    def _check(self, chunks: ChunkMap) -> None:
        """Raise DamagedStoreError unless every chunk is in its file as it was compressed."""
        for number, name in enumerate(chunks.files):
            part = slice(number * chunks.chunks_per_file, (number + 1) * chunks.chunks_per_file)
            with open(self._root / name, "rb") as file:
                for offset, size, check in zip(
                    chunks.offsets[part], chunks.sizes[part], chunks.checks[part], strict=True
                ):
                    file.seek(offset)
                    if crc32c_of(file.read(size)) != check:
                        raise DamagedStoreError(
                            f"{name} reads back other bytes than were written; check the disk"
                        )

    def _files(self) -> list[Path]:
        flow = (
            [self.path]
            if self.path.is_file()
            else sorted(path for path in self.path.rglob("*") if path.is_file())
        )
        return flow if self._frames is None else [*flow, self.frames_path]

    def _remove(self) -> None:
        if self._frames is not None:
            self._frames.abort()
            self.frames_path.unlink(missing_ok=True)
        if self.path.is_dir():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def _file_record(path: Path) -> Record:
    return {"sha256": sha256_of_file(path), "bytes": path.stat().st_size}
