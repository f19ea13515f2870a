import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import fletcher32
from numcodecs.fletcher32 import Fletcher32

from flowcpc.stores.codec import checksums


@given(st.binary(max_size=300))
def test_crc32c_agrees_with_google_crc32c(data: bytes) -> None:
    assert checksums.crc32c_of(data) == google_crc32c.value(data)


@given(st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1))
def test_tables_and_instruction_agree(register: int, value: int) -> None:
    if checksums.crc32c_of_long is None:
        pytest.skip("this processor has no CRC32C instruction")
    after = checksums.long_by_table(np.int64(register), np.int64(value))
    assert after == by_instruction(np.int64(register), np.int64(value))


@checksums.kernel
def by_instruction(register: np.int64, value: np.int64) -> np.int64:
    return checksums.crc32c_of_long(register, value)


def test_any_part_of_an_array() -> None:
    data = np.random.default_rng(0).integers(0, 256, 8000, dtype=np.uint8)
    for start, size in [
        (0, 0),
        (1, 7),
        (3, 400),
        (499, 1),
        (0, 1536),
        (5, 1543),
        (11, 7000),
        (2, 4607),
    ]:
        assert checksums.crc32c(data, start, size) == google_crc32c.value(
            data[start : start + size].tobytes()
        )


@given(st.binary(min_size=1, max_size=2000))
def test_fletcher32_of_numcodecs_is_hdf5_s(data: bytes) -> None:
    assert Fletcher32().encode(data) == data + fletcher32(data).to_bytes(4, "little")
