"""Stored flow in motion: an animated GIF or WebP in the colour wheel, at the video's own speed."""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.inspection.pictures import fitted, fitting_scale, flow_to_rgb, label_font
from flowcpc.stores.video.reader import VideoReader

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
MOST_FLOWS = 300
_WIDTH = 256  # of a tile at least, px
_LINE = 15  # height of a line of a caption
_CAPTION = 2 * _LINE + 4
_FPS = 25.0  # where a video's own is not known
_SAMPLED = 8


def write_animation(
    path: str | os.PathLike[str], store: FlowStore, video_ids: Sequence[str]
) -> list[str]:
    """Write the flow of some videos, side by side, as an animation, atomically.

    All share one scale of colour; 99 % of their flow is slower. The first video sets the speed; a
    shorter one stays on its last flow. At most the first MOST_FLOWS flows are shown; return
    remarks on what that leaves out.

    `path` ends in one of FORMATS. Raises ValueError if no video is named, and UnknownVideoError for
    a video that is not in the store.
    """
    file = Path(path)
    if not video_ids:
        raise ValueError(f"no video is named; name at least one that is in {store.path}")
    videos = [store.open_video(video_id) for video_id in video_ids]
    longest = max(video.shape[0] for video in videos)
    shown = min(longest, MOST_FLOWS)
    sampled = [
        _read_flow(store, video, int(frame))
        for video in videos
        for frame in np.linspace(0, video.shape[0] - 1, min(video.shape[0], _SAMPLED))
    ]
    fps = store.videos().set_index("video_id")["fps"].get(video_ids[0])
    pictures = _pictures(store, videos, shown, fitting_scale(sampled))
    data = io.BytesIO()
    form, rest = FORMATS[file.suffix.lower()], {"save_all": True, "append_images": pictures}
    duration = round(1000 / (float(fps) if fps and np.isfinite(fps) else _FPS))  # ms
    next(pictures).save(data, form, duration=duration, loop=0, **rest)
    replace_file(file, data.getvalue())
    return [f"showing the first {shown} of {longest} flows"] if longest > shown else []


def _read_flow(store: FlowStore, video: VideoReader, frame: int) -> NDArray[np.float32]:
    return store.encoding.decode(video.read(frame, frame + 1))[0]


def _pictures(
    store: FlowStore, videos: Sequence[VideoReader], shown: int, scale: float
) -> Iterator[Image.Image]:
    factor = max(1, round(_WIDTH / max(video.shape[3] for video in videos)))
    widths = [factor * video.shape[3] for video in videos]
    height = factor * max(video.shape[2] for video in videos) + _CAPTION
    font = label_font(11)
    for number in range(shown):
        picture = Image.new("RGB", (sum(widths), height), (255, 255, 255))
        draw = ImageDraw.Draw(picture)
        left = 0
        for video, width in zip(videos, widths, strict=True):
            frame = min(number, video.shape[0] - 1)
            tile = Image.fromarray(flow_to_rgb(_read_flow(store, video, frame), scale))
            tile = ImageOps.scale(tile, factor, Image.Resampling.NEAREST)
            picture.paste(tile, (left, _CAPTION))
            lines = video.video_id, f"flow {frame}, full colour {scale:.3g} px"
            for line, text in enumerate(lines):
                at = left + 2, 2 + line * _LINE
                draw.text(at, fitted(text, font, width - 4), (25, 25, 25), font)
            left += width
        yield picture
