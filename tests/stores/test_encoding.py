import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive import nearest_level

from flowcpc.stores.encoding import (
    DEFAULT,
    ENCODINGS,
    Encoding,
    encoding_by_name,
    encoding_from_json,
)

finite = st.floats(-200, 200, width=32)
EACH = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=list(ENCODINGS))
EIGHT_BITS = [encoding for encoding in ENCODINGS.values() if encoding.levels is not None]


def round_trip(encoding: Encoding, *values: float) -> np.ndarray:
    return encoding.decode(encoding.encode(np.array(values, np.float32)))


@pytest.mark.parametrize("name", ["companded8", "int16", "float16"])
def test_zero_is_exact(name: str) -> None:
    assert (round_trip(ENCODINGS[name], 0.0, -0.0) == 0).all()
    assert not np.signbit(round_trip(ENCODINGS[name], 0.0)).any()


def test_the_default_s_levels_increase_to_64_px_and_mirror() -> None:
    levels = DEFAULT.levels
    assert (np.diff(levels[:255]) > 0).all()
    assert (levels[254], levels[127], levels[0]) == (64, 0, -64)
    np.testing.assert_array_equal(levels[:255], -levels[254::-1])
    assert np.isnan(levels[255])


@given(finite)
def test_the_convention_s_codes_are_its_formula_s(value: float) -> None:
    code = int(ENCODINGS["uint8-bound20"].encode(np.array([value], np.float32))[0])
    exact = (np.clip(value, -20, 20) + 20) * 255 / 40
    assert abs(code - exact) <= 0.5 + 1e-4


def test_the_convention_decodes_zero_to_half_a_step() -> None:
    assert round_trip(ENCODINGS["uint8-bound20"], 0.0)[0] == pytest.approx(20 / 255)


@pytest.mark.parametrize("encoding", EIGHT_BITS, ids=lambda encoding: encoding.name)
@given(value=finite)
def test_every_value_takes_the_nearest_level(encoding: Encoding, value: float) -> None:
    levels = encoding.levels[~np.isnan(encoding.levels)]
    error = abs(float(round_trip(encoding, value)[0]) - value)
    assert error == pytest.approx(abs(nearest_level(value, levels) - value), abs=1e-5)


@pytest.mark.parametrize("code", [127, 140, 190])
def test_halfway_between_levels_the_smaller_magnitude_is_taken(code: int) -> None:
    a, b = (float(level) for level in DEFAULT.levels[code : code + 2])
    assert round_trip(DEFAULT, (a + b) / 2, -(a + b) / 2).tolist() == [a, -a]
    assert float(round_trip(DEFAULT, (a + b) / 2 + 1e-4)[0]) == b


@EACH
@given(value=finite)
def test_error_is_within_the_encoding_s_bound(encoding: Encoding, value: float) -> None:
    decoded, size = float(round_trip(encoding, value)[0]), min(abs(value), encoding.bound)
    bounds = {
        "companded8": max(0.0626, 0.0175 * size),  # steps grow by 3.36 %
        "uint8-bound20": 0.0785,
        "int16": 1 / 64 + 1e-6,
        "float16": max(2.0**-24, size * 2.0**-11),
    }
    assert abs(decoded - np.clip(value, -encoding.bound, encoding.bound)) <= bounds[encoding.name]


@EACH
@given(value=finite.filter(lambda value: value != 0))
def test_mirrored_flow_comes_back_mirrored(encoding: Encoding, value: float) -> None:
    plus, minus = round_trip(encoding, value, -value)
    assert plus == pytest.approx(-minus, abs=1e-5)


@EACH
def test_what_is_beyond_the_bound_takes_the_last_level(encoding: Encoding) -> None:
    far = np.array([1e30, -1e30, 3e38, -3e38, encoding.bound, -encoding.bound], np.float32)
    np.testing.assert_allclose(np.abs(round_trip(encoding, *far)), encoding.bound, rtol=1e-6)


@pytest.mark.parametrize("name", ["companded8", "int16"])
def test_the_missing_code_is_never_written(name: str) -> None:
    values = np.concatenate(
        [np.linspace(-1e6, 1e6, 100_001), np.linspace(-70, 70, 100_001)]
    ).astype(np.float32)
    assert not (ENCODINGS[name].encode(values) == ENCODINGS[name].missing).any()


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(encoding: Encoding, bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        encoding.encode(np.array([0, bad], np.float32))


@EACH
def test_codes_keep_the_shape_of_any_flow(encoding: Encoding) -> None:
    flow = np.random.default_rng(0).normal(0, 5, (3, 2, 7, 10)).astype(np.float32)
    np.testing.assert_array_equal(
        encoding.encode(flow[::2, :, ::-1, 1:]), encoding.encode(flow)[::2, :, ::-1, 1:]
    )
    assert encoding.encode(flow[:0]).shape == (0, 2, 7, 10)
    assert encoding.encode(flow).dtype == encoding.dtype


@EACH
def test_json_round_trip(encoding: Encoding) -> None:
    assert encoding_from_json(encoding.to_json()) is encoding
    assert encoding_by_name(encoding.name) is encoding


def test_unknown_encodings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown to this release, which has companded8"):
        encoding_from_json({"name": "companded8", "step": 0.1, "linear_limit": 8.0, "bound": 64.0})
    with pytest.raises(
        ValueError, match="encoding='uint8' is unknown; choose one of companded8, uint8-bound20"
    ):
        encoding_by_name("uint8")
