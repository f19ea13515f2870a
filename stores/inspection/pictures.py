"""Flow as pictures in the Middlebury colour wheel, and contact sheets of stored videos as PNG.

Direction is hue, speed is saturation. Source of the wheel: Baker, Scharstein, Lewis, Roth, Black,
Szeliski, "A Database and Evaluation Methodology for Optical Flow", IJCV 2011, and its published
colour coding.
"""

import functools
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.flow_store import FlowStore

Pixels = NDArray[np.uint8]
Flow = NDArray[np.float32]

# Red, yellow, green, cyan, blue, magenta, red, and the steps from each to the next: the eye tells
# yellows apart better than greens.
_CORNERS = (0xFF0000, 0xFFFF00, 0x00FF00, 0x00FFFF, 0x0000FF, 0xFF00FF, 0xFF0000)
_STEPS = (15, 6, 4, 11, 13, 6)
_TOO_FAST = 0.75  # brightness of flow that is faster than the scale

_TILE_WIDTH = 128
_TITLE_WIDTH = 4 * _TILE_WIDTH  # that a title may have even if a row of flow is narrower
_GAP, _MARGIN, _WHEEL = 6, 14, 96  # px
_INK, _FAINT, _OUTLINE, _PAPER = (25, 25, 25), (120, 120, 120), (205, 205, 205), (255, 255, 255)


def colour_wheel() -> NDArray[np.float64]:
    """Return the hues, float64 (55, 3), RGB in 0..1.

    Entry 0 is red, for flow to the right; yellow, for flow downwards, follows.

    >>> colour_wheel()[[0, 15, 21, 25, 36, 49]].astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1]]
    """
    corners = np.array([list(colour.to_bytes(3)) for colour in _CORNERS])
    hues = []
    for (start, stop), steps in zip(itertools.pairwise(corners), _STEPS, strict=True):
        change = 255 * np.arange(steps)[:, None] // steps  # whole levels, as published
        hues.append(start + np.sign(stop - start) * change)
    return np.concatenate(hues) / 255


def flow_to_rgb(flow: ArrayLike, max_magnitude: float | None = None) -> Pixels:
    """Return the colours of flow: white at zero, the full hue of its direction at `max_magnitude`.

    `flow` is float32 (2, H, W) or (N, 2, H, W): components (u, v), px per frame, v downwards.
    `max_magnitude` is the speed of full saturation, px per frame, by default the largest in `flow`;
    faster flow keeps its hue and is darker. The result is RGB, uint8 (H, W, 3) or (N, H, W, 3).
    Raises ValueError for flow of another shape or that is not finite, and a speed not above 0.
    """
    flow = np.asarray(flow, dtype=np.float64)
    if flow.ndim not in (3, 4) or flow.shape[-3] != 2:
        raise ValueError(f"flow must have shape (2, H, W) or (N, 2, H, W), got shape {flow.shape}")
    if not np.isfinite(flow).all():
        raise ValueError(f"flow of shape {flow.shape} has values that are not finite; mask them")
    u, v = flow[..., 0, :, :], flow[..., 1, :, :]
    speed = np.hypot(u, v)
    if max_magnitude is None:
        max_magnitude = float(speed.max(initial=0.0)) or 1.0
    if not 0 < max_magnitude < np.inf:
        raise ValueError(f"max_magnitude is {max_magnitude}, but must be above 0 px per frame")
    hues = colour_wheel()
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(hues) - 1)
    lower = np.floor(position).astype(np.intp)
    share = (position - lower)[..., None]
    hue = (1 - share) * hues[lower] + share * hues[(lower + 1) % len(hues)]
    saturation = (speed / max_magnitude)[..., None]
    colour = np.where(saturation <= 1, 1 - saturation * (1 - hue), _TOO_FAST * hue)
    return np.floor(255 * colour).astype(np.uint8)


def wheel(size: int) -> Pixels:
    """Return a legend, uint8 (size, size, 3): each point of a disc has the colour of flow to there.

    Flow starts at the centre; outside of the disc the legend is white. `size` is at least 3.
    """
    middle = (size - 1) / 2
    y, x = np.mgrid[:size, :size] - middle
    colours = flow_to_rgb(np.stack([x, y]), middle)
    colours[np.hypot(x, y) > middle] = _PAPER
    return colours


def one_of_each_class(store: FlowStore) -> list[str]:
    """Return the first video of every class, sorted by class; the first video if none has one."""
    videos = store.videos()
    first = videos.dropna(subset="label").drop_duplicates("label").sort_values("label")
    return list(map(str, (first if len(first) else videos.head(1))["video_id"]))


def contact_sheet(store: FlowStore, video_ids: Sequence[str], *, columns: int = 8) -> Pixels:
    """Return a picture of stored flow, uint8 (height, width, 3): a legend and a row per video.

    A row has at most `columns` flows, evenly spaced from the first to the last of its video. On the
    whole sheet, 99 % of the drawn flow is slower than that of full colour. Raises ValueError if no
    video is named, and UnknownVideoError, with the nearest name, for one that is not in the store.
    """
    if not video_ids:
        raise ValueError(f"no video is named; name at least one that is in {store.path}")
    frames: list[list[int]] = []
    flows: list[list[Flow]] = []
    for video_id in video_ids:
        count = store.open_video(video_id).shape[0]
        places = np.linspace(0, count - 1, min(columns, count))
        frames.append(np.rint(places).astype(int).tolist())
        flows.append([store.read_flow(video_id, n, n + 1)[0] for n in frames[-1]])
    max_magnitude = fitting_scale(list(itertools.chain.from_iterable(flows)))
    labels = store.videos().set_index("video_id")["label"]
    pictures = [_header(f"full colour: {max_magnitude:.3g} px per frame; darker: faster")]
    for video_id, row, row_flows in zip(video_ids, frames, flows, strict=True):
        tiles = [_tile(flow_to_rgb(flow, max_magnitude)) for flow in row_flows]
        label = labels[video_id]
        is_news = isinstance(label, str) and label not in video_id
        pictures.append(_row(f"{video_id}   {label}" if is_news else video_id, row, tiles))
    width = max(picture.width for picture in pictures) + 2 * _MARGIN
    height = sum(picture.height for picture in pictures) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = _MARGIN
    for picture in pictures:
        sheet.paste(picture, (_MARGIN, top))
        top += picture.height
    return np.array(sheet)


def fitting_scale(flows: Sequence[Flow]) -> float:
    """Return the speed in px per frame that 99 % of some flows, each float32 (2, H, W), stay below.

    It is 1 where nothing moves.
    """
    speeds = np.concatenate([np.hypot(*flow).ravel() for flow in flows])
    return float(np.percentile(speeds, 99)) or 1.0


def write_png(path: str | os.PathLike[str], rgb: Pixels) -> None:
    """Write `rgb`, uint8 (H, W, 3), as a PNG file, atomically."""
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "PNG")
    replace_file(Path(path), data.getvalue())


def _tile(rgb: Pixels) -> Image.Image:
    """Return a picture about 128 px wide.

    Small flow is enlarged by a whole factor, so that pixels stay square; large flow is averaged.
    """
    height, width = rgb.shape[:2]
    picture = Image.fromarray(rgb)
    if width <= _TILE_WIDTH:
        return ImageOps.scale(picture, round(_TILE_WIDTH / width), Image.Resampling.NEAREST)
    size = _TILE_WIDTH, max(1, round(height * _TILE_WIDTH / width))
    return picture.resize(size, Image.Resampling.BOX)


def _row(title: str, frames: Sequence[int], tiles: Sequence[Image.Image]) -> Image.Image:
    heading, caption = label_font(14), label_font(10)
    width, height = tiles[0].size
    title = fitted(title, heading, max(len(tiles) * (width + _GAP), _TITLE_WIDTH) - _GAP)
    total = max(len(tiles) * (width + _GAP), int(heading.getlength(title)) + _GAP)
    picture = Image.new("RGB", (total, height + 54), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((0, 6), title, _INK, heading)
    for column, (frame, tile) in enumerate(zip(frames, tiles, strict=True)):
        left = column * (width + _GAP)
        picture.paste(tile, (left, 28))
        draw.rectangle((left, 28, left + width - 1, 28 + height - 1), outline=_OUTLINE)
        draw.text((left, 30 + height), f"flow {frame}", _FAINT, caption)
    return picture


def _header(scale: str) -> Image.Image:
    """Return the colour wheel beside its explanation."""
    left, text = _WHEEL + 18, label_font(12)
    picture = Image.new("RGB", (left + int(text.getlength(scale)) + _GAP, _WHEEL + 12), _PAPER)
    picture.paste(Image.fromarray(wheel(_WHEEL)), (0, 0))
    draw = ImageDraw.Draw(picture)
    draw.text((left, 14), "Optical flow", _INK, label_font(16))
    draw.text((left, 42), "hue: direction, as on the wheel", _FAINT, text)
    draw.text((left, 62), scale, _FAINT, text)
    return picture


@functools.cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans at `size` px, which has the letters of most alphabets."""
    import matplotlib  # it has the font file, and takes a moment to load

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(folder / "DejaVuSans.ttf", size)


def fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return `text` as one line that is at most `width` px wide.

    Letters that the font lacks are escaped, and a long text loses its middle.
    """
    box = bytes(font.getmask("\U0010ffff"))  # drawn for any letter that the font lacks
    escaped = {
        letter: ascii(letter)[1:-1]
        for letter in set(text)
        if not letter.isprintable() or bytes(font.getmask(letter)) == box
    }
    text = "".join(escaped.get(letter, letter) for letter in text)
    count, line = len(text), text
    while count and font.getlength(line) > width:
        count -= 1
        line = f"{text[: (count + 1) // 2]}…{text[len(text) - count // 2 :]}"
    return line
