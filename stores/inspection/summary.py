"""What is in a store, for `flowcpc info`."""

import dataclasses
from typing import Any

import pandas as pd

from flowcpc.stores.base.errors import counted
from flowcpc.stores.flow_store import FlowStore
from flowcpc.stores.inspection.tables import as_records

_MOST_SIZES = 4


@dataclasses.dataclass(frozen=True)
class StoreSummary:
    """Counts over one store."""

    path: str
    array_format: str
    numerics: dict[str, Any]
    videos: int
    flows: int
    bytes: int  # of all files of its videos
    frame_bytes: int  # of these, of their frames
    failures: int
    miscounted: int
    sizes: dict[str, int]  # number of videos of each size, the most frequent first
    by_class: pd.DataFrame  # a row per label, a column per split of each fold
    embeddings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {**vars(self), "by_class": as_records(self.by_class.reset_index())}

    def to_text(self) -> str:
        """Return the summary as lines for people."""
        numerics = self.numerics
        source = f"profile {numerics.get('tvl1', {}).get('profile')}"
        if "imported" in numerics:
            source = "imported from {layout} (bound {bound:g} px)".format(**numerics["imported"])
        miscounted = "decoded to another number of frames than the header says"
        lines = [
            f"store      {self.path}",
            f"flow       {self._size_text()}, {numerics['encoding']['name']}, "
            f"{self.array_format}, {source}",
            f"videos     {self.videos} with {counted(self.flows, 'flow')} in "
            f"{_size_of_parts(self.bytes - self.frame_bytes, self.flows, 'flow')}",
            f"failures   {counted(self.failures, 'video of the data set')} without flow",
            f"miscounted {counted(self.miscounted, 'video')} {miscounted}",
            f"embeddings {', '.join(self.embeddings) or 'none'}",
        ]
        if "frames" in numerics:
            frames = self.flows + self.videos
            codec = "({codec}, quality {quality}, {subsampling})".format(**numerics["frames"])
            size = _size_of_parts(self.frame_bytes, frames, "frame")
            lines.insert(3, f"frames     {counted(frames, 'frame')} {codec} in {size}")
        if len(self.by_class):
            lines += ["", self.by_class.to_string()]
        return "\n".join(lines)

    def _size_text(self) -> str:
        """Return the size of flow: one size, or the shorter side and the most frequent sizes."""
        if "short_side" not in self.numerics:
            return f"{self.numerics['height']}x{self.numerics['width']} px"
        sizes = [f"{size} ({count})" for size, count in self.sizes.items()]
        if len(sizes) > _MOST_SIZES:
            sizes[_MOST_SIZES:] = [f"{len(sizes) - _MOST_SIZES} more"]
        return f"shorter side {self.numerics['short_side']} px: {', '.join(sizes) or 'no video'}"


def _size_of_parts(size: int, parts: int, noun: str) -> str:
    return f"{size / 1e6:.3g} MB" + (f" ({size / parts / 1e3:.3g} KB per {noun})" if parts else "")


def summarise(store: FlowStore) -> StoreSummary:
    """Return counts over `store`."""
    tables = store.tables("videos", "failures")
    videos = tables["videos"]
    sums = videos.reindex(columns=["flows", "bytes", "frame_bytes"]).sum()
    by_class = [videos.groupby("label", dropna=False).size().to_frame("videos")]
    for fold in videos.columns[videos.columns.str.startswith("fold")]:
        by_class.append(pd.crosstab(videos["label"], videos[fold]).add_prefix(f"{fold} "))
    sides = videos.reindex(columns=["height", "width"]).astype(str)
    sizes = (sides["height"] + "x" + sides["width"]).value_counts()
    as_header = videos.reindex(columns=["decoded_is_header"])["decoded_is_header"]
    folder = store.path / "embeddings"
    return StoreSummary(
        path=str(store.path),
        array_format=store.array_format,
        numerics=store.numerics,
        videos=len(videos),
        flows=int(sums["flows"]),
        bytes=int(sums["bytes"]),
        frame_bytes=int(sums["frame_bytes"]),
        failures=len(tables["failures"]),
        miscounted=int((as_header == False).sum()),  # noqa: E712  (None counts as right)
        sizes={str(size): count for size, count in sizes.items()},
        by_class=pd.concat(by_class, axis=1).fillna(0).astype(int).rename_axis("label"),
        embeddings=sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [],
    )
