"""The contract between the stages: what each record of a store holds, as types.

A TypedDict is a JSON file, or a part of one, as `record_file` writes and reads it.
"""

from dataclasses import dataclass, field
from typing import Any, NotRequired, Required, TypedDict

SILENT_S = 60.0  # without a heartbeat for so long, a run is dead or its machine hangs
# Everything that decides a stored value; the solver has keys of its own. store.json holds it next
# to format, format_version and array_format ("zarr" or "hdf5").
Numerics = dict[str, Any]


class SourceRecord(TypedDict):
    """A video of the data set. Commits and failures hold these fields too."""

    video_id: str
    path: str  # relative to the folder of videos
    label: str | None
    group: str | None
    folds: dict[str, str]  # "fold1" -> "train", "val" or "test"


class SourceStamp(TypedDict, total=False):
    """Size and modification time of a video file; None if the file is absent."""

    source_bytes: int | None
    source_mtime_ns: int | None


class FileSum(TypedDict):
    """Size and hash of one file of a generation."""

    sha256: str
    bytes: int


class PackedColumns(TypedDict):
    """Equally long columns as one text (`record_file.pack_columns`)."""

    columns: list[list[str]]  # name and dtype of each
    rows: int
    packed: str


class PackedChunks(TypedDict):
    """A ChunkMap as text."""

    files: list[str]
    chunks_per_file: int
    gaps: str
    sizes: str
    crc32c: str
    flows_per_chunk: NotRequired[int]


class VideoColumns(SourceStamp, total=False):
    """Columns of the table videos that a commit holds, next to those of SourceRecord.

    Always there: flows, height, width, bytes. Others depend on how the flow was made.
    """

    flows: int
    height: int  # of the stored flow, px
    width: int
    bytes: int
    frame_bytes: int
    fps: float | None
    magnitude: float
    clip_rate: float
    encoding_error: float
    source_sha256: str


class CommitRecord(SourceRecord):
    """commits/<hh>/<key>.json: makes one generation the flow of a video."""

    generation: str
    numerics: str  # digest of the store's numerics
    files: dict[str, FileSum]  # by path relative to the store
    chunks: PackedChunks
    jpegs: NotRequired[PackedChunks]
    video: VideoColumns
    frames: PackedColumns  # a row per flow; columns as in catalog._LONG_TABLES
    shots: PackedColumns
    segments: PackedColumns


class FailureRecord(SourceRecord, SourceStamp, total=False):
    """failures/<hh>/<key>.json: why a video has no flow."""

    kind: Required[str]
    reason: Required[str]
    attempts: Required[int]
    time: float  # seconds since the epoch
    host: str | None
    seconds: float | None


@dataclass(frozen=True)
class WorkerState:
    """A process that extracts."""

    host: str
    pid: int
    videos: tuple[str, ...]  # in flight
    since: float  # when the first of them began, seconds since the epoch
    pairs_per_second: float


@dataclass(frozen=True)
class RunState:
    """The heartbeat of an extraction."""

    host: str
    pid: int
    began: float  # seconds since the epoch
    time: float  # when this was written
    videos: int  # to extract
    settled: int  # of these, stored or failed
    workers: tuple[WorkerState, ...]

    def is_live(self, now: float) -> bool:
        """Return whether the heartbeat is recent."""
        return now - self.time < SILENT_S


@dataclass(frozen=True)
class EmbeddingManifest:
    """_manifest.json: what a folder of embeddings holds."""

    # The encoder: run, config (a hash of its settings), weights (SHA-256), step, fold, num_flows,
    # size (length of a vector).
    about: dict[str, Any]
    digits: int  # hex digits in the name of a part
    finished: bool = False  # whether the last command that wrote here finished
    # Name of each part -> "sha256" and, while it is being replaced, "before" (the old file).
    parts: dict[str, dict[str, str | None]] = field(default_factory=dict)
