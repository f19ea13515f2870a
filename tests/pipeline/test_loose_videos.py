from pathlib import Path

import pytest
from builders import touch

from flowcpc.pipeline.extraction.extract import ExtractionSettings
from flowcpc.pipeline.loose_videos import find_videos, settings_like
from flowcpc.pipeline.tvl1.parameters import TVL1Parameters


def test_files_and_folders_are_named_from_what_they_share(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.avi", "a/deep/y.MP4", "a/notes.txt", "b/z", "c.avi")
    folder, found = find_videos([tmp_path / "a", tmp_path / "b" / "z", tmp_path / "a" / "x.avi"])
    assert folder == tmp_path
    assert [(video.video_id, video.path) for video in found.videos] == [
        ("a/deep/y", "a/deep/y.MP4"),
        ("a/x", "a/x.avi"),
        ("b/z", "b/z"),
    ]
    assert {video.label for video in found.videos} == {None}
    assert found.remarks == ["files without a video extension are left out (1)"]
    folder, found = find_videos([tmp_path / "c.avi"])
    assert (folder, found.videos[0].video_id) == (tmp_path, "c")


def test_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.avi", "a/x.mp4", "b/notes.txt")
    with pytest.raises(ValueError, match=r"x.avi and .*x.mp4 would both be called 'x'"):
        find_videos([tmp_path / "a"])
    with pytest.raises(ValueError, match="holds no video file"):
        find_videos([tmp_path / "b"])
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_videos([tmp_path / "nowhere"])


@pytest.mark.parametrize("size", [{"height": 36, "width": 48}, {"short_side": 40}])
def test_settings_like_numerics_have_these_numerics(size: dict[str, int]) -> None:
    parameters = TVL1Parameters(profile="opencv-cuda", warps=2)
    numerics = ExtractionSettings(
        "v", "s", **size, parameters=parameters, encoding="int16", with_frames="height" in size
    ).numerics()
    found = settings_like(numerics, Path("videos"), Path("store"), "cpu")
    assert found.numerics() == numerics
    assert (found.videos, found.store, found.backend) == ("videos", "store", "cpu")


def test_flow_that_cannot_be_made_is_refused() -> None:
    numerics = ExtractionSettings("v", "s").numerics()
    with pytest.raises(ValueError, match="imported flow"):
        settings_like({"height": 36, "width": 48}, Path("v"), Path("s"), "cpu")
    with pytest.raises(ValueError, match="another release"):
        settings_like(
            {**numerics, "tvl1": {**numerics["tvl1"], "new": 1}}, Path("v"), Path("s"), "cpu"
        )
