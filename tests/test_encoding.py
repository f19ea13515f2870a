import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import nearest_level

from stores.encoding import MISSING_CODE, Encoding

ENCODING = Encoding()
finite = st.floats(-200, 200, width=32)


def test_zero_is_exact() -> None:
    codes = ENCODING.encode(np.zeros((1, 2, 3, 3), np.float32))
    assert (ENCODING.decode(codes) == 0).all()


def test_levels_increase_to_64_px_and_mirror() -> None:
    levels = ENCODING.levels
    assert (np.diff(levels[:255]) > 0).all()
    assert (levels[254], levels[0]) == (64, -64)
    np.testing.assert_array_equal(levels[:255], -levels[254::-1])
    assert np.isnan(levels[MISSING_CODE])


@given(finite)
def test_every_value_takes_the_nearest_level(value: float) -> None:
    decoded = float(ENCODING.decode(ENCODING.encode(np.array([value], np.float32)))[0])
    assert abs(decoded - value) == pytest.approx(abs(nearest_level(value, ENCODING.levels[:255]) - value), abs=1e-5)


@given(finite)
def test_error_is_at_most_half_a_step(value: float) -> None:
    decoded = float(ENCODING.decode(ENCODING.encode(np.array([value], np.float32)))[0])
    if abs(value) <= 8:
        assert abs(decoded - value) <= 0.0625 + 1e-6
    elif abs(value) <= 64:
        assert abs(decoded - value) <= 0.0175 * abs(value)  # steps grow by 3.36 %
    else:
        assert abs(decoded) == 64


@given(finite)
def test_mirrored_flow_has_mirrored_codes(value: float) -> None:
    plus, minus = ENCODING.encode(np.array([value, -value], np.float32))
    assert int(plus) - 127 == 127 - int(minus)


def test_missing_code_is_never_written() -> None:
    values = np.linspace(-1e6, 1e6, 100_001, dtype=np.float32)
    assert ENCODING.encode(values).max() < MISSING_CODE


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        ENCODING.encode(np.array([0, bad], np.float32))


def test_clipped_counts_beyond_the_bound_only() -> None:
    np.testing.assert_array_equal(
        ENCODING.clipped(np.array([64, -64, 64.1, -70], np.float32)), [False, False, True, True]
    )


def test_json_round_trip_and_unknown_encoding() -> None:
    assert Encoding.from_json(ENCODING.to_json()) == ENCODING
    with pytest.raises(ValueError, match="'int16' is unknown"):
        Encoding.from_json({"name": "int16"})


def test_attributes_let_another_program_decode() -> None:
    flow = np.linspace(-64, 64, 1001, dtype=np.float32)
    table = np.array(ENCODING.attributes()["levels_px"], np.float32)
    np.testing.assert_array_equal(table[ENCODING.encode(flow)], ENCODING.decode(ENCODING.encode(flow)))
