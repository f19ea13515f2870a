import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from builders import write_video
from textures import moving_texture

from flowcpc.pipeline.decoding.frame_size import FrameSize
from flowcpc.pipeline.decoding.frames import FrameReader, VideoError, to_gray


def decode(
    path: Path, height: int = 24, width: int = 32, block: int = 4
) -> tuple[np.ndarray, FrameReader]:
    reader = FrameReader(path, FrameSize(height, width))
    blocks = list(reader.blocks(block))
    assert all(len(part) == block for part in blocks[:-1])
    return np.concatenate(blocks), reader


def test_every_frame_is_decoded_in_order(tmp_path: Path) -> None:
    frames = moving_texture(10, 24, 32, step=(1, 0))
    found, reader = decode(write_video(tmp_path / "v.avi", frames))
    assert found.shape == (10, 24, 32)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - frames).mean() < 4  # JPEG's loss
    assert (reader.decoded_frames, reader.header_frames, reader.fps) == (10, 10, 25.0)
    assert (reader.source_height, reader.source_width) == (24, 32)
    np.testing.assert_allclose(reader.times, np.arange(10) / 25, atol=1e-6)


def test_blocks_do_not_change_the_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", moving_texture(9, 24, 32, step=(1, 0)))
    np.testing.assert_array_equal(decode(path, block=2)[0], decode(path, block=100)[0])


@pytest.mark.parametrize(
    ("source", "size"), [((24, 32), (16, 22)), ((32, 24), (22, 16)), ((24, 24), (16, 16))]
)
def test_a_shorter_side_keeps_the_shape(
    tmp_path: Path, source: tuple[int, int], size: tuple[int, int]
) -> None:
    path = write_video(tmp_path / "v.avi", moving_texture(5, *source, step=(1, 0)))
    reader = FrameReader(path, FrameSize(short_side=16))
    reader.begin()
    assert (reader.source_height, reader.source_width, reader.height, reader.width) == (
        *source,
        *size,
    )
    found = np.concatenate(list(reader.blocks(2)))
    assert found.shape == (5, *size)
    np.testing.assert_array_equal(
        found, np.concatenate(list(FrameReader(path, FrameSize(*size)).blocks()))
    )


def test_resize_takes_areas_when_it_shrinks() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[:2, :2] = 200
    np.testing.assert_array_equal(to_gray(frame, 2, 2), [[200, 0], [0, 0]])
    assert to_gray(frame, 8, 9).shape == (8, 9)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.avi", b"", "is empty"),
        ("text.avi", b"<html>404</html>", "not a video that can be decoded"),
    ],
)
def test_files_that_are_no_video(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=words):
        decode(tmp_path / name)


def test_absent_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        decode(tmp_path / "nothing.avi")
    (tmp_path / "folder.avi").mkdir()
    with pytest.raises(VideoError, match="is a folder"):
        decode(tmp_path / "folder.avi")


@pytest.mark.parametrize("name", ["list.m3u8", "list.avi"])
def test_a_playlist_cannot_make_ffmpeg_open_another_file(tmp_path: Path, name: str) -> None:
    secret = write_video(tmp_path / "secret.avi", moving_texture(4, 24, 32, step=(0, 0)))
    (tmp_path / name).write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match="unknown or refused container"):
        decode(tmp_path / name)


def test_an_image_pattern_is_no_video(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "img_0001.png"), np.zeros((24, 32), np.uint8))
    (tmp_path / "img_%04d.png").touch()
    with pytest.raises(VideoError):
        decode(tmp_path / "img_%04d.png")


def test_broken_media_decode_as_measured(real_data: Path) -> None:
    with open(real_data / "videos.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["file"].startswith(("bad/", "clips/"))]
    assert len(rows) > 40
    for row in rows:
        path = real_data / row["file"]
        if int(row["decoded_frames"]) == 0:
            with pytest.raises(VideoError):
                decode(path, 16, 16)
            continue
        reader = decode(path, 16, 16)[1]
        assert reader.decoded_frames == int(row["decoded_frames"]), row["file"]
        assert (reader.source_height, reader.source_width) == (
            int(row["height"]),
            int(row["width"]),
        ), row["file"]
        assert np.all(np.diff(reader.times) > 0), row["file"]
