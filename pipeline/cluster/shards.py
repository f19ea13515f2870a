"""Division of a data set among jobs that do not communicate."""

import heapq
import re
from collections.abc import Sequence
from pathlib import Path

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction.extract import source_stamp

Shard = tuple[int, int]


def parse_shard(text: str) -> Shard:
    """Return (I, N) of "I/N", counted from 1.

    >>> parse_shard("3/8")
    (3, 8)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--shard {text!r} is not I/N with I from 1 to N; give for example 3/8")
    return int(match[1]), int(match[2])


def videos_of_shard(videos: Sequence[Video], folder: Path, shard: Shard) -> list[Video]:
    """Return the videos of shard (I, N) of `videos`, whose paths are relative to `folder`.

    Every video is in exactly one of N shards. The largest file goes first, to the shard with the
    fewest bytes so far, so that shards have nearly the same size. The contents of the store do not
    matter: every job, and every rerun, divides the same files in the same way.
    """
    shard_number, count = shard
    loads = [(0, number) for number in range(1, count + 1)]
    chosen = []
    sizes = [source_stamp(folder / video.path)["source_bytes"] or 0 for video in videos]
    sized = zip(sizes, videos, strict=True)
    for size, video in sorted(sized, key=lambda pair: (-pair[0], pair[1].video_id)):
        load, number = loads[0]
        heapq.heapreplace(loads, (load + max(1, size), number))
        if number == shard_number:
            chosen.append(video)
    return sorted(chosen, key=lambda video: video.video_id)
