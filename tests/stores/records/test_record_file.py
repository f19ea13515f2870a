import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.stores.base.errors import DamagedStoreError
from flowcpc.stores.records.record_file import (
    pack_array,
    pack_columns,
    read_record,
    unpack_array,
    unpack_columns,
    write_record,
)

dtypes = st.lists(st.sampled_from(["<f4", "<f8", "<i4", "?", "<u4"]), min_size=1, max_size=6)


@given(dtypes, st.integers(0, 50), st.randoms(use_true_random=False))
def test_columns_come_back(kinds: list[str], rows: int, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    chosen = {f"{'zyxwvu'[n]}{n}": kind for n, kind in enumerate(kinds)}  # names in no order
    columns = {name: (rng.normal(0, 100, rows) ** 2).astype(kind) for name, kind in chosen.items()}
    packed = json.loads(json.dumps(pack_columns({**columns, "other": [1]}, chosen), sort_keys=True))
    found = unpack_columns(packed)
    assert list(found) == list(chosen)
    for name, values in columns.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
        np.testing.assert_array_equal(
            unpack_array(pack_array(values, chosen[name]), chosen[name]), values
        )


def test_every_changed_byte_of_a_record_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_record(path, {"a": 1, "b": "ü", "c": [0.5, None]})
    assert read_record(path) == {"a": 1, "b": "ü", "c": [0.5, None]}
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(DamagedStoreError, match="checksum"):
            read_record(path)
    for cut in (0, 10, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DamagedStoreError, match="checksum"):
            read_record(path)
