import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from records import ROOT

WORDS = [sys.executable, str(ROOT / "tests" / "bench_gpu_train.py")]

WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("zarr", "numcodecs", "h5py", "hdf5plugin", "dask", "distributed", "duckdb", "cv2", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["bench_gpu_train.py", *sys.argv[1:]]
import bench_gpu_train
bench_gpu_train.main()
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=240,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_why_it_stops() -> None:
    answer = run(*WORDS)
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].startswith("bench_gpu_train finds no CUDA device here")


def test_it_runs_to_its_end_and_trains_where_what_writes_stores_is_absent(tmp_path: Path) -> None:
    """The store travels: made here, read where neither zarr nor h5py can be imported."""
    small = ["--size", "tiny", "--steps", "4", "--rounds", "1", "--workers", "0"]
    assert run(*WORDS, *small, "--make", tmp_path / "store").returncode == 0
    answer = run(
        sys.executable, "-c", WITHOUT, *small, "--out", tmp_path, "--store", tmp_path / "elsewhere"
    )
    assert answer.returncode == 1
    assert "makes no store here" in answer.stderr.splitlines()[-1]
    answer = run(
        sys.executable, "-c", WITHOUT, *small, "--out", tmp_path, "--store", tmp_path / "store"
    )
    assert answer.returncode == 0, answer.stderr
    assert "| plain |" in (tmp_path / "train-gpu.md").read_text()
