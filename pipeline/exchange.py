"""Flow folders of other programs: how denseflow, TSN and MemDPC keep flow in JPEGs, and one flow from and to them.

All clip flow to +-bound and write round((flow + bound) * 255 / (2 * bound)) as 8 bits. They differ in where u and v go, in the number of the first
file and in JPEG's quality:

- denseflow (and MMAction2): VIDEO/flow_x_00000.jpg and flow_y_00000.jpg, gray, quality 95; from 0.
- tsn: the same names from 1.
- memdpc: VIDEO/flow_00001.jpg, one colour JPEG per flow, quality 100; OpenCV's channels (blue, green, red) are (u, v, 128); from 1. Source: the
  repository of Han et al. 2020, process_data/src/extract_ff.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

_NO_FLOW = 128  # the third channel
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


def quantise(flow: NDArray[np.float32], bound: float) -> NDArray[np.uint8]:
    """Return flow (any shape, px) as the field's 8 bits: clipped to +-`bound` px, 255 even steps."""
    return np.rint((np.clip(flow, -bound, bound) + bound) * (255 / (2 * bound))).astype(np.uint8)


def dequantise(values: NDArray[np.uint8], bound: float) -> NDArray[np.float32]:
    """Return px, float32, for 8-bit values; 127 and 128 are the two nearest to zero, and none is zero."""
    return values.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)


def encode_flow(layout: Layout, flow: NDArray[np.float32], bound: float) -> Iterator[tuple[str, bytes]]:
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


def list_flows(layout: Layout, folder: Path) -> list[tuple[Path, ...]]:
    """Return the files of every flow of a video's folder, in order.

    Numbers may begin at 0 or 1 whatever the layout's own is, but must be without a hole and the same for u and v. Raises FolderError naming what
    is missing.
    """
    numbers: dict[str, dict[int, Path]] = {kind: {} for kind in layout.kinds}
    for path in folder.iterdir():
        found = _NUMBER.match(path.name)
        if found and found["kind"].lower() in numbers:
            numbers[found["kind"].lower()][int(found["number"])] = path
    every = sorted(set().union(*numbers.values()))
    if not every:
        raise FolderError(f"has no file named like {layout.file_name(layout.kinds[0], 0)}")
    if every[0] not in (0, 1):
        raise FolderError(f"begins with number {every[0]}; the first flow is 0 or 1")
    for number in range(every[0], every[-1] + 1):
        for kind in layout.kinds:
            if number not in numbers[kind]:
                raise FolderError(f"lacks {layout.file_name(kind, number - layout.first_index)}")
    return [tuple(numbers[kind][number] for kind in layout.kinds) for number in every]


def read_flow(layout: Layout, files: tuple[Path, ...], bound: float) -> NDArray[np.float32]:
    """Return one flow, float32 (2, H, W) px, from its JPEGs. Raises FolderError for a file that is none, or of another size than its pair."""
    flag = cv2.IMREAD_GRAYSCALE if len(files) == 2 else cv2.IMREAD_COLOR
    images = []
    for path in files:
        try:
            data = path.read_bytes() or b"\0"  # OpenCV takes an empty buffer for a mistake in the program
        except OSError as error:
            raise FolderError(f"{path.name} cannot be read ({error.strerror})") from error
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
        if image is None:
            raise FolderError(f"{path.name} is not an image that can be read")
        images.append(np.asarray(image, np.uint8))
    if len(images) == 1:
        images = [images[0][..., 0], images[0][..., 1]]
    if images[0].shape != images[1].shape:
        raise FolderError(f"{files[1].name} is {_size(images[1])} and {files[0].name} is {_size(images[0])}")
    return dequantise(np.stack(images), bound)


def find_folders(layout: Layout, root: Path) -> dict[str, Path]:
    """Return the folders under `root` that hold flow of this layout, by video name: their path relative to `root`, with `/`."""
    found: dict[str, Path] = {}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        entries = sorted(folder.iterdir())
        if folder != root and any(_is_flow(layout, entry.name) for entry in entries):
            found[folder.relative_to(root).as_posix()] = folder
        waiting += [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return found


def _is_flow(layout: Layout, name: str) -> bool:
    match = _NUMBER.match(name)
    return match is not None and match["kind"].lower() in layout.kinds


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def import_numerics(
    layout: Layout, bound: float, size: tuple[int, int], encoding: Mapping[str, object]
) -> dict[str, object]:
    """Return what decides the values of a store of imported flow: it never mixes with computed flow, or with another import."""
    return {
        "height": size[0],
        "width": size[1],
        "imported": {"layout": layout.name, "bound": bound, "values": "8-bit JPEG"},
        "encoding": dict(encoding),
    }
