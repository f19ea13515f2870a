from hypothesis import given
from hypothesis import strategies as st

from flowcpc.stores import layout

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=300)


@given(ids)
def test_a_key_is_a_plain_file_name(video_id: str) -> None:
    key = layout.video_key(video_id)
    assert 0 < len(key.encode()) <= layout.MAX_KEY_BYTES
    assert not set(key) & set("/\\\x00\n\x7f")
    assert key[0] not in ".-"


@given(ids, ids)
def test_different_ids_have_different_keys(first: str, second: str) -> None:
    if first != second:
        assert layout.video_key(first) != layout.video_key(second)


def test_escapes_cannot_be_imitated() -> None:
    assert layout.video_key("a/b") != layout.video_key("a%2Fb")
    long = "x" * 500
    assert layout.video_key(long) != layout.video_key(layout.video_key(long))


def test_paths_are_relative_and_spread() -> None:
    paths = {layout.generation_path(f"v_{n}", "0", "zarr").parts[1] for n in range(2000)}
    assert not layout.generation_path("/etc/passwd", "0", "hdf5").is_absolute()
    assert len(paths) > 200


def test_chunks_divide_shards_and_stay_small() -> None:
    for size in [(16, 16), (64, 86), (120, 160), (256, 342), (2160, 3840)]:
        count = layout.flows_per_chunk(*size)
        assert layout.FLOWS_PER_SHARD % count == 0
        assert count == 1 or count * 2 * size[0] * size[1] <= 32 * 1024


@given(ids, st.sampled_from(["zarr", "hdf5"]))
def test_a_generation_s_path_tells_its_record(video_id: str, array_format: str) -> None:
    path = layout.generation_path(video_id, "8c1f0a2b9d7e", array_format)
    name = layout.record_name(video_id)
    assert layout.record_and_generation(path) == (name, "8c1f0a2b9d7e")
