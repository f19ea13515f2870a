"""Stored flow in motion: an animated GIF or WebP in the colour wheel, at the video's own speed."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from stores.atomic import replace_file
from stores.flow_store import FlowStore
from stores.pictures import fitting_scale, flow_to_rgb, label_font

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
MOST_FLOWS = 300
_WIDTH = 256  # of a tile at least, px
_CAPTION = 18
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
        raise ValueError(f"{file} does not end in {' or '.join(FORMATS)}, which are what is written; name it so")
    if not video_ids:
        raise ValueError(f"no video is named; name at least one that is in {store.path}")
    lengths = []
    for video_id in video_ids:
        try:
            lengths.append(store.open_video(video_id).shape[0])
        except KeyError as error:
            raise ValueError(error.args[0]) from error
    shown = min(max(lengths), MOST_FLOWS)
    if max(lengths) > shown:
        announce(f"showing the first {shown} of {max(lengths)} flows")
    sampled = [
        store.read_flow(video_id, int(frame), int(frame) + 1)[0]
        for video_id, length in zip(video_ids, lengths, strict=True)
        for frame in np.linspace(0, length - 1, min(length, _SAMPLED))
    ]
    scale = fitting_scale(sampled)
    fps = store.videos().set_index("video_id")["fps"].get(video_ids[0])
    pictures = _pictures(store, video_ids, lengths, shown, scale)
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


def _pictures(
    store: FlowStore, video_ids: Sequence[str], lengths: Sequence[int], shown: int, scale: float
) -> Iterator[Image.Image]:
    factor = max(1, round(_WIDTH / store.width))
    size = (factor * store.width, factor * store.height)
    font = label_font(11)
    for frame in range(shown):
        picture = Image.new("RGB", (size[0] * len(video_ids), size[1] + _CAPTION), (255, 255, 255))
        draw = ImageDraw.Draw(picture)
        for column, (video_id, length) in enumerate(zip(video_ids, lengths, strict=True)):
            flow = store.read_flow(video_id, min(frame, length - 1), min(frame, length - 1) + 1)[0]
            tile = Image.fromarray(flow_to_rgb(flow, scale)).resize(size, Image.Resampling.NEAREST)
            picture.paste(tile, (column * size[0], _CAPTION))
            caption = f"{video_id}  flow {min(frame, length - 1)}  full colour {scale:.3g} px"
            draw.text((column * size[0] + 2, 2), caption, (25, 25, 25), font)
        yield picture
