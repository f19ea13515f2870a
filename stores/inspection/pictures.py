"""Flow as pictures: direction is hue, speed is saturation (the Middlebury colour wheel); contact sheets of stored videos; PNG files.

Source of the wheel: Baker, Scharstein, Lewis, Roth, Black, Szeliski, "A Database and Evaluation Methodology for Optical Flow", IJCV 2011,
and its published colour coding.
"""

import functools
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.errors import UnknownVideoError
from flowcpc.stores.flow_store import FlowStore

Pixels = NDArray[np.uint8]

_RED, _YELLOW, _GREEN = (255, 0, 0), (255, 255, 0), (0, 255, 0)
_CYAN, _BLUE, _MAGENTA = (0, 255, 255), (0, 0, 255), (255, 0, 255)
# From one hue to the next in so many steps; the eye tells yellows apart better than greens.
_ARCS = (
    (_RED, _YELLOW, 15),
    (_YELLOW, _GREEN, 6),
    (_GREEN, _CYAN, 4),
    (_CYAN, _BLUE, 11),
    (_BLUE, _MAGENTA, 13),
    (_MAGENTA, _RED, 6),
)
_BEYOND = 0.75  # brightness of flow that is faster than the scale

_TILE_WIDTH = 128
_TITLE_WIDTH = 4 * _TILE_WIDTH  # that a title may have where a row of flow is narrower
_GAP = 6
_MARGIN = 14
_WHEEL = 96
_INK, _FAINT, _PAPER = (25, 25, 25), (120, 120, 120), (255, 255, 255)


def colour_wheel() -> NDArray[np.float64]:
    """Return the hues, float64 (55, 3), RGB in 0..1: entry 0 is red, for flow to the right; on through yellow, which is downwards.

    >>> colour_wheel()[[0, 15, 21, 25, 36, 49]].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]
    """
    hues = []
    for start, stop, steps in _ARCS:
        change = 255 * np.arange(steps)[:, None] // steps  # whole levels, as published
        hues.append(np.array(start) + np.sign(np.subtract(stop, start)) * change)
    return np.concatenate(hues) / 255


def flow_to_rgb(flow: ArrayLike, max_magnitude: float | None = None) -> Pixels:
    """Return the colours of flow: white where it is zero, the full hue of its direction where it is `max_magnitude` fast.

    Parameters
    ----------
    flow : float32 (2, H, W) or (N, 2, H, W)
        Components (u, v), px per frame, v downwards.
    max_magnitude : float, optional
        Speed in px per frame of full saturation; faster flow keeps its hue, darkened. The largest speed in `flow` unless given.

    Returns
    -------
    uint8 (H, W, 3) or (N, H, W, 3), RGB

    Raises
    ------
    ValueError
        `flow` has another shape or values that are not finite, or `max_magnitude` is not above 0.
    """
    flow = np.asarray(flow, dtype=np.float64)
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2:
        raise ValueError(
            f"flow has shape {flow.shape}, but colours need (2, H, W) or (N, 2, H, W); give u and v"
        )
    if not np.isfinite(flow).all():
        raise ValueError(
            f"flow of shape {flow.shape} has values that are not finite; such flow has no colour, mask it first"
        )
    u, v = flow[..., 0, :, :], flow[..., 1, :, :]
    speed = np.hypot(u, v)
    if max_magnitude is None:
        max_magnitude = float(speed.max(initial=0.0)) or 1.0
    if not (np.isfinite(max_magnitude) and max_magnitude > 0):
        raise ValueError(
            f"max_magnitude is {max_magnitude}, but a scale is above 0 px per frame; leave it out to use the largest speed"
        )
    wheel = colour_wheel()
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(wheel) - 1)
    lower = np.floor(position).astype(np.intp)
    share = (position - lower)[..., None]
    hue = (1 - share) * wheel[lower] + share * wheel[(lower + 1) % len(wheel)]
    saturation = (speed / max_magnitude)[..., None]
    colour = np.where(saturation <= 1, 1 - saturation * (1 - hue), _BEYOND * hue)
    return np.floor(255 * colour).astype(np.uint8)


def wheel(size: int) -> Pixels:
    """Return a legend, uint8 (size, size, 3): the colour at each place is that of flow from the centre to there; white outside the disc."""
    if size < 3:
        raise ValueError(f"size is {size}, but a wheel needs at least 3 px; give a larger size")
    middle = (size - 1) / 2
    y, x = np.mgrid[:size, :size] - middle
    colours = flow_to_rgb(np.stack([x, y]), middle)
    colours[np.hypot(x, y) > middle] = _PAPER
    return colours


def one_of_each_class(store: FlowStore) -> list[str]:
    """Return the first video of every class, in the order of the classes; the first video alone where none has a class."""
    videos = store.videos()
    labelled = videos[videos["label"].notna()]
    chosen = (
        labelled.drop_duplicates("label").sort_values("label") if len(labelled) else videos.head(1)
    )
    return [str(video_id) for video_id in chosen["video_id"]]


def contact_sheet(
    store: FlowStore,
    video_ids: Sequence[str],
    *,
    columns: int = 8,
    max_magnitude: float | None = None,
) -> Pixels:
    """Return a picture of stored flow, uint8 (height, width, 3): a labelled row of evenly spaced flows for each video, and the wheel.

    Parameters
    ----------
    store : FlowStore
    video_ids : sequence of str
        One row each, in this order.
    columns : int
        Flows in a row: the first, the last and those evenly between; a shorter video shows all it has.
    max_magnitude : float, optional
        Speed of full colour on the whole sheet, px per frame. Unless given, the one that 99 % of the drawn flow stays below.

    Raises
    ------
    ValueError
        No video is named, `columns` is below 1, `max_magnitude` is not above 0, or a video is not in the store (the nearest name is given).
    """
    if not video_ids:
        raise ValueError(f"no video is named; name at least one that is in {store.path}")
    if columns < 1:
        raise ValueError(f"columns is {columns}, but a row shows at least 1 flow; give 1 or more")
    shown = [_evenly(_number_of_flows(store, video_id), columns) for video_id in video_ids]
    flows = [
        [store.read_flow(video_id, frame, frame + 1)[0] for frame in frames]
        for video_id, frames in zip(video_ids, shown, strict=True)
    ]
    if max_magnitude is None:
        max_magnitude = fitting_scale(list(itertools.chain.from_iterable(flows)))
    labels = store.videos().set_index("video_id")["label"]
    rows = [
        _row(
            _title(video_id, labels[video_id]),
            frames,
            [_tile(flow_to_rgb(flow, max_magnitude)) for flow in row],
        )
        for video_id, frames, row in zip(video_ids, shown, flows, strict=True)
    ]
    header = _header(f"{max_magnitude:.3g} px per frame", max(row.width for row in rows))
    pictures = [header, *rows]
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    sheet = Image.new("RGB", (size[0] + 2 * _MARGIN, size[1] + 2 * _MARGIN), _PAPER)
    top = _MARGIN
    for picture in pictures:
        sheet.paste(picture, (_MARGIN, top))
        top += picture.height
    return np.asarray(sheet).copy()


def fitting_scale(flows: Sequence[NDArray[np.float32]]) -> float:
    """Return the speed in px per frame that 99 % of some flows, each float32 (2, H, W), stay below; 1 where nothing moves."""
    speeds = [np.hypot(*flow).ravel() for flow in flows]
    return (float(np.percentile(np.concatenate(speeds), 99)) if speeds else 0.0) or 1.0


def write_png(path: str | os.PathLike[str], rgb: Pixels) -> None:
    """Write `rgb`, uint8 (H, W, 3), as a PNG file that is whole or absent.

    Raises ValueError when `path` does not end in .png or `rgb` is not such a picture.
    """
    file = Path(path)
    if file.suffix.lower() != ".png":
        raise ValueError(
            f"{file} does not end in .png, but PNG is what is written; name it {file.with_suffix('.png').name}"
        )
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(
            f"the picture is {rgb.dtype} of shape {rgb.shape}, but a PNG is written from uint8 (H, W, 3); convert it first"
        )
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(data, "PNG")
    replace_file(file, data.getvalue())


def _number_of_flows(store: FlowStore, video_id: str) -> int:
    try:
        return store.open_video(video_id).shape[0]
    except UnknownVideoError as error:
        raise ValueError(error.args[0]) from error


def _evenly(number: int, columns: int) -> list[int]:
    return [int(frame) for frame in np.rint(np.linspace(0, number - 1, min(columns, number)))]


def _title(video_id: str, label: object) -> str:
    return f"{video_id}   {label}" if isinstance(label, str) and label not in video_id else video_id


def _tile(rgb: Pixels) -> Image.Image:
    """Return a tile about 128 px wide: whole multiples of small flow, so that its pixels stay square, and means of large flow."""
    height, width = rgb.shape[:2]
    picture = Image.fromarray(rgb)
    if width <= _TILE_WIDTH:
        factor = max(1, round(_TILE_WIDTH / width))
        return picture.resize((factor * width, factor * height), Image.Resampling.NEAREST)
    return picture.resize(
        (_TILE_WIDTH, max(1, round(height * _TILE_WIDTH / width))), Image.Resampling.BOX
    )


def _row(title: str, frames: Sequence[int], tiles: Sequence[Image.Image]) -> Image.Image:
    heading, caption = label_font(14), label_font(10)
    width, height = tiles[0].size if tiles else (_TILE_WIDTH, 0)
    title = fitted(title, heading, max(len(tiles) * (width + _GAP), _TITLE_WIDTH) - _GAP)
    total = max(len(tiles) * (width + _GAP), int(heading.getlength(title)) + _GAP)
    picture = Image.new("RGB", (total, height + 54), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((0, 6), title, _INK, heading)
    for column, (frame, tile) in enumerate(zip(frames, tiles, strict=True)):
        left = column * (width + _GAP)
        picture.paste(tile, (left, 28))
        draw.rectangle((left, 28, left + width - 1, 28 + height - 1), outline=(205, 205, 205))
        draw.text((left, 30 + height), f"flow {frame}", _FAINT, caption)
    return picture


def _header(scale: str, width: int) -> Image.Image:
    heading, text = label_font(16), label_font(12)
    left = _WHEEL + 18
    lines = (
        ("Optical flow", _INK, heading),
        ("hue: direction, as on the wheel", _FAINT, text),
        (f"full colour: {scale}; darker: faster", _FAINT, text),
    )
    needed = left + int(max(font.getlength(line) for line, _, font in lines)) + _GAP
    picture = Image.new("RGB", (max(width, needed), _WHEEL + 12), _PAPER)
    picture.paste(Image.fromarray(wheel(_WHEEL)), (0, 0))
    draw = ImageDraw.Draw(picture)
    for (line, colour, font), top in zip(lines, (14, 42, 62), strict=True):
        draw.text((left, top), line, colour, font)
    return picture


@functools.cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of captions at `size` px: DejaVu Sans, which has the letters of most alphabets."""
    import matplotlib  # it brings the file, and takes a moment to load

    return ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
    )


def fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return `text` as one line that can be drawn in `width` px: what has no shape in the font is escaped, and a long text loses its middle."""
    box = bytes(font.getmask("\U0010ffff"))  # what is drawn for a letter that the font lacks
    shapeless = {
        letter for letter in text if not letter.isprintable() or bytes(font.getmask(letter)) == box
    }
    text = "".join(ascii(letter)[1:-1] if letter in shapeless else letter for letter in text)
    kept, line = len(text), text
    while kept and font.getlength(line) > width:
        kept -= 1
        line = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return line
