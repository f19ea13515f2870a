"""The file that holds the frames of one video."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import some_jpegs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.video import frames as frame_file
from flowcpc.stores.video.frames import FrameFileReader, FrameFileWriter

SIZE = (18, 20)
JPEGS = some_jpegs(9, *SIZE)
PICTURES = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in JPEGS])


@pytest.fixture
def reader(tmp_path: Path) -> FrameFileReader:
    return written(tmp_path)


def written(folder: Path) -> FrameFileReader:
    writer = FrameFileWriter(folder / "frames" / "v.mjpeg", SIZE)
    for jpeg in JPEGS:
        writer.write(jpeg)
    writer.close()
    chunks = writer.chunk_map(folder)
    assert chunks.holds(len(JPEGS), 1)
    return FrameFileReader("v", folder, (len(JPEGS), 3, *SIZE), chunks)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_crop_of_any_frames_is_that_of_the_pictures(
    reader: FrameFileReader, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(
        frame_file,
        "_BYTES_PER_READ",
        data.draw(st.sampled_from([1, 2000, 1 << 20]), "bytes per read"),
    )
    frames = np.array(
        sorted(data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=12), "frames"))
    )
    height, width = data.draw(st.integers(1, 18), "height"), data.draw(st.integers(1, 20), "width")
    top, left = (
        data.draw(st.integers(0, 18 - height), "top"),
        data.draw(st.integers(0, 20 - width), "left"),
    )
    out = np.zeros((len(frames), 3, height, width), np.uint8)
    reader.read_crop(frames, (top, left), (height, width), out)
    expected = PICTURES[frames, top : top + height, left : left + width].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(out, expected)


def test_ranges(reader: FrameFileReader) -> None:
    np.testing.assert_array_equal(reader.read(2, 5), PICTURES[2:5])
    assert reader.read(3, 3).shape == (0, 18, 20, 3)


def as_file(kind: str, picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        as_file("JPEG", PICTURES[0][:, :, 0]),
        as_file("JPEG", PICTURES[0][1:]),
        as_file("PNG", PICTURES[0]),
        b"junk",
        b"",
    ],
    ids=["gray", "another size", "PNG", "junk", "nothing"],
)
def test_anything_but_a_jpeg_of_the_size_is_refused(tmp_path: Path, data: bytes) -> None:
    writer = FrameFileWriter(tmp_path / "v.mjpeg", SIZE)
    with pytest.raises(ValueError, match=r"must be a JPEG, RGB, \d+x\d+ px, got"):
        writer.write(data)
    writer.abort()


def test_every_flip_is_noticed(reader: FrameFileReader, tmp_path: Path) -> None:
    path = tmp_path / "frames" / "v.mjpeg"
    intact = path.read_bytes()
    rng = np.random.default_rng(1)
    for position in rng.integers(0, 8 * len(intact), 60):
        damaged = bytearray(intact)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(DamagedStoreError, match="of v are damaged"):
            reader.read(0, 9)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_file_that_is_not_whole_is_named(
    reader: FrameFileReader, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "frames" / "v.mjpeg"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    words = {"cut": "the file is too short", "gone": "No such file"}[damage]
    with pytest.raises(DamagedStoreError, match=rf"frames \[7, 9\) of v are damaged .*{words}"):
        reader.read(7, 9)


def test_ffmpeg_plays_it(reader: FrameFileReader, tmp_path: Path) -> None:
    """In another process, without the variable that restricts FFmpeg's containers."""
    code = """
import sys, cv2
video = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
shapes = []
while (found := video.read())[0]:
    shapes.append(found[1].shape)
print(shapes == 9 * [(18, 20, 3)])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "frames" / "v.mjpeg")]
    environment = {
        name: value for name, value in os.environ.items() if name != "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    }
    assert (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        == "True\n"
    )
