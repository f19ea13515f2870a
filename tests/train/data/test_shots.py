from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowcpc.pipeline.extraction.segmentation import find_shots
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.train.data.shots import pack_shots, shots_of


@given(
    shots=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(10, 20)), max_size=4),
        min_size=1,
        max_size=6,
    )
)
def test_packing_keeps_every_shot_of_every_video(shots: list[list[tuple[int, int]]]) -> None:
    packed = pack_shots(shots)
    for video, expected in enumerate(shots):
        rows = slice(packed.offsets[video], packed.offsets[video + 1])
        found = list(zip(packed.starts[rows].tolist(), packed.stops[rows].tolist(), strict=True))
        assert found == (expected or [(0, 1)])
        assert packed.longest[video] == max(stop - start for start, stop in found)


def test_no_video_at_all() -> None:
    assert pack_shots([]).longest.shape == (0,)


def commit_with_cuts(store: FlowStore, video_id: str, cuts: list[bool]) -> None:
    """Commit flow of as many flows, those in `cuts` across a cut."""
    from flowcpc.pipeline.extraction.segmentation import find_segments, frame_statistics

    flow = np.zeros((len(cuts), 2, 8, 8), np.float32)
    codes = store.encoding.encode(flow)
    frames = frame_statistics(flow, codes, store.encoding)
    frames |= {"time_s": [t / 25 for t in range(len(cuts))], "cut": cuts}
    shots = find_shots(frames, cuts)
    described = {"path": video_id, "label": None, "group": None, "folds": {}, "video_id": video_id}
    with store.write_video(video_id, (8, 8)) as writer:
        writer.append(codes)
        video = {"fps": 25.0, "decoded_frames": len(cuts) + 1}
        writer.commit(
            described, video, frames=frames, shots=shots, segments=find_segments(frames, shots)
        )


def test_shots_of_a_store_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    from flowcpc.stores.encoding import DEFAULT

    store = create_store(
        tmp_path / "cuts.flow", {"height": 8, "width": 8, "encoding": DEFAULT.to_json()}
    )
    commit_with_cuts(store, "a", [False] * 5)
    commit_with_cuts(store, "b", [False, False, True, False, False, False, True])
    commit_with_cuts(store, "only cuts", [True, True])
    shots = shots_of(store.shots(), ["b", "only cuts", "a"])
    assert shots.offsets.tolist() == [0, 2, 3, 4]
    assert shots.starts.tolist() == [0, 3, 0, 0]
    assert shots.stops.tolist() == [2, 6, 1, 5]
