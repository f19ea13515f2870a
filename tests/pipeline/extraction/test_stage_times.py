import os
import time

import numpy as np
import pytest

from flowcpc.pipeline.decoding.memory import data_bytes, forget_peak, peak_bytes
from flowcpc.pipeline.extraction.stage_times import Stages
from flowcpc.stores.layout import STAGES


def test_each_second_is_counted_once_and_under_its_stage() -> None:
    stages = Stages()

    def slowly() -> "list[int]":
        for n in range(3):
            time.sleep(0.02)
            yield n

    taken = []
    began = time.perf_counter()
    for item in stages.waiting("decode", slowly()):
        taken.append(item)
        with stages.timed("flow"):
            time.sleep(0.01)
    elapsed = time.perf_counter() - began
    assert taken == [0, 1, 2]
    assert stages.seconds["decode"] >= 0.06
    assert stages.seconds["flow"] >= 0.03
    assert sum(stages.seconds.values()) <= elapsed


def test_what_an_error_interrupts_is_counted_too() -> None:
    stages = Stages()

    def fail() -> None:
        with stages.timed("write"):
            time.sleep(0.01)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert stages.seconds["write"] >= 0.01


def test_the_columns_are_those_that_the_status_reads() -> None:
    columns = Stages().columns(50, 2.0, 7)
    assert {f"{stage}_seconds" for stage in STAGES} <= columns.keys()
    assert (columns["pairs_per_second"], columns["decoder_peak_bytes"], columns["pid"]) == (
        25.0,
        7,
        os.getpid(),
    )


def test_memory_is_this_process_s_own() -> None:
    before = data_bytes()
    forget_peak()
    low = peak_bytes()
    block = np.ones(64 << 20, np.uint8)
    assert data_bytes() - before >= 63 << 20
    assert peak_bytes() - low >= 32 << 20
    del block
    assert peak_bytes() - low >= 32 << 20, "a peak stays"
