"""The embeddings of a run in a report: a map of its test videos, and their nearest neighbours."""

from typing import Any, TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.inspection.pictures import fitting_scale, flow_to_rgb, wheel
from flowcpc.train.report.figures import COLOURS, Chart, class_cloud, picture_uri
from flowcpc.train.report.runs import Run

_PERPLEXITY = 30
_QUERIES, _NEIGHBOURS = 6, 5
_THUMBNAIL, _WHEEL = 160, 96  # px
_SEED = 0


class Search(TypedDict):
    """Test videos, each followed by its nearest training videos: pictures of their flow.

    `first_right` and `chance` are shares of all `tests` videos whose nearest of the `gallery`, or a
    random one, has their class; full colour is a flow of `speed` px per frame.
    """

    run: Run
    queries: list[list[dict[str, Any]]]  # video_id, label, picture; of neighbours similarity, right
    speed: float
    wheel: str
    first_right: float
    chance: float
    tests: int
    gallery: int


def class_map(run: Run, rows: pd.DataFrame, vectors: NDArray[np.float32]) -> Chart | None:
    """Return t-SNE of the test videos of ten classes (of all videos where none is a test video).

    The classes are evenly spread over the alphabet: the paper does not say which ten its figure 2
    shows. The seed is fixed. Returns None for fewer than four videos.
    """
    split = "videos"
    if "split" in rows and (rows["split"] == "test").any():
        tested = (rows["split"] == "test").to_numpy()
        rows, vectors, split = rows[tested], vectors[tested], "test videos"
    known = sorted(rows["label"].unique())
    classes = [known[place] for place in _evenly(len(known), COLOURS)]
    shown = rows["label"].isin(classes).to_numpy()
    count = int(shown.sum())
    if count < 4:
        return None
    from sklearn.manifold import TSNE  # takes a second to load

    tsne = TSNE(perplexity=min(_PERPLEXITY, (count - 1) / 3), init="pca", random_state=_SEED)
    positions = tsne.fit_transform(vectors[shown]).astype(float)
    members = pd.Categorical(rows["label"][shown], categories=classes).codes
    of_all = f"{len(classes)} of " if len(classes) < len(known) else ""
    svg = class_cloud(f"map-{run.colour}", classes, members, positions)
    summary = f"t-SNE of {count} {split} of {of_all}{len(known)} classes."
    return Chart(run.name, summary, svg, run.colour)


def search(
    store: FlowStore, run: Run, rows: pd.DataFrame, vectors: NDArray[np.float32]
) -> Search | None:
    """Return one test video of each of some classes, and the training videos nearest by cosine.

    Returns None where the store has no embedded test videos, or no embedded training videos.
    """
    if "split" not in rows:
        return None
    stored = rows["video_id"].isin(store.videos(["video_id"])["video_id"])
    tests, gallery = (
        np.flatnonzero((rows["split"] == split) & stored) for split in ("test", "train")
    )
    if not len(tests) or not len(gallery):
        return None
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = unit[tests] @ unit[gallery].T  # (tests, gallery)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :_NEIGHBOURS]
    labels = rows["label"].to_numpy()
    same_class = labels[tests][:, None] == labels[gallery]  # (tests, gallery)

    of_class = pd.Series(labels[tests]).drop_duplicates().sort_values()
    queries = [int(of_class.index[place]) for place in _evenly(len(of_class), _QUERIES)]
    shown = {int(row) for query in queries for row in (tests[query], *gallery[order[query]])}
    flows = {row: _middle_flow(store, str(rows["video_id"][row])) for row in sorted(shown)}
    speed = fitting_scale(list(flows.values()))

    def thumbnail(row: int, **neighbour: object) -> dict[str, Any]:
        picture = picture_uri(flow_to_rgb(flows[row], speed), _THUMBNAIL)
        video = {"video_id": str(rows["video_id"][row]), "label": str(labels[row])}
        return {**video, "picture": picture, **neighbour}

    films = []
    for query in queries:
        films.append([thumbnail(tests[query])])
        for near in order[query]:
            found = {"similarity": similarity[query, near], "right": same_class[query, near]}
            films[-1].append(thumbnail(gallery[near], **found))
    return {
        "run": run,
        "queries": films,
        "speed": speed,
        "wheel": picture_uri(wheel(_WHEEL), _WHEEL),
        "first_right": float(same_class[np.arange(len(tests)), order[:, 0]].mean()),
        "chance": float(same_class.mean()),
        "tests": len(tests),
        "gallery": len(gallery),
    }


def _middle_flow(store: FlowStore, video_id: str) -> NDArray[np.float32]:
    middle = (store.open_video(video_id).shape[0] - 1) // 2
    flow: NDArray[np.float32] = store.read_flow(video_id, middle, middle + 1)[0]
    return flow


def _evenly(number: int, most: int) -> list[int]:
    return [int(place) for place in np.rint(np.linspace(0, number - 1, min(most, number)))]
