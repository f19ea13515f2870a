"""What a store directory holds: names of files and folders, dimensions, format version.

```
STORE/
  store.json                            format version and numerics
  flow/<hh>/<key>.<generation>/         one zarr v3 group per video with the array `flow` (zarr)
  flow/<hh>/<key>.<generation>.h5       the same as one HDF5 file (hdf5)
  frames/<hh>/<key>.<generation>.mjpeg  the frames that flow was computed from, if stored: JPEGs
  dataset.json                          the videos that the store should hold
  commits/<hh>/<key>.json               the video exists if and only if this file does
  failures/<hh>/<key>.json              why a video failed
  running/*.json                        heartbeat of a run, for `flowcpc status`
  index/*.parquet, index.json           tables, rebuilt from commits and failures at any time
  embeddings/<run>-<hash>/              Parquet files and a manifest (embedding_parts.py)
```
Every path inside is relative, so a store can be moved or copied.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

STAGES = ("decode", "flow", "encode", "write")  # of an extraction; each has a column of seconds
FORMAT = "flowcpc-store"
FORMAT_VERSION = 3
ENCODING_NAMES = ("companded8", "uint8-bound20", "int16", "float16")  # default first
ARRAY_FORMATS = {"zarr": "", "hdf5": ".h5"}  # and their suffix
FRAMES_SUFFIX = ".mjpeg"
GENERATION_FOLDERS = ("flow", "frames")  # with the files of generations
ARRAY_NAME = "flow"
DIMENSIONS = ("frame", "component", "y", "x")
COMPONENTS = ("u", "v")
STORE_FILE = "store.json"
DATASET_FILE = "dataset.json"
LOCK_FILE = ".lock"
RUNS_FOLDER = "running"
INDEX_STAMP = "index.json"
FLOWS_PER_SHARD = 1000
WHOLE_VIDEO = -1  # `start` of the embedding of a whole video

MAX_KEY_BYTES = 180
CUT_MARK = "~"  # in a video_key that was cut; urllib.parse.unquote inverts the others
_ESCAPED = re.compile(r"[/\\%~\x00-\x1f\x7f]|^[.-]")


def video_key(video_id: str) -> str:
    r"""Return the file name for `video_id`, unique and at most 180 bytes of UTF-8.

    `/`, `\\`, control characters, `%`, `~` and a leading `.` or `-` are percent-escaped. A longer
    name is cut and ends in a hash of the whole id.

    >>> video_key("v_Archery_g01_c01"), video_key("Archery/-clip")
    ('v_Archery_g01_c01', 'Archery%2F-clip')
    """
    key = _ESCAPED.sub(lambda match: f"%{ord(match.group()):02X}", video_id)
    encoded = key.encode()
    if len(encoded) <= MAX_KEY_BYTES:
        return key
    digest = hashlib.sha256(video_id.encode()).hexdigest()[:24]
    return encoded[: MAX_KEY_BYTES - 25].decode(errors="ignore") + CUT_MARK + digest


def hash_folder(video_id: str) -> str:
    """Return two hex digits of the hash of `video_id`; they keep folders small."""
    return hashlib.sha256(video_id.encode()).hexdigest()[:2]


def record_name(video_id: str) -> str:
    """Return the name of the records of `video_id` within commits/ and failures/."""
    return f"{hash_folder(video_id)}/{video_key(video_id)}.json"


def id_of_record(name: str) -> str:
    """Return the video_id in a `record_name`; for a cut name, its beginning."""
    return unquote(name.rpartition("/")[2].removesuffix(".json"))


def commit_path(store: Path, video_id: str) -> Path:
    """Return where the commit of `video_id` lives."""
    return store / "commits" / record_name(video_id)


def failure_path(store: Path, video_id: str) -> Path:
    """Return where the failure record of `video_id` lives."""
    return store / "failures" / record_name(video_id)


def generation_path(video_id: str, generation: str, array_format: str) -> Path:
    """Return where a generation of `video_id` lives, relative to the store."""
    suffix = ARRAY_FORMATS[array_format]
    return Path("flow", hash_folder(video_id), f"{video_key(video_id)}.{generation}{suffix}")


def frames_path(video_id: str, generation: str) -> Path:
    """Return where the frames of a generation of `video_id` live, relative to the store."""
    name = f"{video_key(video_id)}.{generation}{FRAMES_SUFFIX}"
    return Path("frames", hash_folder(video_id), name)


def record_and_generation(path: Path) -> tuple[str, str]:
    """Return (record_name of the video, generation) of a path of flow or frames."""
    name = path.name.removesuffix(ARRAY_FORMATS["hdf5"]).removesuffix(FRAMES_SUFFIX)
    key, _, generation = name.rpartition(".")
    return f"{path.parent.name}/{key}.json", generation


def flows_per_chunk(height: int, width: int) -> int:
    """Return how many flows share a chunk: at most 10, a divisor of a shard, about 32 Ki codes.

    A chunk has a fixed cost, but in a chunk of many flows a window decodes more than it needs.
    """
    return max(n for n in (1, 2, 4, 5, 8, 10) if n == 1 or n * 2 * height * width <= 32 * 1024)


def find_store_above(path: Path) -> Path | None:
    """Return the store that `path` is or lies in; None if there is none."""
    for folder in (path.resolve(), *path.resolve().parents):
        file = folder / STORE_FILE
        if file.is_file() and FORMAT.encode() in file.read_bytes():
            return folder
    return None


def is_remains(path: Path) -> bool:
    """Return whether a folder without store.json was a store."""
    folders = [path / kind for kind in ("commits", *GENERATION_FOLDERS)]
    return not (path / STORE_FILE).exists() and any(map(Path.is_dir, folders))


def differing_values(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, value in `one`, value in `other`) per difference of dicts; None: absent.

    >>> list(differing_values({"tvl1": {"tau": 0.25}}, {"tvl1": {"tau": 0.1}}))
    [('tvl1.tau', 0.25, 0.1)]
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            dotted = f"{name}.{key}" if name else key
            yield from differing_values(one.get(key), other.get(key), dotted)
    elif one != other:
        yield name, one, other
