"""A clip, and the settings of its extraction."""

from pathlib import Path

from builders import write_video
from textures import moving_texture

from flowcpc.pipeline.datasets.listing import Video
from flowcpc.pipeline.extraction.extract import ExtractionSettings

CLIP = Video("clip", "X/clip.avi", "X", "g1", {"fold1": "train"})


def clip_settings(tmp_path: Path) -> ExtractionSettings:
    """Write CLIP, 11 frames of 24x32, and return the settings that put its flow into a store."""
    write_video(tmp_path / "videos" / CLIP.path, moving_texture(11, 24, 32, step=(1, 0.5)))
    return ExtractionSettings(str(tmp_path / "videos"), str(tmp_path / "s.flow"), 24, 32)
