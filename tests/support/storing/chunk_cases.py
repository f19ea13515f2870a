"""Chunks that codecs are tried on."""

import numpy as np
from hypothesis import strategies as st

# Few different bytes, repeated: matches of every length and distance.
repetitive = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 60)), min_size=1, max_size=30
).map(lambda parts: b"".join(part * count for part, count in parts))


def as_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
