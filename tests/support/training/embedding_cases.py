"""Embeddings that tests put into a store without an encoder, and a run that has one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from builders import commit_flow
from numpy.typing import NDArray
from train_cases import CONFIG, small_store

from flowcpc.stores.embedding_parts import EMBEDDING, opened_parts
from flowcpc.stores.embeddings import embeddings_home, vectors_to_arrow
from flowcpc.stores.encoding import DEFAULT
from flowcpc.stores.flow_store import FlowStore, create_store
from flowcpc.stores.layout import WHOLE_VIDEO
from flowcpc.train.pretraining.loop import pretrain


def put_embeddings(
    store: FlowStore,
    run: str,
    vectors: NDArray[np.float32],
    *,
    config: str = "abc",
    weights: str = "w1",
    videos: Sequence[str] | None = None,
    finish: bool = True,
) -> Path:
    """Write embeddings of the first videos of `store`, or of `videos`; return the folder.

    Each video has a row with its vector, and its first flow has a row with the negative.
    """
    table = store.videos().set_index("video_id")
    ids = table.index.tolist()[: len(vectors)] if videos is None else list(videos)
    size = vectors.shape[1]
    about = {
        "run": run,
        "config": config,
        "weights": weights,
        "step": 7,
        "fold": 1,
        "num_flows": 10,
        "size": size,
    }
    folder = embeddings_home(store, Path(run)) / f"{run}-{config}"
    with opened_parts(folder, about, table.index.tolist()) as writer:
        writer.begin()
        for video_id, vector in zip(ids, vectors, strict=True):
            rows = {
                "run": [run] * 2,
                "video_id": [video_id] * 2,
                "start": [WHOLE_VIDEO, 0],
                "stop": [int(table["flows"][video_id]), 1],
                "generation": [table["generation"][video_id]] * 2,
                "step": [7] * 2,
                EMBEDDING: vectors_to_arrow(np.stack([vector, -vector])),
            }
            writer.add(writer.part_of(video_id), pa.table(rows))
        if finish:
            writer.finish()
    return folder


def make_trained_run(folder: Path) -> Path:
    """Return a run in `folder`, trained on a small store beside it."""

    def make(
        tmp_path: Path, videos: dict, labels: dict, groups: dict, folds: dict, with_frames: bool
    ) -> Path:
        made = create_store(
            tmp_path / "store.flow", {"height": 18, "width": 20, "encoding": DEFAULT.to_json()}
        )
        for name, flow in videos.items():
            commit_flow(made, name, flow, label=labels[name], group=groups[name], folds=folds[name])
        return made.path

    pretrain(small_store(folder, make), folder / "run", CONFIG)
    return folder / "run"
