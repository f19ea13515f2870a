import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT

MODULE = "benchmarks.training.bench_gpu_train"

WITHOUT = f"""
import runpy, sys
ABSENT = {{"zarr", "numcodecs", "h5py", "hdf5plugin", "dask", "distributed", "duckdb", "cv2",
          "tensorboard"}}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
runpy.run_module({MODULE!r}, run_name="__main__", alter_sys=True)
"""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
        timeout=240,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_names_the_reason() -> None:
    answer = run("-m", MODULE)
    assert answer.returncode == 1
    assert "no CUDA device" in answer.stderr.splitlines()[-1]


@pytest.mark.slow
def test_it_trains_where_the_libraries_that_write_stores_are_absent(tmp_path: Path) -> None:
    """The store travels: made here, read where neither zarr nor h5py can be imported."""
    small = ["--size", "tiny", "--steps", "4", "--rounds", "1", "--workers", "0"]
    answer = run("-m", MODULE, *small, "--make", tmp_path / "store")
    assert answer.returncode == 0, answer.stderr
    elsewhere = ["--out", tmp_path, "--store", tmp_path / "elsewhere"]
    answer = run("-c", WITHOUT, *small, *elsewhere)
    assert answer.returncode == 1
    assert "makes no store here" in answer.stderr.splitlines()[-1]
    answer = run("-c", WITHOUT, *small, "--out", tmp_path, "--store", tmp_path / "store")
    assert answer.returncode == 0, answer.stderr
    assert "| plain |" in (tmp_path / "train-gpu.md").read_text()
