"""Flow folders of other programs: how denseflow, TSN and MemDPC keep flow in JPEGs, and one flow from and to them.

All clip flow to +-bound and write round((flow + bound) * 255 / (2 * bound)) as 8 bits. They differ in where u and v go, in the number of the first
file and in JPEG's quality:

- denseflow (and MMAction2): VIDEO/flow_x_00000.jpg and flow_y_00000.jpg, gray, quality 95; from 0.
- tsn: the same names from 1.
- memdpc: VIDEO/flow_00001.jpg, one colour JPEG per flow, quality 100; OpenCV's channels (blue, green, red) are (u, v, 128); from 1. Source: the
  repository of Han et al. 2020, process_data/src/extract_ff.py.
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
_NO_FLOW_SPREAD = 16.0  # on average; JPEG with halved colours makes up to 9 of it for flow in blocks of 4 px, a picture of flow is tens away
_END_OF_JPEG = b"\xff\xd9"
_NAMED = 5  # of the missing files
_MIN_BOUND, _MAX_BOUND = 0.01, 10_000.0  # px
_TORN = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(TEMPORARY_SUFFIX)}")
_NUMBER = re.compile(r"^(?P<kind>flow_x|flow_y|flow)_(?P<number>\d+)\.jpe?g$", re.IGNORECASE)


class FolderError(ValueError):
    """A folder of JPEGs is not a video's flow; the message says which file."""


@dataclass(frozen=True)
class Layout:
    """How one program names its files.

    Attributes
    ----------
    name : str
    kinds : tuple of str
        What the names of one flow's files begin with.
    first_index : int
        Number of the first flow.
    quality : int
        Of the JPEGs.
    """

    name: str
    kinds: tuple[str, ...]
    first_index: int
    quality: int

    def file_name(self, kind: str, flow: int) -> str:
        """Return the name of the file of `kind` for flow `flow`, counted from 0."""
        return f"{kind}_{flow + self.first_index:05d}.jpg"


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("denseflow", ("flow_x", "flow_y"), 0, 95),
        Layout("tsn", ("flow_x", "flow_y"), 1, 95),
        Layout("memdpc", ("flow",), 1, 100),
    )
}


def check_bound(bound: float) -> None:
    """Raise ValueError for a bound that 8 bits cannot be spread over."""
    if not _MIN_BOUND <= bound <= _MAX_BOUND:
        raise ValueError(
            f"bound={bound:g} must be from {_MIN_BOUND:g} to {_MAX_BOUND:g} px, the speed of the fastest flow that is kept; 20 is what the field uses"
        )


def is_torn(folder: Path) -> bool:
    """Return whether a folder is what a killed export left."""
    return _TORN.fullmatch(folder.name) is not None and folder.is_dir()


def quantise(flow: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """Return flow (any shape, px) as the field's 8 bits: clipped to +-`bound` px, 255 even steps."""
    return np.rint((np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


def dequantise(values: NDArray[np.uint8], bound: float) -> NDArray[np.float32]:
    """Return px, float32, for 8-bit values; 127 and 128 are the two nearest to zero, and none is zero."""
    return values.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def encode_flow(
    layout: Layout, flow: NDArray[np.float32], bound: float
) -> Iterator[tuple[str, bytes]]:
    """Yield (kind, JPEG) for one flow, float32 (2, H, W) px."""
    u, v = quantise(flow, bound)
    images = (u, v) if len(layout.kinds) == 2 else (np.dstack([u, v, np.full_like(u, _NO_FLOW)]),)
    # Full resolution for colour: u and v are no picture, whose colours the eye would not miss.
    full = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for kind, image in zip(layout.kinds, images, strict=True):
        good, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, layout.quality, *full])
        if not good:
            raise FolderError(f"OpenCV cannot write a JPEG of {image.shape[0]}x{image.shape[1]}")
        yield kind, data.tobytes()


def first_index(layout: Layout, folders: Iterable[Path]) -> int:
    """Return the number of the first flow in a tree of videos: 0 if any of `folders` has a file of that number, else 1.

    A video alone does not tell: in a tree from 0, one that lost its first flow looks like one from 1, and would be off by one flow.
    """
    for folder in folders:
        with contextlib.suppress(FolderError):  # said when its own turn comes
            if any(0 in found for found in _numbers(layout, folder).values()):
                return 0
    return 1


def list_flows(layout: Layout, folder: Path, first: int) -> list[tuple[Path, ...]]:
    """Return the files of every flow of a video's folder, in order.

    Numbers begin at `first`, are without a hole and the same for u and v. Raises FolderError naming what is missing.
    """
    numbers = _numbers(layout, folder)
    every = sorted(set().union(*numbers.values()))
    if not every:
        raise FolderError(f"has no file named like {layout.file_name(layout.kinds[0], 0)}")
    if every[0] != first:
        raise FolderError(f"begins with number {every[0]}; the first flow of its tree is {first}")
    absent = (
        layout.file_name(kind, number - layout.first_index)
        for number in range(first, every[-1] + 1)
        for kind in layout.kinds
        if number not in numbers[kind]
    )
    more = len(layout.kinds) * (every[-1] + 1 - first) - sum(map(len, numbers.values())) - _NAMED
    named = list(itertools.islice(absent, _NAMED))
    if named:
        raise FolderError(f"lacks {', '.join(named)}" + (f" and {more} more" if more > 0 else ""))
    return [tuple(numbers[kind][number] for kind in layout.kinds) for number in every]


def _numbers(layout: Layout, folder: Path) -> dict[str, dict[int, Path]]:
    """Return the files of each kind by number. Raises FolderError for a folder that cannot be listed, or two files of one number."""
    numbers: dict[str, dict[int, Path]] = {kind: {} for kind in layout.kinds}
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FolderError(f"cannot be listed ({error.strerror})") from error
    for name in names:
        match = _NUMBER.match(name)
        if match is None or match["kind"].lower() not in numbers:
            continue
        of_kind = numbers[match["kind"].lower()]
        twin = of_kind.setdefault(int(match["number"]), folder / name)
        if twin.name != name:
            raise FolderError(f"has both {twin.name} and {name}; remove one")
    return numbers


def read_flow(layout: Layout, files: tuple[Path, ...], bound: float) -> NDArray[np.float32]:
    """Return one flow, float32 (2, H, W) px, from its JPEGs. Raises FolderError for a file that is none, or of another size than its pair."""
    images = [_read_image(path) for path in files]
    if len(layout.kinds) == 1:
        u, v = _split_channels(files[0].name, images[0])
    else:
        u, v = (_only_channel(path.name, image) for path, image in zip(files, images, strict=True))
    if u.shape != v.shape:
        raise FolderError(f"{files[1].name} is {_size(v)} and {files[0].name} is {_size(u)}")
    return dequantise(np.stack([u, v]), bound)


def _read_image(path: Path) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FolderError(f"{path.name} cannot be read ({error.strerror})") from error
    # The decoder can make up what a file that was cut off lacks, and OpenCV does not always say so. Some disks pad with zeros.
    if data.startswith(b"\xff\xd8") and not data.rstrip(b"\0").endswith(_END_OF_JPEG):
        raise FolderError(f"{path.name} is cut off")
    try:
        image = cv2.imdecode(np.frombuffer(data or b"\0", np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # sizes that no image has
        image = None
    if image is None or image.dtype != np.uint8:
        raise FolderError(f"{path.name} is not an image that can be read")
    return np.asarray(image, np.uint8)


def _only_channel(name: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a gray image, uint8 (H, W), which some programs write as three equal channels."""
    if image.ndim == 2:
        return image
    if (image != image[..., :1]).any():
        raise FolderError(f"{name} is a colour image; flow_x and flow_y are gray")
    return image[..., 0]


def _split_channels(
    name: str, image: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return u and v of a colour image. Pictures of flow in the colour wheel have the same names, and would pass for flow."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise FolderError(f"{name} is not a colour image; u and v are its channels")
    if np.abs(image[..., 2].astype(np.float32) - _NO_FLOW).mean() > _NO_FLOW_SPREAD:
        raise FolderError(
            f"{name} has red that is not {_NO_FLOW} all over: a picture of flow, or other channels than (u, v, {_NO_FLOW})"
        )
    return image[..., 0], image[..., 1]


def find_folders(layout: Layout, root: Path) -> tuple[list[str], list[str]]:
    """Return the folders under `root` that hold flow of this layout, and those at the end of a path that do not: relative to `root`, with `/`.

    Links to folders are followed, each folder once. Raises OSError for a folder that cannot be listed.
    """
    found, others = [], []
    seen = set()
    for name, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        state = os.stat(name)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folder = Path(name)
        folders[:] = sorted(inner for inner in folders if not is_torn(folder / inner))
        if folder != root and any(_is_flow(layout, file) for file in files):
            found.append(folder.relative_to(root).as_posix())
        elif folder != root and not folders:
            others.append(folder.relative_to(root).as_posix())
    return sorted(found), sorted(others)


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_flow(layout: Layout, name: str) -> bool:
    match = _NUMBER.match(name)
    return match is not None and match["kind"].lower() in layout.kinds


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def import_numerics(
    layout: Layout, bound: float, size: Mapping[str, int], encoding: Mapping[str, object]
) -> dict[str, object]:
    """Return what decides the values of a store of imported flow: it never mixes with computed flow, or with another import.

    `size` is height and width, or short_side, px.
    """
    return {
        **size,
        "imported": {"layout": layout.name, "bound": bound, "values": "8-bit JPEG"},
        "encoding": dict(encoding),
    }
