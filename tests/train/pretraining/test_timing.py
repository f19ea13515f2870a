import pytest
import torch

from flowcpc.train.pretraining import timing
from flowcpc.train.pretraining.timing import Timer, bottleneck

CPU = torch.device("cpu")


def test_waiting_and_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def pass_(seconds: float) -> None:
        now[0] += seconds

    timer = Timer(CPU)
    pass_(50)  # before it is started
    timer.start()
    pass_(1)
    timer.work()
    pass_(4)
    timer.wait()
    pass_(2)
    timer.work()
    pass_(3)
    assert timer.stop() == (3, 10)
    pass_(9)  # a checkpoint, for example
    timer.start()
    timer.work()
    pass_(5)
    assert timer.stop() == (0, 5)


def test_what_a_run_is_bound_by() -> None:
    assert bottleneck(0.38, 1, torch.device("cuda"), 2) == (
        "data: the GPU waited 38 % of the time for batches; "
        "raise --workers (now 2), or put the store on a local disk"
    )
    assert bottleneck(0.05, 1, CPU, 0).startswith("compute: the processor waited 5 % of the time")
    assert bottleneck(0, 0, CPU, 0).startswith("compute")


@pytest.mark.gpu
def test_a_gpu_that_has_work_does_not_wait() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device works here")
    device = torch.device("cuda")
    numbers = torch.randn(4096, 4096, device=device)
    timer = Timer(device)
    for late in (False, True):
        torch.cuda.synchronize()
        timer.start()
        for _ in range(20):
            timing.time.sleep(0.005 if late else 0)
            timer.work()
            for _ in range(1 if late else 20):
                numbers @ numbers
            timer.wait()
        timer.work()
        waited, passed = timer.stop()
        assert (waited > 0.5 * passed) == late
