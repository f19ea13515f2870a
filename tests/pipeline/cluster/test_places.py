"""Options that say where an extraction runs: what they mean, and which do not go together."""

from pathlib import Path

import pytest

from flowcpc.pipeline.cluster.places import (
    ExistingScheduler,
    InProcess,
    LocalGpus,
    LocalProcesses,
    SlurmJobs,
    choose_place,
    gpu_workers,
    parse_adapt,
)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({}, LocalProcesses(8)),
        ({"cluster": "local", "workers": 3}, LocalProcesses(3)),
        ({"workers": 0}, InProcess()),
        ({"shard": "1/2"}, InProcess()),
        ({"shard": "1/2", "workers": 4}, LocalProcesses(4)),
        ({"cluster": "cuda"}, LocalGpus()),
        (
            {"scheduler": "tcp://node-1:8786", "wait": 5.0},
            ExistingScheduler("tcp://node-1:8786", wait_s=5.0),
        ),
        ({"scheduler": "[::1]:8786"}, ExistingScheduler("[::1]:8786")),
        ({"cluster": "slurm", "workers": 6}, SlurmJobs(maximum=6)),
        (
            {
                "cluster": "slurm",
                "adapt": "2:9",
                "queue": "short",
                "cores": 4,
                "directives": ("--gres=gpu:1",),
            },
            SlurmJobs(minimum=2, maximum=9, queue="short", cores=4, directives=("--gres=gpu:1",)),
        ),
    ],
)
def test_options_name_a_place(options: dict[str, object], place: object) -> None:
    assert choose_place(options, cores=8) == place


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheduler": "a:1", "scheduler_file": "f"}, "--scheduler and --scheduler-file"),
        ({"scheduler": "a:1", "cluster": "local"}, "--scheduler .*--cluster local"),
        ({"scheduler": "a:1", "workers": 2}, "--scheduler .*--workers 2"),
        ({"scheduler": "a:1", "shard": "1/2"}, "--shard .*--scheduler"),
        ({"scheduler": ""}, "--scheduler '' .*tcp://HOST:PORT"),
        ({"scheduler": "nowhere"}, "--scheduler 'nowhere' .*tcp://HOST:PORT"),
        ({"cluster": "cuda", "workers": 2}, "--cluster cuda .*--workers 2"),
        ({"cluster": "cuda", "backend": "cpu"}, "--cluster cuda .*--backend cpu"),
        ({"cluster": "slurm", "shard": "1/2"}, "--shard .*--cluster slurm"),
        ({"cluster": "slurm", "workers": 2, "adapt": "1:2"}, "--workers and --adapt"),
        ({"cluster": "slurm", "workers": 0}, "--workers 0 .*--cluster slurm"),
        ({"cluster": "slurm", "adapt": "3:2"}, "--adapt '3:2' is not MIN:MAX"),
        ({"cluster": "local", "workers": 0}, "--workers 0 .*--cluster local"),
        ({"queue": "short"}, "--queue .*--cluster slurm"),
        ({"cluster": "local", "adapt": "1:2"}, "--adapt .*--cluster slurm"),
        ({"wait": 3.0}, "--wait .*--scheduler or --cluster slurm"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_a_sentence(
    options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        choose_place(options, cores=8)


def test_a_scheduler_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a scheduler writes it when it starts"):
        choose_place({"scheduler_file": tmp_path / "s.json"}, cores=8)
    (tmp_path / "s.json").touch()
    assert choose_place({"scheduler_file": tmp_path / "s.json"}, cores=8) == ExistingScheduler(
        file=str(tmp_path / "s.json")
    )


def test_adapt_needs_a_worker_at_some_time() -> None:
    with pytest.raises(ValueError, match="is not MIN:MAX"):
        parse_adapt("0:0")


def test_each_gpu_has_a_process_that_sees_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    workers = gpu_workers(["H100", "H100"], 32)
    assert [options["env"]["CUDA_VISIBLE_DEVICES"] for options in workers.values()] == ["0", "1"]
    assert {(options["nthreads"], options["resources"]["GPU"]) for options in workers.values()} == {
        (16, 1)
    }
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8f")
    assert list(gpu_workers(["H100", "H100"], 1)) == ["gpu-3", "gpu-GPU-8f"]
    with pytest.raises(ValueError, match="needs a GPU, and no CUDA device was found"):
        gpu_workers([], 16)
