"""A decoding process loads little, finds us, and ends with the process that it serves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import write_video
from checkout import ROOT
from hostile import BLIND, decoder_of, has_ended
from textures import moving_texture

from flowcpc.pipeline.decoding.decoder import borrowed_decoder, end_idle_decoders


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.avi", moving_texture(11, 24, 32, step=(1, 0.5)))


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 frames, which at 512x512 are 157 MB."""
    return write_video(
        tmp_path_factory.mktemp("long") / "long.avi", moving_texture(600, 24, 32, step=(1, 0))
    )


PARENT = """
import pathlib, sys
from flowcpc.pipeline.decoding import decoder
from flowcpc.pipeline.decoding.limits import Watch
from flowcpc.pipeline.decoding.messages import FrameSize, Request
if sys.argv[2]:
    decoder.COMMAND = (sys.executable, "-P", "-c", sys.argv[2])
lent = decoder.Decoder()
print(lent.process.pid, flush=True)
request = Request(pathlib.Path(sys.argv[1]), FrameSize(512, 512), 4, 1, 1 << 30)
lent.open(request, Watch(None, lambda: False))
print("opened", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("hangs", [False, True])
def test_it_does_not_outlive_the_process_that_it_serves(
    long_clip: Path, tmp_path: Path, hangs: bool
) -> None:
    """The parent gets SIGKILL while the decoder has more to send or hangs inside FFmpeg."""
    os.mkfifo(tmp_path / "pipe.avi")
    writer = os.open(
        tmp_path / "pipe.avi", os.O_RDWR
    )  # so that opening ends, and the wait for bytes begins
    path = tmp_path / "pipe.avi" if hangs else long_clip
    command = [sys.executable, "-c", PARENT, str(path), BLIND if hangs else ""]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert decoder_of(path) == child
        if not hangs:
            assert parent.stdout.readline() == "opened\n"
        parent.kill()
    assert has_ended(child)
    os.close(writer)


def test_it_loads_little_and_a_data_set_named_like_us_does_not_hide_us(
    clip: Path, tmp_path: Path
) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text(
        "raise SystemExit('the data set was imported')"
    )
    code = f"""
import pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
from flowcpc.pipeline.decoding import decoder
from flowcpc.pipeline.decoding.limits import Watch
from flowcpc.pipeline.decoding.messages import FrameSize, Request
lent = decoder.Decoder()
request = Request(pathlib.Path("clip.avi"), FrameSize(24, 32), 4, 1, 1 << 30)
source = lent.open(request, Watch(None, lambda: False))
print(sum(map(len, source.blocks())))
maps = open(f"/proc/{{lent.process.pid}}/maps").read().split()
print(*sorted({{name for name in maps if name.endswith(".so")}}))
lent.kill()
"""
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    count, libraries = answer.stdout.splitlines()
    assert count == "11"
    assert "cv2" in libraries
    assert not any(name in libraries for name in ("llvmlite", "pandas", "pyarrow", "torch", "h5py"))


def test_idle_decoders_end_with_the_process(clip: Path) -> None:
    with borrowed_decoder() as lent:
        pid = lent.process.pid
    end_idle_decoders()
    assert has_ended(pid)
