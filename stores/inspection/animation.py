"""Stored flow in motion: an animated GIF or WebP in the colour wheel, at the video's own speed."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowcpc.stores.base.atomic import replace_file
from flowcpc.stores.base.errors import UnknownVideoError
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.inspection.pictures import fitted, fitting_scale, flow_to_rgb, label_font
from flowcpc.stores.video.reader import VideoReader

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
MOST_FLOWS = 300
_WIDTH = 256  # of a tile at least, px
_LINE = 15  # of a caption
_CAPTION = 2 * _LINE + 4
_FPS = 25.0  # where a video's own is not known
_SAMPLED = 8


def write_animation(
    path: str | os.PathLike[str],
    store: FlowStore,
    video_ids: Sequence[str],
    *,
    announce: Callable[[str], None] = lambda message: None,
) -> None:
    """Write the flow of some videos, side by side, as an animation that is whole or absent.

    All share one scale of colour, that 99 % of their flow stays below. The speed is the first video's; a shorter one stays on its last flow. At
    most MOST_FLOWS flows are shown, from the first on, and `announce` is told when that leaves some out.

    Raises ValueError for another ending than .gif or .webp, no video, or one that is not in the store.
    """
    file = Path(path)
    if file.suffix.lower() not in FORMATS:
        raise ValueError(
            f"{file} does not end in {' or '.join(FORMATS)}, which are what is written; name it so"
        )
    if not video_ids:
        raise ValueError(f"no video is named; name at least one that is in {store.path}")
    try:
        videos = [store.open_video(video_id) for video_id in video_ids]
    except UnknownVideoError as error:
        raise ValueError(error.args[0]) from error
    longest = max(video.shape[0] for video in videos)
    shown = min(longest, MOST_FLOWS)
    if longest > shown:
        announce(f"showing the first {shown} of {longest} flows")
    sampled = [
        _flow(store, video, int(frame))
        for video in videos
        for frame in np.linspace(0, video.shape[0] - 1, min(video.shape[0], _SAMPLED))
    ]
    fps = store.videos().set_index("video_id")["fps"].get(video_ids[0])
    pictures = _pictures(store, videos, shown, fitting_scale(sampled))
    data = io.BytesIO()
    next(pictures).save(
        data,
        FORMATS[file.suffix.lower()],
        save_all=True,
        append_images=pictures,
        duration=round(1000 / (float(fps) if fps and np.isfinite(fps) else _FPS)),
        loop=0,
    )
    replace_file(file, data.getvalue())


def _flow(store: FlowStore, video: VideoReader, frame: int) -> NDArray[np.float32]:
    return store.encoding.decode(video.read(frame, frame + 1))[0]


def _pictures(
    store: FlowStore, videos: Sequence[VideoReader], shown: int, scale: float
) -> Iterator[Image.Image]:
    factor = max(1, round(_WIDTH / max(video.shape[3] for video in videos)))
    sizes = [(factor * video.shape[3], factor * video.shape[2]) for video in videos]
    font = label_font(11)
    for number in range(shown):
        whole = (sum(width for width, _ in sizes), max(height for _, height in sizes) + _CAPTION)
        picture = Image.new("RGB", whole, (255, 255, 255))
        draw = ImageDraw.Draw(picture)
        left = 0
        for video, size in zip(videos, sizes, strict=True):
            frame = min(number, video.shape[0] - 1)
            tile = Image.fromarray(flow_to_rgb(_flow(store, video, frame), scale))
            picture.paste(tile.resize(size, Image.Resampling.NEAREST), (left, _CAPTION))
            for line, text in enumerate(
                (video.video_id, f"flow {frame}, full colour {scale:.3g} px")
            ):
                draw.text(
                    (left + 2, 2 + line * _LINE),
                    fitted(text, font, size[0] - 4),
                    (25, 25, 25),
                    font,
                )
            left += size[0]
        yield picture
