"""What a report shows of a store: its health, and the embeddings of its videos as a map and as nearest neighbours."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flowcpc.stores.base.plurals import counted
from flowcpc.stores.embeddings import read_embeddings
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.inspection.pictures import fitting_scale, flow_to_rgb, wheel
from flowcpc.train.data.shots import shots_of
from flowcpc.train.report.figures import Cloud, cloud, picture_uri
from flowcpc.train.report.runs import Run
from flowcpc.train.settings.config import PretrainConfig

MAP_CLASSES = 10  # of the paper's figure 2
_PERPLEXITY = 30
_QUERIES, _NEIGHBOURS = 6, 5
THUMBNAIL = 160  # px
_MOST_NAMED = 40
_SEED = 0


@dataclass(frozen=True)
class Thumbnail:
    """A video as a thumbnail shows it: flow in the middle of it; `right` says whether a neighbour is of the query's class."""

    video_id: str
    label: str
    picture: str
    similarity: float = 1.0
    right: bool = True


@dataclass(frozen=True)
class Neighbours:
    """A test video and the training videos whose embeddings are most similar to its own."""

    query: Thumbnail
    found: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class Search:
    """Some queries, `speed` px per frame of full colour, the colour wheel as a picture, and how many test videos find their own class first."""

    queries: tuple[Neighbours, ...]
    speed: float
    wheel: str
    first_right: float
    chance: float
    tests: int
    gallery: int


@dataclass(frozen=True)
class Names:
    """How many videos something is true of, and the names of some of them with a remark each."""

    count: int
    total: int
    some: tuple[tuple[str, str], ...]

    @property
    def more(self) -> int:
        """Videos that are not named."""
        return self.count - len(self.some)


@dataclass(frozen=True)
class Reason:
    """Videos without flow for one reason."""

    kind: str
    reason: str
    count: int
    some: str


@dataclass(frozen=True)
class Short:
    """Videos of which no shot has the `span` flows of a run's sequence at its smallest stride; how many lack the `widest`, of its largest one."""

    run: str
    span: int
    names: Names
    widest: int
    narrowed: int


@dataclass(frozen=True)
class Health:
    """What is wrong with the videos of a store."""

    path: str
    videos: int
    flows: int
    classes: int
    shortest: int
    median: int
    longest: int
    reasons: tuple[Reason, ...]
    failed: int
    short: tuple[Short, ...]
    miscounted: Names


def health(store: FlowStore, runs: Sequence[Run]) -> Health:
    """Return which videos failed, are shorter between cuts than the sequences of `runs`, or decode to another number of frames than announced."""
    tables = store.tables("videos", "failures", "shots")
    videos, failures = tables["videos"], tables["failures"]
    groups: dict[tuple[str, str], list[str]] = {}
    for kind, reason, video_id in zip(
        failures["kind"], failures["reason"], failures["video_id"], strict=True
    ):
        groups.setdefault((str(kind), str(reason)), []).append(str(video_id))
    reasons = [
        Reason(kind, reason, len(names), ", ".join(names[:3]) + (" ..." if len(names) > 3 else ""))
        for (kind, reason), names in groups.items()
    ]
    short = []
    longest = shots_of(tables["shots"], videos["video_id"].tolist()).longest
    shots = videos[["video_id"]].assign(longest=longest).sort_values(["longest", "video_id"])
    for run in runs:
        if run.config is not None:
            span = run.config.shortest_span
            widest = (
                run.config.num_flows + (run.config.num_segments - 1) * asked_strides(run.config)[1]
            )
            rows = shots[shots["longest"] < span]
            names = _named(rows, len(videos), lambda row: counted(row["longest"], "flow"))
            short.append(Short(run.name, span, names, widest, int((longest < widest).sum())))
    wrong = (
        videos[~videos["decoded_is_header"].astype(bool)]
        if "decoded_is_header" in videos
        else videos[:0]
    )
    lengths = videos["flows"] if len(videos) else pd.Series([0])
    return Health(
        path=store.path.resolve().name,
        videos=len(videos),
        flows=int(videos["flows"].sum()),
        classes=videos["label"].nunique(),
        shortest=int(lengths.min()),
        median=int(lengths.median()),
        longest=int(lengths.max()),
        reasons=tuple(sorted(reasons, key=lambda one: -one.count)),
        failed=len(failures),
        short=tuple(short),
        miscounted=_named(wrong, len(videos), _frames),
    )


def asked_strides(config: PretrainConfig) -> tuple[int, int]:
    """Return the smallest and the largest stride that a run's selection asks for, flows."""
    fixed = {"spaced": config.spacing, "overlap": -config.spacing}.get(config.selection)
    low = config.num_flows + (fixed or 0)
    return (
        low,
        low if fixed is not None or config.selection == "consecutive" else low + config.spacing,
    )


def whole_videos(store: FlowStore, run: Run) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Return (rows, vectors) of the embeddings of whole labelled videos; raises as flowcpc.stores.embeddings.read_embeddings where they cannot be had."""
    rows, vectors = read_embeddings(store, run.path, level="video")
    chosen = rows["label"].notna().to_numpy()
    return rows[chosen].reset_index(drop=True), vectors[chosen]


def class_map(rows: pd.DataFrame, vectors: NDArray[np.float32]) -> Cloud | None:
    """Return t-SNE of the test videos (all where there are none) of ten classes, evenly spread over the alphabet; None where they are too few.

    The paper's figure 2; it does not say which ten classes. The seed is fixed, so the same embeddings give the same picture.
    """
    if "split" in rows and (rows["split"] == "test").any():
        tested = (rows["split"] == "test").to_numpy()
        rows, vectors, which = rows[tested].reset_index(drop=True), vectors[tested], "test videos"
    else:
        which = "videos"
    known = sorted(rows["label"].unique())
    classes = [known[place] for place in _evenly(len(known), MAP_CLASSES)]
    chosen = rows["label"].isin(classes).to_numpy()
    if chosen.sum() < 4:
        return None
    from sklearn.manifold import TSNE  # takes a second to load

    perplexity = min(_PERPLEXITY, (int(chosen.sum()) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(
        vectors[chosen]
    )
    members = np.array([classes.index(label) for label in rows["label"][chosen]])
    among = (
        f"{len(classes)} of {len(known)} classes"
        if len(known) > len(classes)
        else f"{len(classes)} classes"
    )
    return cloud(
        classes,
        members,
        places.astype(np.float64),
        f"t-SNE of {int(chosen.sum())} {which} of {among}.",
    )


def neighbours(store: FlowStore, rows: pd.DataFrame, vectors: NDArray[np.float32]) -> Search | None:
    """Return test videos, one of each of some classes, with the training videos nearest by cosine; None where a split is empty."""
    if "split" not in rows:
        return None
    stored = set(store.videos(["video_id"])["video_id"])
    here = rows["video_id"].isin(stored).to_numpy()
    tests = np.flatnonzero((rows["split"] == "test").to_numpy() & here)
    gallery = np.flatnonzero((rows["split"] == "train").to_numpy() & here)
    if not len(tests) or not len(gallery):
        return None
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    likeness = unit[tests] @ unit[gallery].T  # (tests, gallery)
    order = np.argsort(-likeness, axis=1, kind="stable")[:, :_NEIGHBOURS]
    labels = rows["label"].to_numpy()
    firsts = labels[gallery[order[:, 0]]] == labels[tests]
    own = Counter(labels[gallery].tolist())
    chance = float(np.mean([own[label] / len(gallery) for label in labels[tests]]))

    of_class = pd.Series(labels[tests]).drop_duplicates().sort_values()
    queries = [int(of_class.index[place]) for place in _evenly(len(of_class), _QUERIES)]
    used = {int(tests[query]) for query in queries} | {
        int(gallery[place]) for query in queries for place in order[query]
    }
    flows = {row: _middle_flow(store, str(rows["video_id"][row])) for row in sorted(used)}
    speed = fitting_scale(list(flows.values()))

    def video(row: int, similarity: float = 1.0, right: bool = True) -> Thumbnail:
        picture = picture_uri(flow_to_rgb(flows[row], speed), THUMBNAIL)
        return Thumbnail(str(rows["video_id"][row]), str(labels[row]), picture, similarity, right)

    found = []
    for query in queries:
        near = [
            video(
                int(gallery[place]),
                float(likeness[query, place]),
                bool(labels[gallery[place]] == labels[tests[query]]),
            )
            for place in order[query]
        ]
        found.append(Neighbours(video(int(tests[query])), tuple(near)))
    return Search(
        tuple(found),
        speed,
        picture_uri(wheel(96), 96),
        float(firsts.mean()),
        chance,
        len(tests),
        len(gallery),
    )


def _middle_flow(store: FlowStore, video_id: str) -> NDArray[np.float32]:
    middle = (store.open_video(video_id).shape[0] - 1) // 2
    flow: NDArray[np.float32] = store.read_flow(video_id, middle, middle + 1)[0]
    return flow


def _evenly(number: int, most: int) -> list[int]:
    return [int(place) for place in np.rint(np.linspace(0, number - 1, min(most, number)))]


def _named(rows: pd.DataFrame, total: int, remark: Callable[["pd.Series[Any]"], str]) -> Names:
    some = [(str(row["video_id"]), remark(row)) for _, row in rows.head(_MOST_NAMED).iterrows()]
    return Names(len(rows), total, tuple(some))


def _frames(row: "pd.Series[Any]") -> str:
    header = row.get("header_frames")
    claimed = "no number" if header is None or pd.isna(header) else f"{int(header)}"
    return f"{int(row['decoded_frames'])} decoded, header says {claimed}"
