"""Flow folders of other programs: how denseflow, TSN and MemDPC keep flow in JPEGs.

All clip flow to +-bound and write round((flow + bound) * 255 / (2 * bound)) as 8 bits. They differ
in the channels of a file, in the number of the first file and in the quality of the JPEGs:

- denseflow (and MMAction2): VIDEO/flow_x_00000.jpg and flow_y_00000.jpg, gray, quality 95.
- tsn: the same names, but the first number is 1.
- memdpc: VIDEO/flow_00001.jpg, one colour JPEG per flow, quality 100; OpenCV's channels (blue,
  green, red) are (u, v, 128). Source: the repository of Han et al. 2020,
  process_data/src/extract_ff.py.
"""

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from flowcpc.stores.base.atomic import TEMPORARY_SUFFIX

_NO_FLOW = 128  # the third channel
# Largest mean difference of a third channel: JPEG with halved colours makes up to 9, for flow in
# blocks of 4 px; a picture of flow makes tens.
_NO_FLOW_SPREAD = 16.0
_NAMED = 5  # number of missing files in a message
_TORN = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(TEMPORARY_SUFFIX)}")
_NUMBER = re.compile(r"^(?P<kind>flow_x|flow_y|flow)_(?P<number>\d+)\.jpe?g$", re.IGNORECASE)


class FolderError(ValueError):
    """A folder of JPEGs is not a video's flow; the message says which file."""


@dataclass(frozen=True)
class Layout:
    """How one program stores flow.

    `kinds` has an entry per file of a flow: how its name begins -> channels of the JPEG, where 0 is
    u, 1 is v and 2 is constant.
    """

    name: str
    kinds: Mapping[str, tuple[int, ...]]
    first_index: int  # number of the first flow
    quality: int  # of the JPEGs

    def file_name(self, kind: str, flow: int) -> str:
        """Return the name of the file of `kind` for flow `flow`, counted from 0."""
        return f"{kind}_{flow + self.first_index:05d}.jpg"

    @property
    def example(self) -> str:
        """Name of the first file of a video."""
        return self.file_name(next(iter(self.kinds)), 0)


_GRAY = {"flow_x": (0,), "flow_y": (1,)}
LAYOUTS = {
    "denseflow": Layout("denseflow", _GRAY, first_index=0, quality=95),
    "tsn": Layout("tsn", _GRAY, first_index=1, quality=95),
    "memdpc": Layout("memdpc", {"flow": (0, 1, 2)}, first_index=1, quality=100),
}


def check_bound(bound: float) -> None:
    """Raise ValueError for a bound that 8 bits cannot be spread over."""
    if not 0.01 <= bound <= 10_000:
        raise ValueError(f"bound={bound:g} must be from 0.01 to 10000 px; the usual bound is 20")


def is_torn(folder: Path) -> bool:
    """Return whether a killed export left this folder."""
    return _TORN.fullmatch(folder.name) is not None and folder.is_dir()


def quantise(flow: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """Return flow (any shape, px) as 8 bits: clipped to +-`bound` px, in 255 even steps."""
    return np.rint((np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


def dequantise(values: NDArray[np.uint8], bound: float) -> NDArray[np.float32]:
    """Return 8-bit values as px, float32. No value is exactly 0 px; 127 and 128 are nearest."""
    return values.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def encode_flow(
    layout: Layout, flow: NDArray[np.float32], bound: float
) -> Iterator[tuple[str, bytes]]:
    """Yield (kind, JPEG) for one flow, float32 (2, H, W) px."""
    u, v = quantise(flow, bound)
    planes = np.dstack([u, v, np.full_like(u, _NO_FLOW)])
    # Colour at full resolution: u and v are not a picture whose colours the eye would not miss.
    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for kind, channels in layout.kinds.items():
        image = np.ascontiguousarray(planes[..., channels])
        valid, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, layout.quality, *full])
        if not valid:
            raise FolderError(f"OpenCV cannot write a JPEG of {_size(image)} px")
        yield kind, data.tobytes()


def first_index(layout: Layout, folders: Iterable[Path]) -> int:
    """Return the number of the first flow of every video: 0 if any has a file 0, else 1.

    One folder is not enough: a video that lost its flow 0 would look like one that begins at 1, and
    be off by one flow.
    """
    for folder in folders:
        with contextlib.suppress(FolderError):  # reported when this video is imported
            if any(0 in files for files in _files_by_number(layout, folder).values()):
                return 0
    return 1


def list_flows(layout: Layout, folder: Path, first: int) -> list[tuple[Path, ...]]:
    """Return the files of every flow of a video's folder, in order.

    Raises FolderError naming what is missing or there twice: numbers must begin at `first`, without
    gaps, and be the same for u and v.
    """
    by_kind = _files_by_number(layout, folder)
    numbers = sorted(set().union(*by_kind.values()))
    if not numbers:
        raise FolderError(f"has no file named like {layout.example}")
    if numbers[0] != first:
        raise FolderError(f"begins with number {numbers[0]}, but the first flow here is {first}")
    count = numbers[-1] + 1 - first
    # A generator: a single file with a huge number must not make a huge list.
    missing = (
        layout.file_name(kind, number - layout.first_index)
        for number in range(first, first + count)
        for kind in layout.kinds
        if number not in by_kind[kind]
    )
    named = list(itertools.islice(missing, _NAMED))
    if named:
        more = len(layout.kinds) * count - sum(map(len, by_kind.values())) - _NAMED
        raise FolderError(f"lacks {', '.join(named)}" + (f" and {more} more" if more > 0 else ""))
    return [tuple(files[number] for files in by_kind.values()) for number in numbers]


def _files_by_number(layout: Layout, folder: Path) -> dict[str, dict[int, Path]]:
    """Return the files of each kind by number."""
    by_kind: dict[str, dict[int, Path]] = {kind: {} for kind in layout.kinds}
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FolderError(f"cannot be listed ({error.strerror})") from error
    for name in names:
        kind, number = _parse_name(name)
        if kind in by_kind:
            other = by_kind[kind].setdefault(number, folder / name).name
            if other != name:
                raise FolderError(f"has both {other} and {name}; remove one")
    return by_kind


def read_flow(layout: Layout, files: tuple[Path, ...], bound: float) -> NDArray[np.float32]:
    """Return one flow, float32 (2, H, W) px, from its JPEGs.

    Raises FolderError for a file that is not an image of `layout`, or files that differ in size.
    """
    images = [_read_image(path) for path in files]
    planes: dict[int, NDArray[np.uint8]] = {}
    for path, image, channels in zip(files, images, layout.kinds.values(), strict=True):
        _check_image(path.name, image, len(channels))
        size, first = _size(image), _size(images[0])
        if size != first:
            raise FolderError(f"{path.name} is {size} and {files[0].name} is {first}")
        planes |= {channel: image[..., n] for n, channel in enumerate(channels)}
    return dequantise(np.stack([planes[0], planes[1]]), bound)


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FolderError(f"{path.name} cannot be read ({error.strerror})") from error
    # The decoder can invent the missing part of a truncated file, and OpenCV does not always report
    # it. Some disks pad with zeros.
    if data.startswith(b"\xff\xd8") and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise FolderError(f"{path.name} is cut off")
    try:
        image = cv2.imdecode(np.frombuffer(data or b"\0", np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # sizes that no image has
        image = None
    if image is None or image.dtype != np.uint8:
        raise FolderError(f"{path.name} is not an image that can be read")
    return np.atleast_3d(np.asarray(image, np.uint8))


def _check_image(name: str, image: NDArray[np.uint8], channels: int) -> None:
    """Raise FolderError unless an image (H, W, C) holds flow in its first 1 or 3 channels."""
    if channels == 1:
        if (image != image[..., :1]).any():  # some programs write gray as three equal channels
            raise FolderError(f"{name} is a colour image; flow_x and flow_y are gray")
    elif image.shape[2] != channels:
        raise FolderError(f"{name} is not a colour image; u and v are its channels")
    # Pictures of flow in the colour wheel have the same names.
    elif np.abs(image[..., 2].astype(np.float32) - _NO_FLOW).mean() > _NO_FLOW_SPREAD:
        expected = f"its channels must be (u, v, {_NO_FLOW})"
        raise FolderError(f"{name} has red that is not {_NO_FLOW} everywhere; {expected}")


def find_folders(layout: Layout, root: Path) -> tuple[list[str], list[str]]:
    """Return the folders that hold flow of this layout, and other folders without sub-folders.

    Names are relative to `root`, with `/`. Links to folders are followed, each folder once. Raises
    OSError for a folder that cannot be listed.
    """
    with_flow, others, seen = [], [], set()
    for name, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        state = os.stat(name)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folder = Path(name)
        folders[:] = sorted(inner for inner in folders if not is_torn(folder / inner))
        relative = folder.relative_to(root).as_posix()
        if folder != root and any(_parse_name(file)[0] in layout.kinds for file in files):
            with_flow.append(relative)
        elif folder != root and not folders:
            others.append(relative)
    return sorted(with_flow), sorted(others)


def _raise(error: OSError) -> NoReturn:
    raise error


def _parse_name(name: str) -> tuple[str, int]:
    """Return the kind and the number in the name of a file of flow; ("", 0) for another file."""
    match = _NUMBER.match(name)
    return (match["kind"].lower(), int(match["number"])) if match else ("", 0)


def _size(image: NDArray[np.uint8]) -> str:
    return "{}x{}".format(*image.shape)
